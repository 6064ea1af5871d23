"""An audit of one cell's records that shares no code with what wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from agr.config.cell import Cell
from agr.config.load import stored_cell
from agr.records.agreement import (
    abstaining,
    agreeing,
    iterated,
    of_the_source,
    saved,
    successful,
    traced,
)
from agr.records.blocks import ALL, Extent, Seen, blocks, read_block
from agr.records.folders import DAMAGED, folder_of
from agr.records.held import held_of
from agr.records.part_files import PartFile
from agr.records.pictures import pictured
from agr.records.run_info import RunInfo
from agr.records.schema import KEYS, TABLES
from agr.records.store import Records
from agr.records.values import CLASSES, faults
from agr.utils.errors import ConfigError, first_line
from agr.utils.files import is_whole

SHOWN = 5  # problems of one kind and cell that are listed
FACTS = 4096  # bytes, more than a row has beside pixels
SPARE = 1 << 16  # bytes of a part beside its values


@dataclass
class CellReport:
    """Findings of the audit of a cell."""

    name: str
    images: int = 0
    rows: int = 0
    parts: int = 0
    again: int = 0  # images crafted again
    rates: dict[str, float] = field(default_factory=dict)  # ASR in percent, by target
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, found: Iterable[str]) -> None:
        """Note problems of one kind, the first few by name."""
        problems = [problem for problem in found if problem not in self.problems]
        self.problems += problems[:SHOWN]
        if len(problems) > SHOWN:
            self.problems.append(f"… and {len(problems) - SHOWN} more such")


def check_records(records: Records) -> CellReport:
    """Check a cell's records as far as that needs no network."""
    report = CellReport(records.folder.name)
    try:
        run = records.run()
        if run is None:
            raise ConfigError("there is no run.json")
        cell = stored_cell(run.config, records.folder)
        _check(cell, run, records, report)
    except ConfigError as e:
        report.problems.append(first_line(e))
    except Exception as e:  # whoever can write records can write anything
        report.problems.append(f"its values cannot be checked: {type(e).__name__}: {first_line(e)}")
    return report


def _check(cell: Cell, run: RunInfo, records: Records, report: CellReport) -> None:
    extents: list[Extent] = []
    report.add(_files(cell, run, records, report, extents))
    if report.problems:
        return
    seen = Seen()
    for block in blocks(extents, _images(cell, run)):
        before = len(report.problems)
        raw = {kind: read_block(extents, kind, *block) for kind in TABLES}
        report.add(fault for kind, table in raw.items() for fault in faults(table, kind))
        tables = {kind: table.to_pandas() for kind, table in raw.items()}
        report.add(_values(cell, run, tables))
        if len(report.problems) > before:
            return
        _check_block(cell, run, records, report, tables, seen)
    report.rates, report.images = seen.rates(), len(np.unique(seen.positions("rows")))
    report.notes += [f"{n} {kind} stand in two parts, alike" for kind, n in seen.alike.items()]
    report.add(_complete(cell, run, seen, report))
    report.add(["an image stands at two positions"] * seen.twice())
    report.add(_held(records, run, seen))


def _check_block(
    cell: Cell,
    run: RunInfo,
    records: Records,
    report: CellReport,
    tables: dict[str, pd.DataFrame],
    seen: Seen,
) -> None:
    report.rows += len(tables["rows"])
    for kind, table in tables.items():
        report.add(_twice(table, kind, seen))
        tables[kind] = table.drop_duplicates(KEYS[kind])
    seen.add(tables)
    trace, steps, facts, rows = (tables[kind] for kind in TABLES)
    report.add(_constant(cell, run, rows))
    report.add(agreeing(cell, rows))
    report.add(successful(cell, rows))
    report.add(abstaining(cell, rows))
    report.add(of_the_source(cell, run, rows))
    report.add(traced(cell, run, rows, trace))
    report.add(iterated(cell, rows, steps))
    report.add(saved(cell, rows, facts))
    report.add(pictured(records, rows, {*facts["position"].tolist()}))


def _values(cell: Cell, run: RunInfo, tables: dict[str, pd.DataFrame]) -> Iterator[str]:
    """Find values that no run writes."""
    rows, facts = tables["rows"], tables["adversarials"]
    if (rows["position"] >= (n := _images(cell, run))).any():
        yield f"rows have positions beyond n_images={n}"
    beyond = rows[[name for name in CLASSES if name in rows]].max().max()
    if beyond >= cell.classes:
        yield f"rows have the class {beyond:g}, the networks know 0 to {cell.classes - 1}"
    known = dict.fromkeys(("steps_used", "flat"), cell.composed)
    known |= dict.fromkeys(("forwards", "backwards"), cell.config.attack.images is None)
    known["target_label"] = cell.config.attack.targeted
    for name, there in known.items():
        if wrong := int((rows[name].isna() == there).sum()):
            has, every = ("no", "every") if there else ("a", "no")
            of = f"{every} image of attack={cell.config.attack.name} has one"
            yield f"{wrong} rows have {has} {name}: {of}"
    side = cell.geometry.size
    if wrong := int(((facts["height"] != side) | (facts["width"] != side)).sum()):
        yield f"{wrong} saved images are not of {side} x {side} px, as the cell's are"


def _images(cell: Cell, run: RunInfo) -> int:
    """Return how many images the cell can have: the last session may have asked for fewer."""
    n = max(cell.config.n_images, *map(int, run.selected), 0)
    return n if run.eligible is None else min(n, run.eligible)


