"""Records of many rows: what run.json notes, what is read and kept, and the same answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agr.config.cell import Cell
from agr.config.compose import expand
from agr.evaluation.runner import run_cell
from agr.records import audit, blocks
from agr.records.audit import check_records
from agr.records.held import held_by, positions_of, ranges_of
from agr.records.part_files import PartFile
from agr.records.progress import progress
from agr.records.schema import ROWS
from agr.records.store import Records, _digest
from agr.report import frames
from agr.report.rates import rates_and_sizes
from agr.report.tables import write_tables
from agr.utils.files import write_json, write_named
from scripts.bench import records as madeup
from tests.conftest import demo_cell

N = 60
Change = Callable[[pd.DataFrame], pd.DataFrame]
SWEEP = ("experiment=paper", "source=inc_v3,vgg16", f"n_images={N}")


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Cell]:
    monkeypatch.setattr(madeup, "IMAGES_IN_PART", 16)
    found = expand([*SWEEP, f"outputs={tmp_path}"])
    for cell in found:
        madeup.fill(cell, N)
    return found


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of each part that is read."""
    rows: list[int] = []
    original = PartFile.read

    def counting(self: PartFile, columns: list[str], **how: Any) -> pa.Table:
        table = original(self, columns, **how)
        rows.append(len(table))
        return table

    monkeypatch.setattr(PartFile, "read", counting)
    return rows


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    yield
    frames._kept.clear()
    frames._noted.clear()


def rewritten(records: Records, change: Change) -> None:
    """Change the rows of the last part, as if they had been written so."""
    part = records.part_files("rows")[-1]
    table = pq.read_table(part.path)
    frame = change(table.to_pandas(types_mapper={pa.int32(): pd.Int32Dtype()}.get))
    schema = pa.schema([field for field in ROWS if field.name in frame])
    changed = pa.Table.from_pandas(frame, schema, preserve_index=False)
    sink = pa.BufferOutputStream()
    pq.write_table(changed.replace_schema_metadata(table.schema.metadata), sink)
    part.path.unlink()
    stem = part.path.stem.rpartition("-")[0]
    write_named(part.path.parent, stem, ".parquet", sink.getvalue().to_pybytes())


# ---- what run.json notes -------------------------------------------------------------------------


@pytest.mark.parametrize("positions", [[], [0], [3, 1, 2], [0, 1, 5, 7, 8], [2**31 - 1]])
def test_positions_as_text(positions: list[int]) -> None:
    assert positions_of(ranges_of(positions), 2**31) == {*positions}
    assert ranges_of([0, 1, 2, 5]) == "0-2,5"
    assert positions_of("0-999999999999,4", 3) == {0, 1, 2}


@pytest.mark.slow
def test_what_is_done_is_known_without_the_rows(cells: list[Cell], read: list[int]) -> None:
    records = Records(cells[0].folder)
    assert progress(cells[0], records)[:2] == ("done", 0)
    assert not read
    part = records.part_files("rows")[1]
    content = part.path.read_bytes()
    part.path.write_bytes(content[:-1] + b"x")
    assert progress(cells[0], records).word == "damaged"
    part.path.unlink()
    assert progress(cells[0], records).word == f"16 of {N} left"  # the note is of other files
    assert read


@pytest.mark.slow
@pytest.mark.parametrize("held", ["gone", "of other parts", "nonsense"])
def test_without_a_note_the_rows_are_read(cells: list[Cell], read: list[int], held: str) -> None:
    """Also in a run.json of an earlier version, which has no such key."""
    records = Records(cells[0].folder)
    content = json.loads(records.run_file.read_text())
    del content["digest"]
    if held == "gone":
        del content["held"]
    else:
        content["held"] |= {"parts": "x"} if held == "of other parts" else {"trace": "0-x"}
    write_json(records.run_file, content | {"digest": _digest(content)})
    assert progress(cells[0], records).word == "done"
    assert len(read) == len(records.part_files("rows"))


def test_a_run_notes_what_its_parts_hold(tmp_path: Path, read: list[int]) -> None:
    own = ("source=vgg16", "targets=[vgg16]", "attack=ifgsm_stop", "n_images=4", "progress=false")
    extras = ("trace=true",)
    for shard in ("0/2", "1/2"):
        records = run_cell(demo_cell(tmp_path, *own, *extras, f"shard={shard}"))
    run = records.run()
    assert run is not None
    assert run.held == held_by(records)
    assert (run.held.rows, run.held.trace) == ({"vgg16": "0-3"}, "0-3")
    read.clear()
    assert progress(demo_cell(tmp_path, *own, *extras), records).word == "done"
    assert not read


