"""The results as Parquet and as Markdown, with target figures and verdicts.

Everything is computed from the measurements, so the Parquet file holds all of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import pandas as pd
from tabulate import tabulate

from agr.models.tuning import MEMORY_FORMATS
from agr.utils.text import plural
from scripts.bench import demo, full_size, growth, many, peers, row
from scripts.bench.options import PARTS
from scripts.bench.targets import (
    FULL_SIZE,
    chosen_format,
    given,
    of_bound,
    over_bare,
    peak_memory,
    targets,
)
from scripts.bench.timing import Results, Spread, results_of

Column = Callable[[str], str]  # name of a row -> cell


class Section(NamedTuple):
    """A section of the report: the settings of some parts."""

    title: str
    parts: tuple[str, ...]
    tables: Callable[[dict[str, Results]], str]


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
    against = own.closest(full_size.CALL, given(own, peers.PLAIN))
    if not against:
        return ""
    speed = own.rates.median()
    saved = 1 / speed[against[0]] - 1 / speed[full_size.CALL]
    if saved <= 0:
        return ""
    return f"; paid back, against {against[0]}, after {plural(round(seconds / saved), 'image')}"


def _many_table(settings: dict[str, Results]) -> str:
    columns: dict[str, Column] = {
        "s per image": lambda setting: _per_image(settings[setting], full_size.PIPELINE),
        "of the bare loop's time": lambda setting: over_bare(settings[setting]).text(),
        f"times {many.PEER}": lambda s: _ratio(settings[s], full_size.PIPELINE, many.PEER),
    }
    return _table(settings, columns)


def _formats_table(settings: dict[str, Results]) -> str:
    last, contiguous = MEMORY_FORMATS
    columns: dict[str, Column] = {
        f"s per image, {last}": lambda setting: _per_image(settings[setting], last, 4),
        contiguous: lambda setting: _per_image(settings[setting], contiguous, 4),
        f"{last} is faster by": lambda setting: _ratio(settings[setting], last, contiguous),
        "auto takes": lambda setting: chosen_format(settings[setting]),
    }
    return _table(settings, columns)


def _stops_table(setting: str, own: Results) -> str:
    def stopped(cell: Column) -> Column:
        return lambda name: cell(name) if name in demo.STOPPED else ""

    def over(network: str) -> Column:
        return stopped(lambda name: _closest(own, name, given(own, network)))

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
        "ours is faster by": partial(_ratio, own, row.OWN_ROW),
        **{f"{u}, %": partial(_percent, own, u) for u in own.frame["unit"].unique() if u},
    }
    return f"**{setting}**\n\n{_table(own.names, columns)}"


def _real_table(setting: str, own: Results) -> str:
    peers_there = [name for name in row.THEIR_REAL.values() if name in own.names]
    columns: dict[str, Column] = {
        "s": partial(_seconds, own),
        **{
            f"times {name.removesuffix(row.PNG)}": partial(_times, own, name)
            for name in peers_there
        },
        f"{row.WHITE_BOX}, %": partial(_percent, own, row.WHITE_BOX),
        f"{row.TRANSFER}, %": partial(_percent, own, row.TRANSFER),
    }
    return f"**{setting}**\n\n{_table(own.names, columns)}"


def _growth_table(setting: str, own: Results) -> str:
    if setting != growth.IMAGES:
        head = f"{setting}, {own.frame['images'].max()} images at most"
        return _table(own.names, {"images per s": partial(_rate, own)}, head)
    peaks = peak_memory(own)
    columns: dict[str, Column] = {
        "s per image": partial(_per_image, own, digits=4),
        "of the first": partial(_ratio, own, own.names[0]),
        "peak memory, MB": lambda name: Spread.of(peaks[name]).text(0),
    }
    return _table(own.names, columns)


def _startup_table(setting: str, own: Results) -> str:
    return _table(own.names, {"s": partial(_seconds, own)})


def _records_table(setting: str, own: Results) -> str:
    peaks = peak_memory(own)
    columns: dict[str, Column] = {
        "s": partial(_seconds, own),
        "peak memory, MB": lambda name: Spread.of(peaks[name]).text(0),
    }
    return f"**{setting}**\n\n{_table(own.names, columns)}"


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


def _times(own: Results, other: str, name: str) -> str:
    return _ratio(own, name, other)


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


SECTIONS = (
    Section("Ten steps at full size", FULL_SIZE, _each(_full_size_table)),
    Section("Many gradients per step", ("many",), _many_table),
    Section("Memory formats", ("formats",), _formats_table),
    Section("Stopping once fooled", ("stops",), _each(_stops_table)),
    Section("ASR after every step", ("curve",), _each(_curve_table)),
    Section("A row of a table", ("row",), _each(_row_table)),
    Section("A row of real networks", ("real",), _each(_real_table)),
    Section("Growth", ("growth",), _each(_growth_table)),
    Section("Start", ("startup",), _each(_startup_table)),
    Section("Records of many rows", ("records",), _each(_records_table)),
)
