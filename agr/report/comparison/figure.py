"""The figure of a comparison: lines where a key is a number, else bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from agr.report.comparison.axes import TARGET
from agr.report.comparison.numbers import ALL, Comparison, Entry
from agr.report.figures.style import AttackStyle, attack_styles, legend, palette, styled
from agr.report.outcomes import distinct

TITLE = "mean transfer, %"


class Point(NamedTuple):
    """One mean transfer of the figure."""

    panel: str  # title
    line: str  # what its line or bar is
    x: float
    entry: Entry


def draw_comparison(comparison: Comparison) -> tuple[Figure, str]:
    """Draw the mean transfer of every row; return the figure and its caption."""
    axis = _number_axis(comparison)
    points = _points(comparison, axis)
    styles = line_styles(comparison, list(dict.fromkeys(point.line for point in points)))
    with styled():
        if axis is None:
            return _bars(points, styles), "Mean transfer; bars are 95 % intervals over images."
        figure = _lines(points, styles, axis)
    return figure, f"Mean transfer against {axis}; bands are 95 % intervals over images."


def _number_axis(comparison: Comparison) -> str | None:
    """The key that is a number: the columns', else the first of the rows."""
    keys = [comparison.layout.column, *comparison.layout.rows]
    known = [key for key in keys if key != TARGET and comparison.axes[key].numeric]
    return next((key for key in known if len(comparison.axes[key].titles) > 1), None)


def _points(comparison: Comparison, axis: str | None) -> list[Point]:
    rows, column = comparison.layout.rows, comparison.layout.column
    points = []
    for e in comparison.entries:
        if not e.of_all or e.value != e.value:
            continue
        named = dict(zip(rows, comparison.labels(e.row), strict=True))
        values = dict(zip(rows, e.row, strict=True))
        if column not in (TARGET, axis):
            named[column] = comparison.axes[column].titles[e.column]
        values[column] = e.column
        x = float(values[axis]) if axis else 0.0
        panel = named.pop("source", "") + " sources" * (values.get("source") == ALL)
        line = ", ".join(text for key, text in named.items() if key != axis)
        points.append(Point(panel, line or TITLE.partition(",")[0], x, e))
    return points


def line_styles(comparison: Comparison, lines: Sequence[str]) -> dict[str, AttackStyle]:
    """Return a style per line: its attack's where lines are attacks, as in every other figure."""
    titles = distinct({c.config.attack.name: c.config.attack.title for c in comparison.cells})
    by_title = {style.title: style for style in attack_styles(comparison.cells, titles).values()}
    return {line: by_title[line] for line in lines} if {*lines} <= {*by_title} else palette(lines)


def _lines(points: Sequence[Point], styles: dict[str, AttackStyle], axis: str) -> Figure:
    panels = list(dict.fromkeys(point.panel for point in points))
    across = min(3, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(max(4.5, 2.9 * across), 2.6 * down + 0.6))
    grid = figure.subplots(down, across, squeeze=False, sharex=True, sharey=True)
    for place, title in zip(grid.flat, panels, strict=False):
        for line, style in styles.items():
            mine = sorted(
                (p for p in points if (p.panel, p.line) == (title, line)), key=lambda p: p.x
            )
            x = [p.x for p in mine]
            low, high = [p.entry.low for p in mine], [p.entry.high for p in mine]
            place.fill_between(x, low, high, color=style.colour, alpha=0.15, lw=0)
            place.plot(x, [p.entry.value for p in mine], **style.line())
        place.set_title(_crafted(title))
        place.set_xlabel(axis)
        place.set_xticks(sorted({p.x for p in points}))
        place.set_ylim(bottom=0)
    for place in grid.flat[len(panels) :]:
        place.set_axis_off()
    for row in grid:
        row[0].set_ylabel(TITLE)
    legend(figure, list(styles.values()))
    return figure


def _bars(points: Sequence[Point], styles: dict[str, AttackStyle]) -> Figure:
    panels = list(dict.fromkeys(point.panel for point in points))
    lines = list(styles)
    width = max(4.5, 1.6 + 2.6 * len(panels))
    figure = Figure(figsize=(width, 0.7 + 0.24 * len(lines)))
    grid = figure.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)[0]
    for place, title in zip(grid, panels, strict=True):
        for point in points:
            if point.panel == title:
                _bar(place, lines.index(point.line), point.entry, styles[point.line])
        place.set_title(_crafted(title))
        place.set_xlabel(TITLE)
    grid[0].set_yticks(range(len(lines)), [styles[line].title for line in lines])
    grid[0].invert_yaxis()
    return figure


def _bar(place: Axes, y: int, entry: Entry, style: AttackStyle) -> None:
    arms = [[max(0.0, entry.value - entry.low)], [max(0.0, entry.high - entry.value)]]
    face = "white" if style.stopped else style.colour
    bars = {"elinewidth": 1, "ecolor": "#555555"}
    place.barh(
        y, entry.value, 0.7, xerr=arms, error_kw=bars, edgecolor=style.colour, facecolor=face
    )


def _crafted(panel: str) -> str:
    """A panel's title: the source, or how many."""
    return f"crafted on {panel}" if panel else ""
