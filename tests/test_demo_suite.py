"""What the demo suite promises of its networks, measured by the pipeline itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.config.schema import Geometry
from agr.evaluation.inputs import find_images
from agr.evaluation.provenance import open_evaluator
from agr.evaluation.runner import run_cell
from agr.models import roles
from agr.models.loading import load_body
from agr.records.store import Records

MODERN = ["res50", "dense121", "vit", "swin", "convnext"]
WORDS = ["norm=linf", "n_images=60", "progress=false"]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """I-FGSM and MI-FGSM at L-inf 10 from every source on its group, 60 images each."""
    outputs = f"outputs={tmp_path_factory.mktemp('demo')}"
    words = ["experiment=paper", "attack=ifgsm,mifgsm", outputs, *WORDS]
    return pd.concat([run_cell(cell).read("rows") for cell in expand(words)])


@pytest.fixture(scope="module")
def modern(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """I-FGSM and MI-FGSM at L-inf 10 between the five later networks, 16 images each."""
    outputs = f"outputs={tmp_path_factory.mktemp('modern')}"
    words = [f"source={','.join(MODERN)}", "attack=ifgsm,mifgsm", outputs, *WORDS, "n_images=16"]
    cells = expand(words)
    assert all(cell.targets == MODERN for cell in cells)
    return pd.concat([run_cell(cell).read("rows") for cell in cells])


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


@pytest.mark.slow
def test_the_later_networks_transfer_too(modern: pd.DataFrame) -> None:
    rates = 100 * modern.groupby(["attack", "source", "target"])["success"].mean()
    own = rates[[s == t for _, s, t in rates.index]]
    assert own.min() >= 90
    across = rates[[s != t for _, s, t in rates.index]]
    assert across["mifgsm"].mean() >= 20
    better = across["mifgsm"] - across["ifgsm"]
    assert (better >= 0).all()  # a few pairs are at 100 %
    assert (better > 0).mean() >= 0.7


def test_the_later_networks_are_used_where_they_are_asked_for() -> None:
    words = ["experiment=paper", "attack=ifgsm", "norm=linf"]
    sources = [cell.source for cell in expand(words)]
    assert len(sources) == 6
    assert not {*MODERN} & {*sources}
    every = expand([*words, "suite.groups.modern.extra=false"])
    assert [cell.source for cell in every] == [*sources, *MODERN]
    (cell,) = expand(["source=vgg16", "targets=${suite.groups.modern.networks}"])
    assert cell.targets == MODERN


@pytest.mark.parametrize(("name", "depth"), [("vit", 4), ("swin", 7)])
def test_attention_can_be_held(name: str, depth: int) -> None:
    """It is timm's own, and narrow only by the arguments of its constructor."""
    body = load_body(name, expand(["suite=demo"])[0].suite.networks[name])
    found = roles.attentions(body)
    assert len(found) == len(roles.mlps(body)) == depth
    assert {type(module).__module__.partition(".")[0] for module in found.values()} == {"timm"}
    for attribute in ("qkv", "proj", "attn_drop"):
        assert len(roles.children_of(found, attribute, body)) == depth
    maps = []
    with roles.unfused(roles.fused_attentions(body)):
        for module in roles.attention_maps(body).values():
            module.register_forward_hook(lambda *seen: maps.append(seen[-1]))
        body(torch.rand(2, 3, 64, 64))
    assert len(maps) == depth
    assert all(torch.allclose(m.sum(-1), torch.ones(())) for m in maps)


def right(cell: Cell, names: list[str]) -> dict[str, float]:
    """The share of every other image that each network has right, in the cell's geometry."""
    cell = replace(cell, config=replace(cell.config, targets=names))
    evaluator = open_evaluator(cell, Records(cell.folder))
    entries = find_images(cell).entries[::2]
    evaluator.ensure_clean_predictions(names, entries)
    assert not evaluator.images.bad
    return {
        name: sum(evaluator.clean_prediction(name, e.image_id).pred == e.label for e in entries)
        / len(entries)
        for name in names
    }


@pytest.mark.slow
def test_networks_are_right_at_their_size_and_at_the_other(tmp_path: Path) -> None:
    cells = expand([f"outputs={tmp_path}", "source=inc_v3,vgg16", *WORDS])
    assert [c.geometry for c in cells] == [
        Geometry(80, 1.0, "bicubic"), Geometry(64, 1.0, "bilinear"),
    ]  # fmt: skip
    assert len(find_images(cells[0]).entries) >= 1000
    six = [name for cell in cells for name in cell.group.networks]
    large, small = right(cells[0], six), right(cells[1], [*six, *MODERN])
    assert {*small} == {*cells[0].suite.networks}
    assert min(small[name] for name in MODERN) >= 0.90
    for name in six:
        own, other = (large, small) if name in cells[0].group.networks else (small, large)
        assert own[name] >= 0.90, name
        assert other[name] > own[name] - 0.05, name
