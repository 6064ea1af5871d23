"""Interleaved measurements and what follows from them.

In a round every contender runs once, and a ratio is taken within a round, so that a machine whose
speed drifts slows both sides of it. What is reported is the median over rounds, with the lowest
and the highest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from agr.attacks.engine import Calls


class Row(NamedTuple):
    """One line of the results: a contender that was timed in a round, or a fact about it."""

    part: str
    setting: str  # what the contenders of a round have in common
    contender: str
    round: int  # from 1; 0: a fact that belongs to no round
    seconds: float = math.nan  # NaN: not timed
    images: int = 0
    forwards: int = 0  # whole batches, counted by hooks on the network
    backwards: int = 0
    value: float = math.nan  # NaN: none
    unit: str = ""  # of the value


COLUMNS = list(Row._fields)


@dataclass(frozen=True)
class Contender:
    """Something that is timed, again and again."""

    name: str
    work: Callable[[], Any]
    images: int  # that one call of `work` deals with
    networks: tuple[nn.Module, ...] = ()  # whose passes are counted


class Spread(NamedTuple):
    """A figure over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of one value per round."""
        found = pd.Series(list(values), dtype=float)
        return cls(float(found.median()), float(found.min()), float(found.max()))

    def text(self, digits: int = 2) -> str:
        """As "1.24 (1.21-1.30)"; without brackets where all rounds say the same."""
        low, middle, high = (f"{v:,.{digits}f}" for v in (self.low, self.median, self.high))
        return middle if low == high else f"{middle} ({low}–{high})"  # noqa: RUF001


def interleave(
    part: str,
    setting: str,
    contenders: Sequence[Contender],
    rounds: int,
    *,
    device: str = "cpu",
    warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Row], dict[str, Any]]:
    """Time every contender once per round; `warm`: after a call of each that isn't timed.

    Returns a row per round and contender, and by contender what its last call returned.
    """
    rows, results = [], {}
    with tqdm(total=rounds * len(contenders), desc=f"{part}: {setting}", leave=False) as bar:
        for c in contenders if warm else ():
            bar.set_postfix_str(f"{c.name}, not timed yet")
            c.work()
        for number in range(1, rounds + 1):
            for c in contenders:
                bar.set_postfix_str(c.name)
                calls = Calls()
                with ExitStack() as hooks:
                    for network in c.networks:
                        hooks.enter_context(calls.attach(network))
                    wait(device)
                    started = clock()
                    results[c.name] = c.work()
                    wait(device)
                    seconds = clock() - started
                passes = calls.forwards, calls.backwards
                rows.append(Row(part, setting, c.name, number, seconds, c.images, *passes))
                bar.update()
    return rows, results


def wait(device: str) -> None:
    """Until a GPU has done what it was given: its clock can't be read before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# ---- from rows to figures ------------------------------------------------------------------------


def frame_of(rows: Iterable[Row]) -> pd.DataFrame:
    """The rows as a table."""
    return pd.DataFrame(list(rows), columns=COLUMNS).astype({"unit": str})


def rates(frame: pd.DataFrame) -> pd.DataFrame:
    """Images per second: a line per round and a column per contender of one part and setting."""
    timed = frame[frame["seconds"].notna()]
    speed = timed.assign(rate=timed["images"] / timed["seconds"])
    return speed.pivot(index="round", columns="contender", values="rate")


def faster(frame: pd.DataFrame, ours: str, other: str) -> Spread:
    """How many times as fast as `other` is `ours`, within each round of one part and setting."""
    found = rates(frame)
    return Spread.of(found[ours] / found[other])


def closest(frame: pd.DataFrame, ours: str, others: Iterable[str]) -> tuple[str, Spread] | None:
    """The contender that `ours` is least ahead of, and by how much; None where none is there."""
    found = rates(frame)
    ahead = {name: faster(frame, ours, name) for name in others if name in found}
    return min(ahead.items(), key=lambda item: item[1].median) if ahead else None


def fact(frame: pd.DataFrame, contender: str, unit: str) -> float:
    """The value in that unit; NaN where there is none."""
    own = frame[(frame["contender"] == contender) & (frame["unit"] == unit)]["value"]
    return float(own.iloc[-1]) if len(own) else math.nan
