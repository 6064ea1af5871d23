"""Rows of finished cells, as tables and figures read them.

A cell counts once it is finished, with the rows that its config selects.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.records.progress import Wanted
from agr.records.schema import PERCEPTUAL
from agr.records.store import Records

ROWS_KEPT = 2_000_000  # in memory, of cells that were read: some 200 bytes each
ROWS_IN_PASSING = 50_000  # likewise, where each cell is asked for once
# Columns that numbers are made from; reading all of them would take several times longer.
COLUMNS = [
    "target", "position", "image_id", "label", "clean_pred", "adv_pred", "source_clean_pred",
    "source_adv_pred", "success", "first_success_step", "steps_used", "backwards", "flat", "linf",
    "found_linf", "found_l2", "l2", "mean_abs", "rel_l2", "cosine", *PERCEPTUAL,
]  # fmt: skip

_kept: dict[tuple[Any, ...], pd.DataFrame | None] = {}
_noted: dict[tuple[Any, ...], Noted | None] = {}
_counted: dict[int, dict[tuple[str, str], pd.DataFrame]] = {}  # by frame, as long as it is there


class Noted(NamedTuple):
    """Counts of a finished cell's images, which outlive its rows: notes below tables say them."""

    images: int
    flat: int  # every gradient was zero
    unchanged: int  # came back as they were, though there were gradients
    smallest: str  # `smallest_sizes`, of an attack without a budget


def selected(cell: Cell, *, in_passing: bool = False) -> pd.DataFrame | None:
    """Return the rows (COLUMNS) that a finished cell's config selects; None if it isn't finished.

    Not to be changed: it is kept, as tables and figures share it, until a file of the cell changes.
    `in_passing` keeps few, for who goes through all cells once. Raises ConfigError for damaged
    records.
    """
    key = cell_key(cell)
    if key in _kept:
        return _kept[key]
    frame = _selected(cell, Records(cell.folder))
    _noted[key] = None if frame is None else _noted_of(cell, frame)
    rows = sum(len(kept) for kept in _kept.values() if kept is not None)
    rows += 0 if frame is None else len(frame)
    if not in_passing or rows <= ROWS_IN_PASSING:
        _kept[key] = frame
        while len(_kept) > 1 and rows > ROWS_KEPT:
            oldest = _kept.pop(next(iter(_kept)))
            rows -= 0 if oldest is None else len(oldest)
    return frame


def noted(cell: Cell) -> Noted | None:
    """Return the counts of a cell's images; None if it isn't finished.

    Rows that were `selected` before aren't read again.
    """
    key = cell_key(cell)
    if key not in _noted:
        selected(cell, in_passing=True)
    return _noted[key]


def cell_key(cell: Cell) -> tuple[Any, ...]:
    """Return what the selected rows depend on: the config, and the state of the cell's files."""
    records = Records(cell.folder)
    files = [records.run_file, *(part.path for part in records.part_files("rows"))]
    stats = [path.stat() for path in files if path.exists()]
    asked = cell.config.n_images, cell.shard, cell.chunk, *cell.targets
    return str(cell.folder), asked, *((s.st_ino, s.st_mtime_ns, s.st_size) for s in stats)


def _selected(cell: Cell, records: Records) -> pd.DataFrame | None:
    run = records.run()
    if run is None:
        return None
    wanted = Wanted(cell, run)
    rows = records.read("rows", COLUMNS)
    mine = wanted.of(rows["position"].unique().tolist())
    asked = rows["position"].isin(mine) & rows["target"].isin(cell.targets)
    rows = rows if asked.all() else rows[asked]
    lost = wanted.of(run.lost)
    there = rows["target"][~rows["position"].isin(lost)].value_counts()
    if any(there.get(target, 0) + len(lost) < len(wanted) for target in cell.targets):
        return None
    return rows


def _noted_of(cell: Cell, frame: pd.DataFrame) -> Noted:
    names = ["image_id", "flat", "steps_used", "linf", "l2", "found_linf", "found_l2"]
    images = frame[names].drop_duplicates("image_id")
    flat = images["flat"].eq(True)
    tried = images["steps_used"].isna() | (images["steps_used"] > 0)
    unchanged = (images["linf"] == 0) & tried & ~flat
    smallest = smallest_sizes(images) if cell.smallest else ""
    return Noted(len(images), int(flat.sum()), int(unchanged.sum()), smallest)


def smallest_sizes(images: pd.DataFrame) -> str:
    """Return a line on the sizes that an attack without a budget needed, from a row per image."""
    attacked = images[images["l2"] > 0]
    line = f"smallest perturbations, found for {len(attacked)} of {len(images)} images"
    if len(attacked):
        linf, l2 = (_median(attacked, norm) for norm in ("linf", "l2"))
        line += f"; median L∞ {linf}, L2 {l2} (0-255 scale; in brackets before rounding to 8 bits)"
    return f"{line}; a success is one within eps"


def _median(images: pd.DataFrame, norm: str) -> str:
    """Return the median of a norm, and in brackets before images were rounded to 8 bits."""
    rounded, found = (float(images[name].median()) for name in (norm, f"found_{norm}"))
    return f"{rounded:.1f} ({found:.2f})" if found == found else f"{rounded:.1f}"


def counted_rows(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    """Return the rows of a target that a denominator counts; not to be changed.

    "all": every image. "target-correct": those that the target classifies correctly when clean.
    "all-correct": those that the source and all targets of the frame classify correctly.
    """
    if id(frame) not in _counted:
        weakref.finalize(frame, _counted.pop, id(frame), None)
    of_frame = _counted.setdefault(id(frame), {})
    if (target, denominator) not in of_frame:
        of_frame[target, denominator] = rows_counted(frame, target, denominator)
    return of_frame[target, denominator]


def rows_counted(frame: pd.DataFrame, target: str, denominator: str) -> pd.DataFrame:
    """Return the `counted_rows` anew, of a frame that needs no more columns than are counted by."""
    rows = frame[frame["target"] == target]
    if denominator == "target-correct":
        return rows[rows["clean_pred"] == rows["label"]]
    if denominator == "all-correct":
        by_target = frame["clean_pred"] == frame["label"]
        by_source = frame["source_clean_pred"] == frame["label"]
        by_all = (by_target & by_source).groupby(frame["image_id"]).all()
        return rows[rows["image_id"].map(by_all)]
    return rows