def test_a_note_that_lies_is_found(cells: list[Cell]) -> None:
    records = Records(cells[0].folder)

    def lie(run: Any) -> None:
        run.held.rows["inc_v3"] = f"0-{N}"

    records.update_run(lie)
    assert check_records(records).problems == [
        "run.json says that other positions are there than there are"
    ]


# ---- tables --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_tables_keep_few_rows_and_are_the_same(
    cells: list[Cell], read: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for cell in cells:  # all in memory
        assert frames.selected(cell) is not None
    whole = [path.read_bytes() for path in write_tables(cells, tmp_path / "whole")]
    frames._kept.clear()
    frames._noted.clear()
    read.clear()
    monkeypatch.setattr(frames, "ROWS_IN_PASSING", 0)
    assert [path.read_bytes() for path in write_tables(cells, tmp_path / "few")] == whole
    assert sum(read) == sum(N * len(cell.targets) for cell in cells)  # every row once
    assert not frames._kept


def test_counted_rows_are_forgotten_with_their_frame(cells: list[Cell]) -> None:
    frame = frames.selected(cells[0], in_passing=True)
    assert frame is not None
    once = frames.counted_rows(frame, "inc_v3", "all")
    assert frames.counted_rows(frame, "inc_v3", "all") is once
    place = id(frame)
    assert place in frames._counted
    frames._kept.clear()
    del frame
    assert place not in frames._counted


@pytest.mark.slow
@pytest.mark.parametrize("denominator", ["all", "target-correct", "all-correct"])
def test_rates_are_those_of_plain_pandas(cells: list[Cell], denominator: str) -> None:
    words = [*SWEEP, f"outputs={cells[0].config.outputs}", f"denominator={denominator}"]
    rows = rates_and_sizes(expand(words))[0].to_dict("records")
    folders = [cell.folder for cell in cells for _ in cell.targets]
    for row, folder in zip(rows, folders, strict=True):
        plain = pd.read_parquet(folder)
        right = plain["clean_pred"] == plain["label"]
        if denominator == "all-correct":
            right &= plain["source_clean_pred"] == plain["label"]
            right = right.groupby(plain["position"]).transform("all")
        own = plain[(plain["target"] == row["target"]) & (right | (denominator == "all"))]
        assert (row["n"], row["successes"]) == (len(own), own["success"].sum())


def test_a_part_that_lacks_a_column_is_read(cells: list[Cell]) -> None:
    """As an unknown value; `agr.verify` names the part."""
    records = Records(cells[0].folder)
    rewritten(records, lambda frame: frame.drop(columns="lpips"))
    assert len(records.read("rows", ["lpips"])) == 3 * N
    assert "other columns" in check_records(records).problems[0]


# ---- the audit -----------------------------------------------------------------------------------


def nothing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame


def another_success(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(success=frame["success"] ^ (frame.index == 0))


def an_image_again(frame: pd.DataFrame) -> pd.DataFrame:
    names = frame["image_id"]
    return frame.assign(image_id=names.replace(names.iloc[-1], "ILSVRC2012_val_00000000"))


def a_row_is_missing(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.iloc[1:]


@pytest.mark.slow
@pytest.mark.parametrize("change", [nothing, another_success, an_image_again, a_row_is_missing])
def test_an_audit_in_blocks_finds_the_same(
    cells: list[Cell],
    change: Change,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    records = Records(cells[0].folder)
    rewritten(records, change)
    whole = check_records(records)
    largest: list[int] = []
    original = audit._check_block

    def counting(*arguments: Any) -> None:
        largest.append(len(arguments[4]["rows"]))
        original(*arguments)

    monkeypatch.setattr(audit, "_check_block", counting)
    monkeypatch.setattr(blocks, "ROWS_AT_ONCE", 30)
    found = check_records(records)
    assert max(largest) <= 30
    assert len(largest) == 6  # of 180 rows
    assert bool(whole.problems) is (change is not nothing)
    assert found == whole


def test_blocks_are_all_positions() -> None:
    part = PartFile(Path("x"), "rows", "0of1", 0)
    for rows, high, images in ((0, 0, 5), (10**6, 10**4, 10**9), (10**6, 2**31 - 1, 50), (7, 3, 4)):
        found = [*blocks.blocks([blocks.Extent(part, rows, 0, high)], images)]
        edges = np.array(found)
        assert (edges[1:, 0] == edges[:-1, 1]).all()
        assert (edges[0, 0], edges[-1, 1]) == blocks.ALL
        assert len(found) <= 1 + rows // blocks.ROWS_AT_ONCE
