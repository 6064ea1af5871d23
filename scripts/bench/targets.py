"""The figures that are asked for, and what was found of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd

from scripts.bench import demo, formats, full_size, growth, peers, records, row, startup
from scripts.bench.timing import Results, Spread, results_of

PIPELINE_OF_BARE = 0.95
OF_BARE = 1.10  # time of an attack of many gradients
OVER_PEERS = {"inception_v3": 1.10, "vgg16": 1.30}  # on a plain network of timm
NEVER_BELOW = 1.0  # on any other
OVER_TUNED_PEERS = 0.97
OVER_FORMAT = 0.95  # what memory_format=auto takes, of the other one's speed
OF_BOUND, OVER_FIXED, ASR_POINTS = 0.75, 3.0, -1.0
FIXED_SOURCE = "inc_v3"
FEWER_PASSES = 4.0
OVER_ROW = {"agr": 2.5, "ifgsm": 1.1}
OVER_REAL = {"ifgsm": 1.6, "mifgsm": 1.6, "agr_nostop": 1.6, "agr": 5.0}
LINEAR, FLAT = 1.10, 50.0
SECONDS = {startup.HELP: 1.2, startup.FINISHED: 2.0, startup.TABLES: 2.0}
SECONDS |= {records.STATUS: 3.0, records.TABLES: 10.0}
ROUNDING = 1e-9  # a figure that is its limit has reached it


class Target(NamedTuple):
    """A figure with its limit."""

    part: str
    figure: str
    measured: Spread
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """True if the median meets the limit."""
        if self.at_least is not None:
            return self.measured.median >= self.at_least - ROUNDING
        return self.at_most is not None and self.measured.median <= self.at_most + ROUNDING

    @property
    def limit(self) -> str:
        """The limit as text, such as "≥ 0.95"."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


def targets(frame: pd.DataFrame) -> list[Target]:
    """Return every target that there are measurements of."""
    return [
        target
        for parts, find in FINDERS.items()
        for setting, own in results_of(frame, parts).items()
        for target in find(setting, own)
    ]


def given(own: Results, network: str) -> list[str]:
    """Return the peers that were given this network, the plain or the tuned one."""
    return [name for name in own.names if name.endswith(network)]


def _full_size(setting: str, own: Results) -> Iterator[Target]:
    if full_size.BARE in own.names:
        share = own.faster(full_size.PIPELINE, full_size.BARE)
        figure = f"{setting}: pipeline, of the bare loop"
        yield Target("limit", figure, share, at_least=PIPELINE_OF_BARE)
    architecture = setting.partition(",")[0].partition(".")[0]
    over_plain = OVER_PEERS.get(architecture, NEVER_BELOW)
    for network, limit in ((peers.PLAIN, over_plain), (peers.TUNED, OVER_TUNED_PEERS)):
        if against := own.closest(full_size.CALL, given(own, network)):
            peer, ahead = against
            yield Target("peers", f"{setting}: plain call, times {peer}", ahead, at_least=limit)


def _formats(setting: str, own: Results) -> Iterator[Target]:
    auto = chosen_format(own)
    (other,) = [name for name in own.names if name != auto]
    figure = f"{setting}: {auto}, as by memory_format=auto, times {other}"
    yield Target("formats", figure, own.faster(auto, other), at_least=OVER_FORMAT)


def chosen_format(own: Results) -> str:
    """Return the memory format that the rule takes."""
    return str(own.frame[own.frame["unit"] == formats.AUTO]["contender"].iloc[0])


def _many(setting: str, own: Results) -> Iterator[Target]:
    figure = f"{setting}: time, of the bare loop's of as many gradients"
    yield Target("many", figure, over_bare(own), at_most=OF_BARE)


def over_bare(own: Results) -> Spread:
    """Return the time of the pipeline over that of the bare loop, within rounds."""
    return own.faster(full_size.BARE, full_size.PIPELINE)


