"""What the demo suite promises of its networks, measured by the pipeline itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import Geometry
from agr.evaluation.inputs import find_images
from agr.evaluation.provenance import open_evaluator
from agr.evaluation.runner import run_cell
from agr.records.store import Records

WORDS = ["norm=linf", "n_images=60", "progress=false"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """I-FGSM and MI-FGSM at L-inf 10 from every source on its group, 60 images each."""
    outputs = f"outputs={tmp_path_factory.mktemp('demo')}"
    words = ["experiment=paper", "attack=ifgsm,mifgsm", outputs, *WORDS]
    return pd.concat([run_cell(cell).read("rows") for cell in expand(words)])


@pytest.mark.slow
def test_transfer_lies_in_its_range(rows: pd.DataFrame) -> None:
    rates = 100 * rows.groupby(["attack", "source", "target"])["success"].mean()
    assert len(rates) == 2 * 6 * 3
    own = rates[[s == t for _, s, t in rates.index]]
    assert own["ifgsm"].min() >= 95
    across = rates[[s != t for _, s, t in rates.index]]
    assert across["mifgsm"].between(20, 85).all()
    inception = across["ifgsm"].index.get_level_values("source").isin(["inc_v3", "inc_v4", "ir_v2"])
    assert across["ifgsm"][inception].mean() >= 10
    assert across["ifgsm"][~inception].mean() >= 10
    assert (across["mifgsm"] > across["ifgsm"]).all()


def right(cell: Cell) -> dict[str, float]:
    """The share of all shipped images that each network has right, in the cell's geometry."""
    every = list(cell.suite.networks)
    cell = replace(cell, config=replace(cell.config, targets=every))
    evaluator = open_evaluator(cell, Records(cell.folder))
    entries = find_images(cell).entries
    evaluator.ensure_clean_predictions(cell.suite.networks, entries)
    assert not evaluator.images.bad
    return {
        name: sum(evaluator.clean_prediction(name, e.image_id).pred == e.label for e in entries)
        / len(entries)
        for name in cell.suite.networks
    }


@pytest.mark.slow
def test_networks_are_right_at_their_size_and_at_the_other(tmp_path: Path) -> None:
    cells = expand([f"outputs={tmp_path}", "source=inc_v3,vgg16", *WORDS])
    assert [c.geometry for c in cells] == [
        Geometry(80, 1.0, "bicubic"), Geometry(64, 1.0, "bilinear"),
    ]  # fmt: skip
    assert len(find_images(cells[0]).entries) >= 1000
    large, small = (right(cell) for cell in cells)
    for name in large:
        own, other = (large, small) if name in cells[0].group.networks else (small, large)
        assert own[name] >= 0.90, name
        assert other[name] > own[name] - 0.05, name
