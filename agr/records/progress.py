"""Progress of a cell: what is done and what is missing. Needs neither torch nor timm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agr.config.cell import Cell
from agr.records.held import noted
from agr.records.part_files import Damaged
from agr.records.run_info import RunInfo
from agr.records.store import Records
from agr.utils.errors import ConfigError


class Todo(NamedTuple):
    """Positions of the selection that lack something."""

    rows: dict[str, set[int]]  # by target
    trace: set[int]
    adversarials: set[int]
    steps: dict[tuple[str, int], set[int]]  # by target and step
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
    steps = {place: wanted - done for place, done in _stepped(cell, records).items()}
    lacking = set().union(*rows.values())
    to_craft = set().union(trace, adversarials, lacking - saved, *steps.values())
    return Todo(rows, trace, adversarials, steps, to_craft, lacking - to_craft)


def _stepped(cell: Cell, records: Records) -> dict[tuple[str, int], set[int]]:
    """Return the positions that have a scored iterate, by each target and step asked for."""
    known = records.scored("steps") if cell.score_steps else {}
    at = [(target, step) for target in cell.targets for step in cell.score_steps]
    return {place: known.get(place, set()) for place in at}


class Wanted:
    """Positions of a cell's shard: fewer than n_images once it is known how many are eligible.

    They are counted and not written down: a config can ask for any number.
    """

    def __init__(self, cell: Cell, run: RunInfo | None):
        self.cell = cell
        n, eligible = cell.config.n_images, (run or RunInfo()).eligible
        self.n = n if eligible is None else min(n, eligible)

    def __contains__(self, position: int) -> bool:
        return 0 <= position < self.n and self.cell.mine(position)

    def __len__(self) -> int:
        (i, k), chunk = self.cell.shard, self.cell.chunk
        rounds, rest = divmod(self.n, k * chunk)
        return rounds * chunk + min(max(rest - i * chunk, 0), chunk)

    def of(self, positions: Iterable[int]) -> set[int]:
        """Return those of some positions that are wanted."""
        return {p for p in positions if p in self}


def finished(cell: Cell, records: Records) -> bool:
    """Return whether the records hold all that the config asks for. Raises ConfigError."""
    run = records.run()
    if run is None:
        return False
    for key, name in (("perceptual", "psnr"), ("lpips", "lpips")):
        rows = records.read("rows", ["linf", name]) if getattr(cell.config, key) else None
        if rows is not None and (rows[name].isna() & (rows["linf"] > 0)).any():
            given = "true" if key == "perceptual" else "…"
            raise ConfigError(
                f"{key}={given}: {records.folder} has rows that were scored without it: use "
                "another outputs=… folder"
            )
    wanted, done = Wanted(cell, run), complete(cell, records, run)
    return done is not None and len(wanted.of(done)) == len(wanted)


def complete(cell: Cell, records: Records, run: RunInfo) -> set[int] | None:
    """Return the positions that have all that the config asks for; None if a part is damaged."""
    c = cell.config
    try:
        kinds = ["rows", "trace"] if c.trace else ["rows"]
        known = noted(records, run.held, Wanted(cell, run).n, kinds)
        scored = known[0] if known else records.scored()
        done = set.intersection(*(scored.get(target, set()) for target in cell.targets))
        if c.trace:
            done &= known[1] if known else records.positions("trace")
        done = done.intersection(*_stepped(cell, records).values())
        if cell.saves:
            saved = records.positions("adversarials")
            done = {p for p in done if p >= cell.saves or p in saved}
    except Damaged:
        return None
    return done


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
    wanted = Wanted(cell, run)
    n = len(wanted)
    if run is None:
        return Progress("missing", n, n)
    done = complete(cell, records, run)
    if done is None:
        return Progress("damaged", n, n)
    done = wanted.of(done)
    lost = wanted.of(run.lost) - done
    missing = n - len(done) - len(lost)
    if not missing:
        return Progress(f"done, {len(lost)} lost" if lost else "done", 0, n)
    return Progress("missing" if missing == n else f"{missing} of {n} left", missing, n)
