"""Boards of a leaderboard's entries: places, differences from the best, and who led when.

A board is of one protocol, budget, source and list of black-box targets, so that every entry of it
had the same task. Transfer is, as in `agr.report.leaderboard`, the share of those targets that an
image fools.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from agr.records.claim import RECORDS, Claim, Protocol, read_claim
from agr.records.store import Records
from agr.report.comparison.paired import Paired, in_short, transfer_pair
from agr.report.frames import selected
from agr.report.rates import NAN
from agr.report.statistics import holm
from agr.report.transfer import mean_rates, success_shares
from agr.submission.claimed import Entry, claim_of, entry_of
from agr.submission.folder import check_folder
from agr.utils.errors import ConfigError

COSTS = (10, 70, 210, math.inf)  # gradients per image, up to which entries are ranked apart
BEST = "the best"
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
# What an entry is free to choose: how many steps, which iterates are rounded, in which numbers.
FREE: dict[str, Any] = {"steps": 0, "quantize": "", "precision": ""}


class Submitted(NamedTuple):
    """An entry of the leaderboard."""

    folder: Path
    claim: Claim
    cells: list[Entry]


class Task(NamedTuple):
    """Task of the entries of one board, but for the protocol."""

    norm: str
    eps: float  # 0-255 scale
    source: str
    targets: tuple[str, ...]  # black-box ones


class Result(NamedTuple):
    """An entry's result on a board: of one cell, or of several seeds."""

    entry: Submitted
    cells: list[Entry]
    shares: pd.Series[float]  # percent of the targets fooled, by image id
    rates: dict[str, float]  # of `mean_rates`
    gradients: float  # per image; NaN where nobody counted them
    ended: str  # when its last image was crafted, 2026-11-30 12:34:56 UTC; "" if nobody knows


class Placed(NamedTuple):
    """A result with its place among those that cost no more than some number of gradients."""

    result: Result
    place: int
    best: Result
    pair: Paired  # with the best, on the images of both
    p: float  # of that difference, after Holm's correction
    tests: int  # over which that is

    @property
    def against_best(self) -> str:
        """The difference from the best, in words."""
        return BEST if self.result is self.best else in_short(self.pair, self.p, self.tests)


class Lead(NamedTuple):
    """A result that was the best of its board when it came."""

    result: Result
    before: Result | None  # the one that led until then


def read_entries(folders: Sequence[Path]) -> list[Submitted]:
    """Read entries, and check that their records show what they claim.

    Raises ConfigError for those that don't, for two of one name and protocol, and for none at all.
    """
    found: dict[tuple[str, Protocol], Submitted] = {}
    for folder in folders:
        check_folder(folder)
        claim = read_claim(folder)
        records = folder / RECORDS / claim.protocol.suite
        cells = [entry_of(Records(records / cell.folder)) for cell in claim.cells]
        if claim != claim_of(cells, claim.name, claim.paper, claim.code, claim.by):
            raise ConfigError(
                f"{folder} claims what its records don't show: agr review {folder} says where"
            )
        entry = Submitted(folder, claim, cells)
        twin = found.setdefault((claim.name, protocol_of(entry)), entry)
        if twin is not entry:
            raise ConfigError(
                f"{twin.folder} and {folder} are both called {claim.name}: leave one out"
            )
    if not found:
        raise ConfigError("there is no entry: give folders that agr submit has made")
    return [*found.values()]


def protocol_of(entry: Submitted) -> Protocol:
    """Return what two entries must share to be ranked together; the rest of it is their choice."""
    return replace(entry.claim.protocol, **FREE)


def boards_of(entries: Sequence[Submitted]) -> dict[Task, list[Result]]:
    """Return the results of entries of one protocol, by board: L∞ first, then by eps and source."""
    boards: dict[Task, list[Result]] = {}
    for entry in entries:
        tasks: dict[Task, list[Entry]] = {}
        for one in entry.cells:
            tasks.setdefault(_task(one), []).append(one)
        for task, cells in tasks.items():
            boards.setdefault(task, []).append(_result(entry, cells))
    return dict(sorted(boards.items(), key=lambda item: (item[0].norm != "linf", item[0])))


def _task(one: Entry) -> Task:
    c, cell = one.cell.config, one.cell
    targets = sorted(t for t in cell.targets if not cell.white_box(t))
    return Task(c.norm.name, float(c.eps), cell.source, tuple(targets))


