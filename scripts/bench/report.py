"""The results as Parquet and as Markdown, with what was asked for and whether it is reached.

All that is said here is computed from the rows, so that the Parquet file holds everything.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tabulate import tabulate

from scripts.bench import demo, full_size, growth, peers, startup
from scripts.bench.options import PARTS, Options
from scripts.bench.timing import Spread, closest, fact, faster, rates

PIPELINE_OF_BARE = 0.95
OVER_PEERS = {"inception_v3": 1.10, "vgg16": 1.30}  # on a plain network of timm
NEVER_BELOW = 1.0  # on any other
OVER_TUNED_PEERS = 0.97
OF_BOUND, OVER_FIXED, ASR_POINTS = 0.75, 3.0, -1.0
FIXED_SOURCE = "inc_v3"
FEWER_PASSES = 4.0
OVER_ROW = {"agr": 2.5, "ifgsm": 1.1}
LINEAR, FLAT = 1.10, 50.0
SECONDS = {
    startup.HELP: 1.2,
    startup.CONFIG: None,
    startup.FINISHED: 2.0,
    startup.TABLES: 2.0,
}
ROUNDING = 1e-9  # a figure that is its limit has reached it


class Target(NamedTuple):
    """A figure that is asked for, and what was found."""

    part: str
    what: str
    found: Spread
    at_least: float | None = None
    at_most: float | None = None

    @property
    def reached(self) -> bool:
        """Whether the median is."""
        if self.at_least is not None:
            return self.found.median >= self.at_least - ROUNDING
        return self.at_most is not None and self.found.median <= self.at_most + ROUNDING

    @property
    def asked(self) -> str:
        """As "≥ 0.95"."""
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


# ---- what was asked for --------------------------------------------------------------------------


def targets(frame: pd.DataFrame) -> list[Target]:
    """Every target figure that the rows can speak of."""
    makers: Sequence[Callable[[pd.DataFrame], Iterator[Target]]]
    makers = (_full_size, _stops, _curve, _row, _growth, _startup)
    return [target for maker in makers for target in maker(frame)]


def _settings(frame: pd.DataFrame, *parts: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """The settings of the parts, each with its rows."""
    own = frame[frame["part"].isin(parts)]
    for setting in own["setting"].unique():
        yield setting, own[own["setting"] == setting]


def _timed(own: pd.DataFrame) -> list[str]:
    return list(own[own["seconds"].notna()]["contender"].unique())


def _full_size(frame: pd.DataFrame) -> Iterator[Target]:
    for setting, own in _settings(frame, "limit", "peers"):
        names = _timed(own)
        if full_size.BARE in names:
            found = faster(own, full_size.PIPELINE, full_size.BARE)
            what = f"{setting}: pipeline, of the bare loop"
            yield Target("limit", what, found, at_least=PIPELINE_OF_BARE)
        plain, tuned = _given(own, full_size.PLAIN), _given(own, full_size.TUNED)
        for given, limit in ((plain, _over_peers(setting)), (tuned, OVER_TUNED_PEERS)):
            if against := closest(own, full_size.CALL, given):
                what = f"{setting}: plain call, times {against[0]}"
                yield Target("peers", what, against[1], at_least=limit)


def _over_peers(setting: str) -> float:
    """What is asked for on a plain network, by its architecture."""
    return OVER_PEERS.get(setting.partition(",")[0].partition(".")[0], NEVER_BELOW)


def _stops(frame: pd.DataFrame) -> Iterator[Target]:
    for setting, own in _settings(frame, "stops"):
        fixed = _given(own, full_size.PLAIN)
        for name in demo.STOPPED:
            what = f"{setting}: {name}, of the bound"
            yield Target("stops", what, of_bound(own, name), at_least=OF_BOUND)
            against = closest(own, name, fixed)
            if against and setting.startswith(f"{FIXED_SOURCE},"):
                peer, found = against
                what = f"{setting}: {name}, times {peer}"
                yield Target("stops", what, found, at_least=OVER_FIXED)
                gap = 100 * (fact(own, name, demo.ASR) - fact(own, peer, demo.ASR))
                what = f"{setting}: {name}, its white-box ASR less theirs, points"
                yield Target("stops", what, Spread(gap, gap, gap), at_least=ASR_POINTS)


def _given(own: pd.DataFrame, network: str) -> list[str]:
    """The peers that were given this network, the plain or the tuned one."""
    return [n for n in _timed(own) if n.endswith(network)]


def of_bound(own: pd.DataFrame, name: str) -> Spread:
    """The speed of a stopped attack as a share of what its steps cost at least, by rounds."""
    found, steps = rates(own), fact(own, name, demo.STEPS_USED)
    prices = zip(found[demo.FORWARD], found[demo.GRADIENT], strict=True)
    limit = [demo.bound(steps, forward, gradient) for forward, gradient in prices]
    return Spread.of(found[name] / limit)


def _curve(frame: pd.DataFrame) -> Iterator[Target]:
    for setting, own in _settings(frame, "curve"):
        passes = _passes(own)
        others = {n: count / passes[demo.CURVE] for n, count in passes.items() if n != demo.CURVE}
        if others:
            name = min(others, key=others.__getitem__)
            found = Spread(*[others[name]] * 3)
            what = f"{setting}: times fewer passes than {name}"
            yield Target("curve", what, found, at_least=FEWER_PASSES)


def _passes(own: pd.DataFrame) -> dict[str, float]:
    """Forwards and gradients of whole batches, by contender."""
    timed = own[own["seconds"].notna()].groupby("contender", sort=False)
    passes = timed["forwards"].first() + timed["backwards"].first()
    return {str(name): float(count) for name, count in passes.items()}


def _row(frame: pd.DataFrame) -> Iterator[Target]:
    for setting, own in _settings(frame, "row"):
        others = [n for n in _timed(own) if n != demo.OWN_ROW]
        if against := closest(own, demo.OWN_ROW, others):
            limit = OVER_ROW[setting.partition(",")[0]]
            what = f"{setting}: times {against[0]}"
            yield Target("row", what, against[1], at_least=limit)


def _growth(frame: pd.DataFrame) -> Iterator[Target]:
    for setting, own in _settings(frame, "growth"):
        if setting == growth.IMAGES:
            slowest, fattest = slowdown(own), fattening(own)
            what = "time per image, worst of more images over the fewest"
            yield Target("growth", what, slowest, at_most=LINEAR)
            what = "peak memory, worst of more images less the fewest, MB"
            yield Target("growth", what, fattest, at_most=FLAT)


def slowdown(own: pd.DataFrame) -> Spread:
    """Time per image at the worst of the numbers of images, over that of the smallest."""
    first, *more = _timed(own)
    return max((faster(own, first, n) for n in more), key=lambda s: s.median)


def fattening(own: pd.DataFrame) -> Spread:
    """MB that the process with the worst number of images needs more than the smallest."""
    peaks = own.pivot(index="round", columns="contender", values="value")
    first, *more = _timed(own)
    return max((Spread.of(peaks[n] - peaks[first]) for n in more), key=lambda s: s.median)


def _startup(frame: pd.DataFrame) -> Iterator[Target]:
    for _, own in _settings(frame, "startup"):
        for name in _timed(own):
            limit = next((v for k, v in SECONDS.items() if name.startswith(k)), None)
            if limit is not None:
                what = f"{name}, seconds"
                yield Target("startup", what, _seconds(own, name), at_most=limit)


def _seconds(own: pd.DataFrame, name: str) -> Spread:
    return Spread.of(own[own["contender"] == name]["seconds"].dropna())


# ---- Markdown ------------------------------------------------------------------------------------


def markdown(frame: pd.DataFrame, about: dict[str, str]) -> str:
    """The whole report."""
    lines = ["# How fast agr is", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += [
        "",
        "Medians over rounds, the lowest and the highest round in brackets. In a round every",
        "contender of a table runs once, and ratios are taken within rounds.",
        "",
        "## Targets",
        "",
        _table(_verdicts(frame), ("part", "figure", "asked for", "found", "reached")),
    ]
    sections = {
        "Ten steps at full size": _full_size_tables,
        "Stopping once fooled": _stops_tables,
        "ASR after every step": _curve_tables,
        "A row of a table": _row_tables,
        "Growth": _growth_tables,
        "Start": _startup_tables,
    }
    for title, tables in sections.items():
        if found := list(tables(frame)):
            lines += ["", f"## {title}", "", "\n\n".join(found)]
    return "\n".join(lines) + "\n"


def _verdicts(frame: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    found = targets(frame)
    for part in PARTS:
        own = [t for t in found if t.part == part]
        for t in own:
            yield part, t.what, t.asked, t.found.text(), "yes" if t.reached else "**no**"
        if not own:
            yield part, "—", "—", "—", "not measured"


def _full_size_tables(frame: pd.DataFrame) -> Iterator[str]:
    for setting, own in _settings(frame, "limit", "peers"):
        names = [n for n in _timed(own) if n != full_size.TUNE]
        if not names:
            yield from _tune_line(frame, setting, own)
            continue
        rows = []
        for name in names:
            rows.append(
                (
                    name,
                    _per_image(own, name),
                    _ratio(own, name, full_size.BARE),
                    _ratio(own, full_size.CALL, name),
                    *_own_passes(own, name),
                    _percent(fact(own, name, full_size.SAME_1)),
                    _percent(fact(own, name, full_size.SAME_ALL)),
                )
            )
        head = ("", "s per image", "of the bare loop", "plain call is faster by", "forwards")
        same = "pixels as the pipeline's after 1 step, %", "after 10, %"
        yield f"**{setting}**, {_images_of(own)} images\n\n" + _table(
            rows, (*head, "gradients", *same)
        )


def _tune_line(frame: pd.DataFrame, setting: str, own: pd.DataFrame) -> Iterator[str]:
    """What tuning takes, and after how many images of ten steps it has paid."""
    seconds = _seconds(own, full_size.TUNE).median
    text = f"`tune` of **{setting}** took {seconds:.1f} s, once"
    ifgsm = frame[frame["setting"] == f"{setting}, ifgsm"]
    plain = _given(ifgsm, full_size.PLAIN)
    against = closest(ifgsm, full_size.CALL, plain)
    if against:
        speed = rates(ifgsm).median()
        saved = 1 / speed[against[0]] - 1 / speed[full_size.CALL]
        if saved > 0:
            text += f"; paid back, against {against[0]}, after {seconds / saved:,.0f} images"
    yield f"{text}."


def _stops_tables(frame: pd.DataFrame) -> Iterator[str]:
    for setting, own in _settings(frame, "stops"):
        speed, rows = rates(own), []
        for name in _timed(own):
            ours = name in demo.STOPPED
            plain, tuned = _given(own, full_size.PLAIN), _given(own, full_size.TUNED)
            rows.append(
                (
                    name,
                    Spread.of(speed[name]).text(1),
                    _percent(fact(own, name, demo.ASR)),
                    _number(fact(own, name, demo.STEPS_USED)),
                    of_bound(own, name).text() if ours else "",
                    *(_closest(own, name, peers) if ours else "" for peers in (plain, tuned)),
                )
            )
        over = "times the best peer on the plain network", "on the tuned one"
        head = ("", "images per s", "white-box ASR, %", "steps", "of the bound", *over)
        yield f"**{setting}**\n\n" + _table(rows, head)


def _curve_tables(frame: pd.DataFrame) -> Iterator[str]:
    for setting, own in _settings(frame, "curve"):
        names, rows, curves = _timed(own), [], []
        units = [u for u in own["unit"].unique() if u.startswith(demo.AFTER)]
        for name in names:
            gap = fact(own, name, demo.GAP)
            seconds = _seconds(own, name).text()
            rows.append((name, *_own_passes(own, name), seconds, f"{100 * gap:.1f}"))
            curves.append((name, *(f"{100 * fact(own, name, u):.1f}" for u in units)))
        head = ("", "forwards", "gradients", "s", f"{demo.GAP}, points")
        text = _table(rows, head)
        steps = [u.removeprefix(demo.AFTER) for u in units]
        yield f"**{setting}**\n\n{text}\n\n" + _table(curves, ("ASR, %, after step", *steps))


def _row_tables(frame: pd.DataFrame) -> Iterator[str]:
    for setting, own in _settings(frame, "row"):
        names = _timed(own)
        units = [u for u in own["unit"].unique() if u]
        rows = [
            (
                name,
                _seconds(own, name).text(),
                _ratio(own, demo.OWN_ROW, name),
                *(_percent(fact(own, name, u)) for u in units),
            )
            for name in names
        ]
        head = ("", "s", "ours is faster by", *(f"{u}, %" for u in units))
        yield f"**{setting}**\n\n" + _table(rows, head)


def _growth_tables(frame: pd.DataFrame) -> Iterator[str]:
    for setting, own in _settings(frame, "growth"):
        names = _timed(own)
        if setting == growth.IMAGES:
            peaks = own.pivot(index="round", columns="contender", values="value")
            rows = [
                (n, _per_image(own, n, 4), _ratio(own, names[0], n), Spread.of(peaks[n]).text(0))
                for n in names
            ]
            head = ("", "s per image", "of the first", "peak memory, MB")
            yield _table(rows, head)
        else:
            speed = rates(own)
            pairs = [(n, Spread.of(speed[n]).text(1)) for n in names]
            yield _table(pairs, (f"{setting}, {_images_of(own)} images at most", "images per s"))


def _startup_tables(frame: pd.DataFrame) -> Iterator[str]:
    for _, own in _settings(frame, "startup"):
        yield _table([(n, _seconds(own, n).text()) for n in _timed(own)], ("", "s"))


def _table(rows: Iterable[Sequence[str]], head: Sequence[str]) -> str:
    return tabulate(list(rows), head, "pipe", disable_numparse=True)


def _per_image(own: pd.DataFrame, name: str, digits: int = 3) -> str:
    return Spread.of(1 / rates(own)[name]).text(digits)


def _ratio(own: pd.DataFrame, ours: str, other: str) -> str:
    """How many times as fast; empty where one of them is not there, or they are the same."""
    there = ours != other and {ours, other} <= set(_timed(own))
    return faster(own, ours, other).text() if there else ""


def _closest(own: pd.DataFrame, ours: str, others: Sequence[str]) -> str:
    against = closest(own, ours, others)
    return against[1].text() if against else ""


def _own_passes(own: pd.DataFrame, name: str) -> tuple[str, str]:
    first = own[(own["contender"] == name) & own["seconds"].notna()].iloc[0]
    return str(first["forwards"]), str(first["backwards"])


def _images_of(own: pd.DataFrame) -> int:
    return int(own["images"].max())


def _percent(value: float) -> str:
    return "" if pd.isna(value) else f"{100 * value:.1f}"


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.2f}"


# ---- files ---------------------------------------------------------------------------------------


def about(options: Options) -> dict[str, str]:
    """What the numbers depend on, in words."""
    from agr.evaluation.provenance import git_commit

    device = options.device
    if device.startswith("cuda"):
        device += f" {torch.cuda.get_device_name(device)}"
    else:
        device += f" {torch.backends.cpu.get_cpu_capability()}"
    libraries = {name: v or "not installed: skipped" for name, v in peers.versions().items()}
    own = {name: version(name) for name in ("agr", "torch", "timm", "numpy")}
    said = {
        "device": device,
        "threads": str(options.threads),
        "precision": options.precision,
        "rounds": str(options.rounds),
        "parts": ", ".join(options.parts),
        "versions": ", ".join(f"{k} {v}" for k, v in own.items())
        + f", Python {platform.python_version()}",
        "libraries": ", ".join(f"{k} {v}" for k, v in libraries.items()),
    }
    return said | ({"commit": commit} if (commit := git_commit()) else {})


def write(frame: pd.DataFrame, text: str, said: dict[str, Any], folder: Path) -> list[Path]:
    """`bench.parquet` and `bench.md` in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet, report = folder / "bench.parquet", folder / "bench.md"
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"about": json.dumps(said)}), parquet)
    report.write_text(text, encoding="utf-8")
    return [parquet, report]