def _files(
    cell: Cell, run: RunInfo, records: Records, report: CellReport, extents: list[Extent]
) -> Iterator[str]:
    """Yield a problem for each part file that isn't as it was written, or larger than can be.

    Those of others are added to `extents`.
    """
    parts = [part for kind in TABLES for part in records.part_files(kind)]
    counted, report.parts = {part.path for part in parts}, len(parts)
    there = (
        path
        for kind in TABLES
        for path in sorted(folder_of(records.folder, kind).glob("*.parquet"))
    )
    for path in there:
        if path not in counted:
            report.notes.append(f"{path.name} has no rows and doesn't count: a killed run left it")
    if aside := len(list((records.folder / DAMAGED).glob("*"))):
        report.notes.append(f"{aside} parts were found damaged before, and set aside in {DAMAGED}")
    for part in parts:
        if not is_whole(part.path):
            yield f"{part.path.name} was changed after it was written"
            continue
        try:
            part.about()
            schema = pq.read_schema(part.path).remove_metadata()
            if schema.equals(TABLES[part.kind].remove_metadata()):
                yield from _sizes(cell, run, part, extents)
            else:
                yield f"{part.path.name} has other columns than {part.kind} have"
        except ConfigError as e:
            yield first_line(e)
        except (pa.ArrowException, OSError) as e:
            yield f"{part.path.name} cannot be read: {first_line(e)}"


def _sizes(cell: Cell, run: RunInfo, part: PartFile, extents: list[Extent]) -> Iterator[str]:
    """Find a part whose values would fill the memory: a few bytes can repeat them without end."""
    targets = len({*run.networks, *cell.targets})
    steps = cell.config.steps
    most_of = {"rows": targets, "trace": steps + 1, "steps": targets * steps, "adversarials": 1}
    each = most_of[part.kind]
    with pq.ParquetFile(part.path) as file:
        about = file.metadata
        size = sum(about.row_group(i).total_byte_size for i in range(about.num_row_groups))
        most = 2 * each * _images(cell, run)  # twice: what stands there twice is named later
        if about.num_rows <= most:
            positions: set[int] = set()
            for batch in file.iter_batches(columns=["position"]):
                positions.update(batch["position"].fill_null(ALL[0]).unique().to_pylist())
            most = 2 * each * len(positions)
            low, high = (edge(positions, default=0) for edge in (min, max))
            extents.append(Extent(part, about.num_rows, low, high))
    pixels = 2 * 3 * cell.geometry.size**2 if part.kind == "adversarials" else 0
    if about.num_rows > most:
        yield f"{part.path.name} has {about.num_rows:,} rows, {each} for an image are the most"
    elif size > SPARE + about.num_rows * (FACTS + pixels):
        yield f"{part.path.name} has {size:,} bytes of values, more than {part.kind} can have"


def _twice(frame: pd.DataFrame, kind: str, seen: Seen) -> Iterator[str]:
    """Find rows that are there more than once: alike where shards overlapped, else a problem."""
    again = frame[frame.duplicated(KEYS[kind], keep=False)]
    alike = again.duplicated([name for name in frame if name != "file"], keep=False)
    different = again[~alike]
    once = ~again.duplicated([*KEYS[kind], "file"], keep=False)
    if (alike & once).any():
        seen.alike[kind] += int((alike & once).sum())
    for key in different[KEYS[kind]].drop_duplicates().to_dict("records"):
        yield f"two different {kind} for {_text(key)}"
    for key in again[alike & ~once][KEYS[kind]].drop_duplicates().to_dict("records"):
        yield f"the {kind} of one part have {_text(key)} twice"


def _text(key: dict[Any, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in key.items())


def _complete(cell: Cell, run: RunInfo, seen: Seen, report: CellReport) -> Iterator[str]:
    """Find images that were done and have no row; note those that a run was stopped before."""
    n, eligible = cell.config.n_images, run.eligible
    n = n if eligible is None else min(n, eligible)
    lost = {p for p in run.lost if 0 <= p < n}
    done = sum(session.images for session in run.sessions)  # of sessions that were not stopped
    scored = seen.scored()
    for target in cell.targets:
        there = len(np.setdiff1d(scored.get(target, []), [*lost]))
        text = f"{n - len(lost) - there} of {n - len(lost)} images have no row for {target}"
        if there < min(done, n - len(lost)):
            yield text
        elif there < n - len(lost):
            report.notes.append(f"unfinished: {text}; the same command goes on")


def _held(records: Records, run: RunInfo, seen: Seen) -> Iterator[str]:
    """Find a note in run.json of what the parts hold, of the parts as they are, that is wrong."""
    if run.held is not None:
        found = held_of(records, seen.scored(), seen.positions("trace"))
        if found.parts == run.held.parts and found != run.held:
            yield "run.json says that other positions are there than there are"


def _constant(cell: Cell, run: RunInfo, rows: pd.DataFrame) -> Iterator[str]:
    """Find rows that are of another cell."""
    c = cell.config
    expected: dict[str, Any] = {"suite": cell.suite.name, "cell": cell.id, "source": cell.source}
    expected |= {"attack": c.attack.name, "attack_hash": cell.attack_hash, "norm": c.norm.name}
    expected |= {"eps": c.eps, "eps_effective": cell.eps_effective}
    expected |= {"steps": c.steps, "seed": c.seed}
    for name, value in expected.items():
        if wrong := int((rows[name] != value).sum()):
            yield f"{wrong} rows have another {name} than {value}"
    unknown = sorted({*rows["target"]} - {*run.networks})
    yield from (f"rows have the target {name}, and run.json has not" for name in unknown)
    known = {target: cell.white_box(target) for target in cell.targets}
    white = rows["target"].map(known)
    if wrong := int((white.notna() & (white != rows["white_box"])).sum()):
        yield f"{wrong} rows are wrong about white_box"
