"""An audit of one cell's records that shares no code with what wrote them."""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from agr.config.cell import Cell
from agr.config.load import stored_cell
from agr.records.folders import DAMAGED, PNG, folder_of
from agr.records.run_info import RunInfo
from agr.records.schema import KEYS, ROWS, TABLES, within
from agr.records.store import Records, image_of
from agr.records.values import CLASSES, faults
from agr.utils.errors import ConfigError, first_line
from agr.utils.files import is_whole

SHOWN = 5  # problems of one kind and cell that are listed


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
        problems = list(found)
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
    except ConfigError as e:
        report.problems.append(first_line(e))
        return report
    try:
        _check(cell, run, records, report)
    except Exception as e:  # whoever can write records can write anything
        report.problems.append(f"its values cannot be checked: {type(e).__name__}: {first_line(e)}")
    return report


def _check(cell: Cell, run: RunInfo, records: Records, report: CellReport) -> None:
    report.add(_files(records, report))
    if not report.problems:
        rows = _raw(records, "rows")
        report.add(_values(cell, records, rows))
    if not report.problems:
        report.rows, report.images = len(rows), rows["position"].nunique()
        report.add(_twice(rows, "rows", report))
        rows = rows.drop_duplicates(KEYS["rows"])
        report.add(_complete(cell, run, rows, report))
        report.add(_constant(cell, rows))
        report.add(_agreeing(cell, rows))
        report.add(_success(cell, rows))
        report.add(_traced(records, rows, report))
        report.add(_saved(records, rows))
        report.rates = {str(t): 100 * s.mean() for t, s in rows.groupby("target")["success"]}


def _values(cell: Cell, records: Records, rows: pd.DataFrame) -> Iterator[str]:
    """Find values that no run writes."""
    facts = [name for name in TABLES["adversarials"].names if "pixels" not in name]
    yield from faults(rows, "rows")
    yield from faults(_raw(records, "trace"), "trace")
    yield from faults(_raw(records, "adversarials", facts), "adversarials")
    if (rows["position"] >= cell.config.n_images).any():
        yield f"rows have positions beyond n_images={cell.config.n_images}"
    beyond = rows[[name for name in CLASSES if name in rows]].max().max()
    if beyond >= cell.classes:
        yield f"rows have the class {beyond:g}, the networks know 0 to {cell.classes - 1}"


def _files(records: Records, report: CellReport) -> Iterator[str]:
    """Yield a problem for each part file that isn't as it was written."""
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
            yield f"{part.path.name} is not what was written: run the cell again"
            continue
        try:
            schema = pq.read_schema(part.path).remove_metadata()
            part.about()
        except (pa.ArrowException, OSError, ConfigError) as e:
            yield f"{part.path.name} cannot be read: {first_line(e)}"
            continue
        if not schema.equals(TABLES[part.kind].remove_metadata()):
            yield f"{part.path.name} has other columns than {part.kind} have"


def _raw(records: Records, kind: str, names: list[str] | None = None) -> pd.DataFrame:
    """Read the rows of all parts, also those that stand in two of them."""
    names = names or TABLES[kind].names
    tables = [TABLES[kind].empty_table().select(names)]
    tables += [part.read(names) for part in records.part_files(kind)]
    return pa.concat_tables(tables).to_pandas()


def _twice(frame: pd.DataFrame, kind: str, report: CellReport) -> Iterator[str]:
    """Find rows that are there more than once: alike where shards overlapped, else a problem."""
    again = frame[frame.duplicated(KEYS[kind], keep=False)]
    different = again[~again.duplicated(keep=False)]
    if len(again) > len(different):
        report.notes.append(f"{len(again) - len(different)} {kind} stand in two parts, alike")
    for key in different[KEYS[kind]].drop_duplicates().to_dict("records"):
        yield f"two different {kind} for {', '.join(f'{k} {v}' for k, v in key.items())}"


def _complete(cell: Cell, run: RunInfo, rows: pd.DataFrame, report: CellReport) -> Iterator[str]:
    """Find images that were done and have no row; note those that a run was stopped before."""
    n, eligible = cell.config.n_images, run.eligible
    n = n if eligible is None else min(n, eligible)
    lost = {p for p in run.lost if 0 <= p < n}
    done = sum(session.images for session in run.sessions)  # of sessions that were not stopped
    for target in cell.targets:
        there = len({*rows["position"][rows["target"] == target]} - lost)
        text = f"{n - len(lost) - there} of {n - len(lost)} images have no row for {target}"
        if there < min(done, n - len(lost)):
            yield text
        elif there < n - len(lost):
            report.notes.append(f"unfinished: {text}; the same command goes on")


