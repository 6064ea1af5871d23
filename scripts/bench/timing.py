"""Interleaved measurements and the figures that follow from them.

In a round every contender runs once, and a ratio is taken within a round, so that a machine whose
speed drifts slows both sides of it. Figures are medians over rounds, with the lowest and the
highest.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from agr.attacks.engine import Calls


class Measurement(NamedTuple):
    """A contender that was timed in a round, or a fact about it."""

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


COLUMNS = list(Measurement._fields)


@dataclass(frozen=True)
class Contender:
    """A piece of work that is timed, again and again."""

    name: str
    work: Callable[[], Any]
    images: int  # per call of `work`
    network: nn.Module | None = None  # whose passes are counted


def facts(
    part: str, setting: str, contender: str, values: Mapping[str, float]
) -> list[Measurement]:
    """Return facts about a contender, from values by their units."""
    return [Measurement(part, setting, contender, 0, value=v, unit=u) for u, v in values.items()]


def interleave(
    part: str,
    setting: str,
    contenders: Sequence[Contender],
    rounds: int,
    *,
    device: str = "cpu",
    warm: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> tuple[list[Measurement], dict[str, Any]]:
    """Time every contender once per round; `warm`: after a call of each that isn't timed.

    Returns a measurement per round and contender, and the result of each contender's last call.
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
                with nullcontext() if c.network is None else calls.attach(c.network):
                    wait(device)
                    started = clock()
                    results[c.name] = c.work()
                    wait(device)
                    seconds = clock() - started
                passes = calls.forwards, calls.backwards
                rows.append(Measurement(part, setting, c.name, number, seconds, c.images, *passes))
                bar.update()
    return rows, results


def wait(device: str) -> None:
    """Wait until a GPU is done with its work: its clock can't be read before."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


# ---- from measurements to figures ----------------------------------------------------------------


class Spread(NamedTuple):
    """A figure over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Summarise one value per round."""
        rounds = pd.Series(list(values), dtype=float)
        return cls(float(rounds.median()), float(rounds.min()), float(rounds.max()))

    def text(self, digits: int = 2) -> str:
        """Format as "1.24 (1.21-1.30)"; without brackets where all rounds agree."""
        low, middle, high = (f"{v:,.{digits}f}" for v in (self.low, self.median, self.high))
        return middle if low == high else f"{middle} ({low}–{high})"  # noqa: RUF001


def frame_of(rows: Iterable[Measurement]) -> pd.DataFrame:
    """Return measurements as a table."""
    return pd.DataFrame(list(rows), columns=COLUMNS).astype({"unit": str})


class Results:
    """Measurements of one part and setting."""

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame
        self.timed = frame[frame["seconds"].notna()]
        self.names = [str(name) for name in self.timed["contender"].unique()]
        speed = self.timed.assign(rate=self.timed["images"] / self.timed["seconds"])
        # images per second: a line per round and a column per contender
        self.rates = speed.pivot(index="round", columns="contender", values="rate")

    def faster(self, ours: str, other: str) -> Spread:
        """Return the speed of `ours` over that of `other`, within each round."""
        return Spread.of(self.rates[ours] / self.rates[other])

    def closest(self, ours: str, others: Iterable[str]) -> tuple[str, Spread] | None:
        """Return the contender that `ours` is least ahead of, and by how much; None: none is."""
        ahead = {name: self.faster(ours, name) for name in others if name in self.rates}
        return min(ahead.items(), key=lambda item: item[1].median) if ahead else None

    def fact(self, contender: str, unit: str) -> float:
        """Return the value in that unit; NaN where there is none."""
        of_contender = self.frame["contender"] == contender
        values = self.frame[of_contender & (self.frame["unit"] == unit)]["value"]
        return float(values.iloc[-1]) if len(values) else math.nan

    def seconds(self, name: str) -> Spread:
        """Return the seconds of a contender."""
        return Spread.of(self.timed[self.timed["contender"] == name]["seconds"])

    def passes(self, name: str) -> tuple[int, int]:
        """Return the forwards and gradients of a contender, in whole batches."""
        first = self.timed[self.timed["contender"] == name].iloc[0]
        return int(first["forwards"]), int(first["backwards"])


def results_of(frame: pd.DataFrame, parts: Sequence[str]) -> dict[str, Results]:
    """Return the results of some parts by their settings."""
    own = frame[frame["part"].isin(parts)]
    return {name: Results(own[own["setting"] == name]) for name in own["setting"].unique()}
