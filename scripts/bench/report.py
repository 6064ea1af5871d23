"""The results as Parquet and as Markdown, with target figures and verdicts.

Everything is computed from the measurements, so the Parquet file holds all of it.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tabulate import tabulate

from agr.models.tuning import MEMORY_FORMATS
from scripts.bench import demo, formats, full_size, growth, peers, startup
from scripts.bench.options import PARTS, Options
from scripts.bench.timing import Results, Spread, results_of

Column = Callable[[str], str]  # name of a row -> cell

PIPELINE_OF_BARE = 0.95
OVER_PEERS = {"inception_v3": 1.10, "vgg16": 1.30}  # on a plain network of timm
NEVER_BELOW = 1.0  # on any other
OVER_TUNED_PEERS = 0.97
OVER_FORMAT = 0.95  # what memory_format=auto takes, of the other one's speed
OF_BOUND, OVER_FIXED, ASR_POINTS = 0.75, 3.0, -1.0
FIXED_SOURCE = "inc_v3"
FEWER_PASSES = 4.0
OVER_ROW = {"agr": 2.5, "ifgsm": 1.1}
LINEAR, FLAT = 1.10, 50.0
SECONDS = {startup.HELP: 1.2, startup.FINISHED: 2.0, startup.TABLES: 2.0}
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


class Section(NamedTuple):
    """A section of the report: the settings of some parts."""

    title: str
    parts: tuple[str, ...]
    targets: Callable[[str, Results], Iterator[Target]]
    tables: Callable[[dict[str, Results]], str]


# ---- targets -------------------------------------------------------------------------------------


def targets(frame: pd.DataFrame) -> list[Target]:
    """Return every target that there are measurements of."""
    return [
        target
        for section in SECTIONS
        for setting, own in results_of(frame, section.parts).items()
        for target in section.targets(setting, own)
    ]


def _given(own: Results, network: str) -> list[str]:
    """Return the peers that were given this network, the plain or the tuned one."""
    return [name for name in own.names if name.endswith(network)]


def _full_size_targets(setting: str, own: Results) -> Iterator[Target]:
    if full_size.BARE in own.names:
        share = own.faster(full_size.PIPELINE, full_size.BARE)
        figure = f"{setting}: pipeline, of the bare loop"
        yield Target("limit", figure, share, at_least=PIPELINE_OF_BARE)
    architecture = setting.partition(",")[0].partition(".")[0]
    over_plain = OVER_PEERS.get(architecture, NEVER_BELOW)
    for network, limit in ((peers.PLAIN, over_plain), (peers.TUNED, OVER_TUNED_PEERS)):
        if against := own.closest(full_size.CALL, _given(own, network)):
            peer, ahead = against
            yield Target("peers", f"{setting}: plain call, times {peer}", ahead, at_least=limit)


def _formats_targets(setting: str, own: Results) -> Iterator[Target]:
    auto = _auto(own)
    (other,) = [name for name in own.names if name != auto]
    figure = f"{setting}: {auto}, as by memory_format=auto, times {other}"
    yield Target("formats", figure, own.faster(auto, other), at_least=OVER_FORMAT)


def _auto(own: Results) -> str:
    """Return the memory format that the rule takes."""
    return str(own.frame[own.frame["unit"] == formats.AUTO]["contender"].iloc[0])


def _stops_targets(setting: str, own: Results) -> Iterator[Target]:
    for name in demo.STOPPED:
        figure = f"{setting}: {name}, of the bound"
        yield Target("stops", figure, of_bound(own, name), at_least=OF_BOUND)
        against = own.closest(name, _given(own, peers.PLAIN))
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


def _curve_targets(setting: str, own: Results) -> Iterator[Target]:
    ours = sum(own.passes(demo.CURVE))
    times = {name: sum(own.passes(name)) / ours for name in own.names if name != demo.CURVE}
    if times:
        name = min(times, key=times.__getitem__)
        figure = f"{setting}: times fewer passes than {name}"
        yield Target("curve", figure, Spread.of([times[name]]), at_least=FEWER_PASSES)


def _row_targets(setting: str, own: Results) -> Iterator[Target]:
    if against := own.closest(demo.OWN_ROW, [n for n in own.names if n != demo.OWN_ROW]):
        name, ahead = against
        limit = OVER_ROW[setting.partition(",")[0]]
        yield Target("row", f"{setting}: times {name}", ahead, at_least=limit)


def _growth_targets(setting: str, own: Results) -> Iterator[Target]:
    if setting == growth.IMAGES:
        first, *more = own.names
        peaks = _peaks(own)
        slower = [own.faster(first, name) for name in more]
        fatter = [Spread.of(peaks[name] - peaks[first]) for name in more]
        figure = "time per image, worst of more images over the fewest"
        yield Target("growth", figure, max(slower), at_most=LINEAR)
        figure = "peak memory, worst of more images less the fewest, MB"
        yield Target("growth", figure, max(fatter), at_most=FLAT)


def _peaks(own: Results) -> pd.DataFrame:
    """Return peak memory in MB, a line per round and a column per number of images."""
    return own.frame.pivot(index="round", columns="contender", values="value")


def _startup_targets(setting: str, own: Results) -> Iterator[Target]:
    for name in own.names:
        limit = next((v for k, v in SECONDS.items() if name.startswith(k)), None)
        if limit is not None:
            yield Target("startup", f"{name}, seconds", own.seconds(name), at_most=limit)


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(frame: pd.DataFrame, about: dict[str, str]) -> str:
    """Return the whole report."""
    lines = ["# How fast agr is", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "",
        "Medians over rounds, the lowest and the highest round in brackets. In a round every",
        "contender of a table runs once, and ratios are taken within rounds.",
        "",
        "## Targets",
        "",
        _grid(_verdicts(frame), ("part", "figure", "asked for", "found", "reached")),
    ]
    for section in SECTIONS:
        if settings := results_of(frame, section.parts):
            lines += ["", f"## {section.title}", "", section.tables(settings)]
    return "\n".join(lines) + "\n"


def _verdicts(frame: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    measured = targets(frame)
    for part in PARTS:
        own = [t for t in measured if t.part == part]
        for t in own:
            yield part, t.figure, t.limit, t.measured.text(), "yes" if t.reached else "**no**"
        if not own:
            yield part, "—", "—", "—", "not measured"


def _full_size_table(setting: str, own: Results) -> str:
    columns: dict[str, Column] = {
        "s per image": partial(_per_image, own),
        "of the bare loop": lambda name: _ratio(own, name, full_size.BARE),
        "plain call is faster by": partial(_ratio, own, full_size.CALL),
        **_passes(own),
        "pixels as the pipeline's after 1 step, %": partial(_percent, own, full_size.SAME_1),
        "after 10, %": partial(_percent, own, full_size.SAME_ALL),
    }
    images = own.frame["images"].max()
    text = f"**{setting}**, {images} images\n\n{_table(own.names, columns)}"
    seconds = own.fact(full_size.TUNE, full_size.ONCE)
    if math.isnan(seconds):
        return text
    return f"{text}\n\n`tune` took {seconds:.1f} s, once{_paid_back(own, seconds)}."


def _paid_back(own: Results, seconds: float) -> str:
    """Return after how many images of ten steps the time of tuning is saved, as text."""
    against = own.closest(full_size.CALL, _given(own, peers.PLAIN))
    if not against:
        return ""
    speed = own.rates.median()
    saved = 1 / speed[against[0]] - 1 / speed[full_size.CALL]
    if saved <= 0:
        return ""
    return f"; paid back, against {against[0]}, after {seconds / saved:,.0f} images"


def _formats_table(settings: dict[str, Results]) -> str:
    last, contiguous = MEMORY_FORMATS
    columns: dict[str, Column] = {
        f"s per image, {last}": lambda setting: _per_image(settings[setting], last, 4),
        contiguous: lambda setting: _per_image(settings[setting], contiguous, 4),
        f"{last} is faster by": lambda setting: _ratio(settings[setting], last, contiguous),
        "auto takes": lambda setting: _auto(settings[setting]),
    }
    return _table(settings, columns)


def _stops_table(setting: str, own: Results) -> str:
    def stopped(cell: Column) -> Column:
        return lambda name: cell(name) if name in demo.STOPPED else ""

    def over(network: str) -> Column:
        return stopped(lambda name: _closest(own, name, _given(own, network)))

    columns: dict[str, Column] = {
        "images per s": partial(_rate, own),
        "white-box ASR, %": partial(_percent, own, demo.ASR),
        "steps": lambda name: _number(own.fact(name, demo.STEPS_USED), 2),
        "of the bound": stopped(lambda name: of_bound(own, name).text()),
        "times the best peer on the plain network": over(peers.PLAIN),
        "on the tuned one": over(peers.TUNED),
    }
    return f"**{setting}**\n\n{_table(own.names, columns)}"


def _curve_table(setting: str, own: Results) -> str:
    columns: dict[str, Column] = {
        **_passes(own),
        "s": partial(_seconds, own),
        f"{demo.GAP}, points": partial(_percent, own, demo.GAP),
    }
    units = [u for u in own.frame["unit"].unique() if u.startswith(demo.AFTER)]
    curves = {u.removeprefix(demo.AFTER): partial(_percent, own, u) for u in units}
    return (
        f"**{setting}**\n\n{_table(own.names, columns)}\n\n"
        f"{_table(own.names, curves, 'ASR, %, after step')}"
    )


def _row_table(setting: str, own: Results) -> str:
    columns: dict[str, Column] = {
        "s": partial(_seconds, own),
        "ours is faster by": partial(_ratio, own, demo.OWN_ROW),
        **{f"{u}, %": partial(_percent, own, u) for u in own.frame["unit"].unique() if u},
    }
    return f"**{setting}**\n\n{_table(own.names, columns)}"


def _growth_table(setting: str, own: Results) -> str:
    if setting != growth.IMAGES:
        head = f"{setting}, {own.frame['images'].max()} images at most"
        return _table(own.names, {"images per s": partial(_rate, own)}, head)
    peaks = _peaks(own)
    columns: dict[str, Column] = {
        "s per image": partial(_per_image, own, digits=4),
        "of the first": partial(_ratio, own, own.names[0]),
        "peak memory, MB": lambda name: Spread.of(peaks[name]).text(0),
    }
    return _table(own.names, columns)


def _startup_table(setting: str, own: Results) -> str:
    return _table(own.names, {"s": partial(_seconds, own)})


def _each(table: Callable[[str, Results], str]) -> Callable[[dict[str, Results]], str]:
    """Make the tables of a section from the table of a setting."""
    return lambda settings: "\n\n".join(table(name, own) for name, own in settings.items())


def _table(names: Iterable[str], columns: Mapping[str, Column], head: str = "") -> str:
    """Return a table with a row per name, and columns by their titles."""
    rows = [(name, *(cell(name) for cell in columns.values())) for name in names]
    return _grid(rows, (head, *columns))


def _grid(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    return tabulate(list(rows), head, "pipe", disable_numparse=True)


# ---- cells of contenders -------------------------------------------------------------------------


def _rate(own: Results, name: str) -> str:
    return Spread.of(own.rates[name]).text(1)


def _per_image(own: Results, name: str, digits: int = 3) -> str:
    return Spread.of(1 / own.rates[name]).text(digits)


def _seconds(own: Results, name: str) -> str:
    return own.seconds(name).text()


def _ratio(own: Results, ours: str, other: str) -> str:
    """Format how many times as fast; empty where one of them is not there, or they are the same."""
    there = ours != other and {ours, other} <= set(own.names)
    return own.faster(ours, other).text() if there else ""


def _closest(own: Results, ours: str, others: Sequence[str]) -> str:
    against = own.closest(ours, others)
    return against[1].text() if against else ""


def _passes(own: Results) -> dict[str, Column]:
    return {
        "forwards": lambda name: str(own.passes(name)[0]),
        "gradients": lambda name: str(own.passes(name)[1]),
    }


def _percent(own: Results, unit: str, name: str) -> str:
    return _number(100 * own.fact(name, unit), 1)


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


FULL_SIZE = ("limit", "peers")
SECTIONS = (
    Section("Ten steps at full size", FULL_SIZE, _full_size_targets, _each(_full_size_table)),
    Section("Memory formats", ("formats",), _formats_targets, _formats_table),
    Section("Stopping once fooled", ("stops",), _stops_targets, _each(_stops_table)),
    Section("ASR after every step", ("curve",), _curve_targets, _each(_curve_table)),
    Section("A row of a table", ("row",), _row_targets, _each(_row_table)),
    Section("Growth", ("growth",), _growth_targets, _each(_growth_table)),
    Section("Start", ("startup",), _startup_targets, _each(_startup_table)),
)


# ---- files ---------------------------------------------------------------------------------------


def about(options: Options) -> dict[str, str]:
    """Return the facts that figures depend on, by title."""
    from agr.evaluation.provenance import git_commit

    device = options.device
    if device.startswith("cuda"):
        device += f" {torch.cuda.get_device_name(device)}"
    else:
        device += f" {torch.backends.cpu.get_cpu_capability()}"
    versions = [f"{name} {version(name)}" for name in ("agr", "torch", "timm", "numpy")]
    libraries = [
        f"{name} {peers.library_version(name) or 'not installed: skipped'}"
        for name in peers.PACKAGES
    ]
    facts = {
        "device": device,
        "threads": str(options.threads),
        "precision": options.precision,
        "rounds": str(options.rounds),
        "parts": ", ".join(options.parts),
        "versions": ", ".join([*versions, f"Python {platform.python_version()}"]),
        "libraries": ", ".join(libraries),
    }
    return facts | ({"commit": commit} if (commit := git_commit()) else {})


def write(frame: pd.DataFrame, text: str, about: dict[str, str], folder: Path) -> list[Path]:
    """Write `bench.parquet` and `bench.md` into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet, report = folder / "bench.parquet", folder / "bench.md"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"about": json.dumps(about)}), parquet)
    report.write_text(text, encoding="utf-8")
    return [parquet, report]