def _result(entry: Submitted, cells: Sequence[Entry]) -> Result:
    finished = []
    for one in cells:
        frame = selected(one.cell, in_passing=True)
        if frame is None:
            raise ConfigError(f"{one.records.folder} isn't finished any more: submit it again")
        finished.append((one.cell, frame))
    shares = pd.concat([success_shares(*each, white_box=False) for each in finished])
    spent = pd.concat([f.drop_duplicates("image_id")["backwards"] for _, f in finished])
    ends = [session.ended[:19] for one in cells for session in one.run.sessions]
    return Result(
        entry,
        [*cells],
        100 * shares.groupby(level=0).mean(),
        mean_rates(finished),
        float(spent.mean()) if spent.notna().all() else NAN,
        max(filter(TIME.fullmatch, ends), default="").replace("T", " "),
    )


def ranked(results: Iterable[Result], most: float = math.inf) -> list[tuple[Result, int]]:
    """Return the results of a board that cost at most so many gradients per image, best first.

    Each has its place; those of unknown cost have one where cost doesn't count.
    """
    within = [r for r in results if r.gradients <= most or most == math.inf]
    order = sorted(within, key=lambda r: (-_transfer(r), r.entry.claim.name))
    return [(r, 1 + sum(_transfer(o) > _transfer(r) for o in order)) for r in order]


def placed(results: Iterable[Result], most: float = math.inf) -> list[Placed]:
    """Return the `ranked` results, each compared with the best on the images of both.

    Holm's correction is over all of them.
    """
    if not (order := ranked(results, most)):
        return []
    best = order[0][0]
    pairs = [transfer_pair([r.shares], [best.shares]) for r, _ in order[1:]]
    adjusted = [1.0, *holm([pair.p if pair.n else 1.0 for pair in pairs])]
    pairs = [Paired(difference=0.0, low=0.0, high=0.0, n=len(best.shares)), *pairs]
    return [
        Placed(*each, best, pair, p, len(order) - 1)
        for each, pair, p in zip(order, pairs, adjusted, strict=True)
    ]


def _transfer(result: Result) -> float:
    value = result.rates["transfer"]
    return value if value == value else -1.0  # without a black-box target: last


def leads(results: Iterable[Result]) -> list[Lead]:
    """Return the results of a board that were the best when they came, the first one first."""
    found: list[Lead] = []
    for result in sorted(results, key=lambda r: (r.ended, -_transfer(r))):
        before = found[-1].result if found else None
        if before is None or _transfer(result) > _transfer(before):
            found.append(Lead(result, before))
    return found


def budgets_of(boards: Iterable[Task]) -> dict[tuple[str, float], list[Task]]:
    """Return boards by norm and eps."""
    found: dict[tuple[str, float], list[Task]] = {}
    for task in boards:
        found.setdefault((task.norm, task.eps), []).append(task)
    return found


def placements(boards: Mapping[Task, Sequence[Result]]) -> dict[tuple[Task, float], list[Placed]]:
    """Return the `placed` results by board and cost up to which they are ranked, best first.

    Of a budget, costs that leave out no more results than the larger one before are left out.
    """
    found: dict[tuple[Task, float], list[Placed]] = {}
    for tasks in budgets_of(boards).values():
        counts = set[int]()
        for most in sorted(COSTS, reverse=True):
            count = sum(len(ranked(boards[task], most)) for task in tasks)
            if count and count not in counts:
                found |= {(task, most): placed(boards[task], most) for task in tasks}
            counts.add(count)
    return found


def frame_of(
    boards: Mapping[Task, Sequence[Result]], shown: Mapping[tuple[Task, float], Sequence[Placed]]
) -> pd.DataFrame:
    """Return a row for each result in each of its `placements`, with what the site shows of it.

    `gradients_at_most` is NaN where cost doesn't count; `difference`, its 95 % interval and `p`
    (Holm's) are from the best of the row's board and cost; `led_from` is when a result came that
    was the best of any cost.
    """
    led = {
        (task, id(lead.result)): lead.result.ended
        for task, results in boards.items()
        for lead in leads(results)
    }
    rows = []
    for (task, most), of in shown.items():
        for p in of:
            r, pair, claim = p.result, p.pair, p.result.entry.claim
            rows.append(
                {"norm": task.norm, "eps": task.eps, "source": task.source}
                | {"targets": " ".join(task.targets)}
                | {"gradients_at_most": NAN if most == math.inf else most}
                | {"place": p.place, "entry": claim.name, "attack": claim.attack.name}
                | {"attack_hash": claim.attack.hash, "by": claim.by}
                | {"steps": claim.protocol.steps, "gradients": r.gradients, "ended": r.ended}
                | {"led_from": led.get((task, id(r)), "") if most == math.inf else ""}
                | {name: round(value, 4) for name, value in r.rates.items()}
                | {"best": p.best.entry.claim.name, "difference": round(pair.difference, 4)}
                | {"difference_low": round(pair.low, 4), "p": float(f"{p.p:.4g}")}
                | {"difference_high": round(pair.high, 4), "images_of_both": pair.n}
            )
    return pd.DataFrame(rows)
