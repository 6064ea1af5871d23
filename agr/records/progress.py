"""Progress of a cell: what is done and what is missing. Needs neither torch nor timm."""

from __future__ import annotations

from typing import NamedTuple

from agr.config.cell import Cell
from agr.records.part_files import Damaged
from agr.records.run_info import RunInfo
from agr.records.store import Records


class Todo(NamedTuple):
    """Positions of the selection that lack something."""

    rows: dict[str, set[int]]  # by target
    trace: set[int]
    adversarials: set[int]
    to_craft: set[int]  # to be crafted (again)
    to_score: set[int]  # lack rows only, and their adversarial image is saved


def todo(cell: Cell, records: Records, wanted: set[int]) -> Todo:
    """Return what the positions `wanted` lack of what the config asks for."""
    c = cell.config
    scored = records.scored()
    rows = {target: wanted - scored.get(target, set()) for target in cell.targets}
    saved = records.positions("adversarials")
    trace = wanted - records.positions("trace") if c.trace else set()
    adversarials = {p for p in wanted - saved if p < cell.saves}
    lacking = set().union(*rows.values())
    to_craft = trace | adversarials | (lacking - saved)
    return Todo(rows, trace, adversarials, to_craft, lacking - to_craft)


def wanted_positions(cell: Cell, records: Records) -> set[int]:
    """Return the positions of this run's shard; fewer than n_images once that is known."""
    n, eligible = cell.config.n_images, (records.run() or RunInfo()).eligible
    return set(filter(cell.mine, range(n if eligible is None else min(n, eligible))))


def finished(cell: Cell, records: Records) -> bool:
    """Return whether the records hold all that the config asks for. Raises ConfigError."""
    if records.run() is None:
        return False
    return lacking(cell, records, wanted_positions(cell, records)) == set()


def lacking(cell: Cell, records: Records, wanted: set[int]) -> set[int] | None:
    """Return the positions of `wanted` that lack something; None if a part is damaged."""
    try:
        work = todo(cell, records, wanted)
    except Damaged:
        return None
    return work.to_craft | work.to_score


class Progress(NamedTuple):
    """State of a cell, in a word and in images."""

    word: str  # done | done, 2 lost | 5 of 12 left | damaged | missing
    missing: int  # images still to be crafted or scored
    wanted: int  # images in all


def progress(cell: Cell, records: Records) -> Progress:
    """Return the progress of a cell. Lost images, whose files went bad, count as done.

    Raises ConfigError (run.json).
    """
    run = records.run()
    wanted = wanted_positions(cell, records)
    if run is None:
        return Progress("missing", len(wanted), len(wanted))
    lack = lacking(cell, records, wanted)
    if lack is None:
        return Progress("damaged", len(wanted), len(wanted))
    lost = lack & {*run.lost}
    missing = len(lack - lost)
    if not missing:
        return Progress(f"done, {len(lost)} lost" if lost else "done", 0, len(wanted))
    word = "missing" if missing == len(wanted) else f"{missing} of {len(wanted)} left"
    return Progress(word, missing, len(wanted))