def _constant(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find rows that are of another cell."""
    c = cell.config
    expected: dict[str, Any] = {"suite": cell.suite.name, "cell": cell.id, "source": cell.source}
    expected |= {"attack": c.attack.name, "attack_hash": cell.attack_hash, "norm": c.norm.name}
    expected |= {"eps": c.eps, "eps_effective": cell.eps_effective}
    expected |= {"steps": c.steps, "seed": c.seed}
    for name, value in expected.items():
        if wrong := int((rows[name] != value).sum()):
            yield f"{wrong} rows have another {name} than {value}"
    known = {target: cell.white_box(target) for target in cell.targets}
    white = rows["target"].map(known)
    if wrong := int((white.notna() & (white != rows["white_box"])).sum()):
        yield f"{wrong} rows are wrong about white_box"


OF_A_TARGET = {"clean_pred", "clean_conf", "adv_pred", "adv_conf", "success"}
# Columns from here on are of the image, but for those.
OF_AN_IMAGE = [
    name for name in ROWS.names[ROWS.names.index("image_id") :] if name not in OF_A_TARGET
]


def _agreeing(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find images whose rows disagree, or whose perturbation is larger than the budget."""
    distinct = rows.groupby("position")[OF_AN_IMAGE].nunique(dropna=False)
    for name in OF_AN_IMAGE:
        for position in distinct.index[distinct[name] > 1]:
            yield f"the rows of position {position} have different {name}"
    if rows.groupby("image_id")["position"].nunique().max() > 1:
        yield "an image stands at two positions"
    norm = cell.config.norm.name
    size = rows[norm].max()
    if not cell.smallest and not within(size, cell.eps_effective, cell.config.quantize):
        yield f"{norm} is {size:g} of {cell.eps_effective:g} allowed (0-255 scale)"
    if (rows["steps_used"] > cell.config.steps).any():
        yield f"an image took more than {cell.config.steps} steps"


def _success(cell: Cell, rows: pd.DataFrame) -> Iterator[str]:
    """Find rows whose success isn't what their predictions say."""
    pred, clean = rows["adv_pred"], rows["clean_pred"]
    answered = pred >= 0  # -1: the logits were not finite
    if cell.success == "targeted":
        success = answered & (pred == rows["target_label"])
    else:
        reference = rows["label"] if cell.success == "label" else clean
        success = answered & (reference >= 0) & (pred != reference)
    if cell.smallest:
        size = rows[cell.config.norm.name]
        success &= (size > 0) & within(size, cell.eps_effective, cell.config.quantize)
    for row in rows[success != rows["success"]].to_dict("records"):
        yield f"success of {row['image_id']} on {row['target']} isn't what its predictions say"


def _traced(records: Records, rows: pd.DataFrame, report: CellReport) -> Iterator[str]:
    """Find traces that lack a step, or belong to no row."""
    trace = _raw(records, "trace")
    yield from _twice(trace, "trace", report)
    trace = trace.drop_duplicates(KEYS["trace"])
    taken = rows.drop_duplicates("position").set_index("position")["steps_used"]
    by_position: dict[Any, Any] = dict(list(trace.groupby("position")["step"]))
    for position, steps in by_position.items():
        if position not in taken.index:
            yield f"position {position} has a trace and no row"
        elif sorted(steps) != [*range(int(taken[position]) + 1)]:
            yield f"the trace of position {position} lacks steps"


def _saved(records: Records, rows: pd.DataFrame) -> Iterator[str]:
    """Find saved images that aren't those that were scored."""
    facts = rows.drop_duplicates("position").set_index("position")
    known = facts["adv_sha256"]
    for some in records.saved_images(records.positions("adversarials")):
        for row in some:
            if not _is_image(row):
                yield f"the saved images of {row['image_id']} are not as large as they say"
                continue
            found = hashlib.sha256(row["pixels"]).hexdigest()
            if found != row["adv_sha256"] or known.get(row["position"]) != found:
                yield f"the saved image of {row['image_id']} is not the one that was scored"
            elif other := _other_norms(row, facts.loc[row["position"]]):
                yield f"{other} of {row['image_id']} isn't that of its saved images"
            elif not _same_png(records.png_folder / f"{row['image_id']}.png", row):
                yield f"{PNG}/{row['image_id']}.png is not the image that was scored"


def _is_image(row: dict[str, Any]) -> bool:
    size = row["height"] * row["width"] * 3
    return all(len(row[k] or b"") == size for k in ("pixels", "clean_pixels"))


def _other_norms(row: dict[str, Any], recorded: pd.Series[Any]) -> str | None:
    """Return the first measure of a row's two images that isn't what was recorded."""
    x, a = (image_of(row, k).astype(float) for k in ("clean_pixels", "pixels"))
    v, length = a - x, np.linalg.norm(x)
    found = {
        "linf": np.abs(v).max(),
        "l2": np.linalg.norm(v),
        "mean_abs": np.abs(v).mean(),
        "rel_l2": np.linalg.norm(v) / length if length else 0.0,
        "cosine": (x * a).sum() / (length * np.linalg.norm(a)) if length and a.any() else 1.0,
    }
    close = (math.isclose(found[k], recorded[k], rel_tol=1e-9, abs_tol=1e-12) for k in found)
    return next((k for k, same in zip(found, close, strict=True) if not same), None)


def _same_png(path: Path, row: dict[str, Any]) -> bool:
    """Return whether an exported image, if it is still there, is the one of its row."""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link, or a pipe, which would be waited for
            return False
        with Image.open(path) as image:
            return np.array_equal(np.asarray(image), image_of(row))
    except FileNotFoundError:
        return True
    except Exception:  # decoders raise whatever they like
        return False