def _stops(setting: str, own: Results) -> Iterator[Target]:
    for name in demo.STOPPED:
        figure = f"{setting}: {name}, of the bound"
        yield Target("stops", figure, of_bound(own, name), at_least=OF_BOUND)
        against = own.closest(name, given(own, peers.PLAIN))
        if against and setting.startswith(f"{FIXED_SOURCE},"):
            peer, ahead = against
            figure = f"{setting}: {name}, times {peer}"
            yield Target("stops", figure, ahead, at_least=OVER_FIXED)
            gap = 100 * (own.fact(name, demo.ASR) - own.fact(peer, demo.ASR))
            figure = f"{setting}: {name}, its white-box ASR less theirs, points"
            yield Target("stops", figure, Spread.of([gap]), at_least=ASR_POINTS)


def of_bound(own: Results, name: str) -> Spread:
    """Return the speed of a stopped attack as a share of its upper bound, within rounds."""
    steps = own.fact(name, demo.STEPS_USED)
    prices = zip(own.rates[demo.FORWARD], own.rates[demo.GRADIENT], strict=True)
    bounds = [demo.bound(steps, forward, gradient) for forward, gradient in prices]
    return Spread.of(own.rates[name] / bounds)


def _curve(setting: str, own: Results) -> Iterator[Target]:
    ours = sum(own.passes(demo.CURVE))
    times = {name: sum(own.passes(name)) / ours for name in own.names if name != demo.CURVE}
    if times:
        name = min(times, key=times.__getitem__)
        figure = f"{setting}: times fewer passes than {name}"
        yield Target("curve", figure, Spread.of([times[name]]), at_least=FEWER_PASSES)


def _row(setting: str, own: Results) -> Iterator[Target]:
    if against := own.closest(row.OWN_ROW, [n for n in own.names if n != row.OWN_ROW]):
        name, ahead = against
        limit = OVER_ROW[setting.partition(",")[0]]
        yield Target("row", f"{setting}: times {name}", ahead, at_least=limit)


def _real(setting: str, own: Results) -> Iterator[Target]:
    peer = row.THEIR_REAL["ifgsm"]
    for attack, name in row.OWN_REAL.items():
        if {name, peer} <= {*own.names}:
            figure = f"{setting}: {name}, times {peer}"
            yield Target("real", figure, own.faster(name, peer), at_least=OVER_REAL[attack])
    name = row.OWN_REAL["agr"]
    gap = 100 * (own.fact(name, row.WHITE_BOX) - own.fact(peer, row.WHITE_BOX))
    if not math.isnan(gap):
        figure = f"{setting}: {name}, its white-box ASR less theirs, points"
        yield Target("real", figure, Spread.of([gap]), at_least=ASR_POINTS)


def _growth(setting: str, own: Results) -> Iterator[Target]:
    if setting == growth.IMAGES:
        first, *more = own.names
        peaks = peak_memory(own)
        slower = [own.faster(first, name) for name in more]
        fatter = [Spread.of(peaks[name] - peaks[first]) for name in more]
        figure = "time per image, worst of more images over the fewest"
        yield Target("growth", figure, max(slower), at_most=LINEAR)
        figure = "peak memory, worst of more images less the fewest, MB"
        yield Target("growth", figure, max(fatter), at_most=FLAT)


def peak_memory(own: Results) -> pd.DataFrame:
    """Return peak memory in MB, a line per round and a column per number of images."""
    return own.frame.pivot(index="round", columns="contender", values="value")


def _commands(setting: str, own: Results) -> Iterator[Target]:
    for name in own.names:
        limit = next((v for k, v in SECONDS.items() if name.startswith(k)), None)
        if limit is not None:
            part = str(own.frame["part"].iloc[0])
            yield Target(part, f"{name}, seconds", own.seconds(name), at_most=limit)


FULL_SIZE = ("limit", "peers")  # measured in the same rounds
FINDERS: dict[tuple[str, ...], Callable[[str, Results], Iterator[Target]]] = {
    FULL_SIZE: _full_size,
    ("many",): _many,
    ("formats",): _formats,
    ("stops",): _stops,
    ("curve",): _curve,
    ("row",): _row,
    ("real",): _real,
    ("growth",): _growth,
    ("startup",): _commands,
    ("records",): _commands,
}
