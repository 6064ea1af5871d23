"""docs/pandas.md: what it says of records is what other readers find."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from agr.config.compose import expand
from agr.evaluation.runner import run_cell
from agr.records.schema import TABLES
from agr.records.store import Records
from agr.report.rates import rates_and_sizes
from tests.pages import DOCS, blocks

PAGE = DOCS / "pandas.md"
WORDS = ["suite=demo", "source=inc_v3", "targets=[inc_v3,vgg16]", "steps=2", "progress=false"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished cells, one with everything a run can write, and marks of a failure."""
    place = tmp_path_factory.mktemp("pandas") / "outputs"
    for attack, n in (("agr", "n_images=4"), ("ifgsm", "n_images=6")):
        saved = [] if attack == "ifgsm" else ["trace=true", "save_adversarials=true"]
        (cell,) = expand([*WORDS, *saved, n, f"attack={attack}", f"outputs={place}"])
        run_cell(cell).note_failure("1/2", {"error": "of an earlier session"})
    return place


@pytest.fixture
def here(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(outputs.parent)
    return outputs


@pytest.mark.slow
def test_a_folder_reads_as_its_rows(outputs: Path) -> None:
    for folder in sorted(outputs.glob("demo/*-linf-*")):
        ours = Records(folder).read()
        theirs = pd.read_parquet(folder)
        assert list(theirs.columns) == TABLES["rows"].names
        pd.testing.assert_frame_equal(theirs, ours, check_dtype=False)
        (eps,) = theirs["eps_effective"].unique()
        assert theirs["linf"].between(1, eps).all()
        assert (theirs["linf"] % 1 == 0).all()  # in levels


@pytest.mark.slow
def test_the_examples_of_pandas(here: Path) -> None:
    names: dict[str, Any] = {}
    for text in blocks(PAGE, "python"):
        exec(text, names)
    assert len(names["one"]) == 4 * 2
    assert len(names["rows"]) == (4 + 6) * 2
    cells = [
        expand([*WORDS, n, f"attack={attack}", f"outputs={here}"])[0]
        for attack, n in (("agr", "n_images=4"), ("ifgsm", "n_images=6"))
    ]
    for row in rates_and_sizes(cells)[0].to_dict("records"):
        found = names["asr"].loc[(row["attack"], "linf", 10, "inc_v3"), row["target"]]
        assert found == pytest.approx(row["asr"])
    assert (names["won"] + names["lost"] <= 4).all()
    assert names["fooled"].loc[0] == 0
    assert np.abs(names["adversarial"].astype(int) - names["clean"]).max() <= 10


def test_the_example_of_duckdb(here: Path) -> None:
    (query,) = blocks(PAGE, "sql")
    found = duckdb.sql(query).df()
    rows = pd.read_parquet(sorted(here.glob("demo/*/rows-*.parquet")))
    black = rows[~rows["white_box"]]
    expected = (100 * black.groupby("attack")["success"].mean()).round(1).to_dict()
    assert dict(zip(found["attack"], found["asr"], strict=True)) == expected
    assert dict(zip(found["attack"], found["images"], strict=True)) == {"agr": 4, "ifgsm": 6}


def test_units_are_in_the_files(outputs: Path) -> None:
    found = pq.read_schema(next(outputs.glob("demo/*/rows-*.parquet")))
    for name in ("eps", "eps_effective", "linf", "l2", "mean_abs"):
        assert found.field(name).metadata[b"unit"] == b"levels (0-255)"
