"""The figures, drawn with matplotlib from the frames of `series`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agr.report.figures.style import AttackStyle, legend
from agr.report.perturbations import RgbArray

Styles = Mapping[str, AttackStyle]
Names = Mapping[str, str]
HEAT = "cividis"  # the same to all eyes, and in grey


def by_step(
    frame: pd.DataFrame, styles: Styles, names: Names, columns: Sequence[str], title: str
) -> Figure:
    """Draw a mean and its interval (`columns`) against step, a panel per source."""
    sources = list(dict.fromkeys(frame["source"]))
    figure, panels = _panels(len(sources))
    for panel, source in zip(panels, sources, strict=True):
        mine = frame[frame["source"] == source]
        _lines(panel, mine, styles, "step", columns)
        panel.set_title(names[source])
        panel.set_xlabel("step")
        panel.set_xticks(range(0, int(mine["step"].max()) + 1, 2))
        panel.ticklabel_format(axis="y", useOffset=False)
    for panel in panels[:: min(3, len(panels))]:  # where a row of panels begins
        panel.set_ylabel(title)
    legend(figure, _shown(frame, styles))
    return figure


def over_eps(frame: pd.DataFrame, styles: Styles, names: Names) -> Figure:
    """ASR against eps: white-box above and mean transfer below, a column per source."""
    sources = list(dict.fromkeys(frame["source"]))
    figure = Figure(figsize=(max(4.0, 2.7 * len(sources)), 4.6))
    grid = figure.subplots(2, len(sources), squeeze=False, sharex=True, sharey=True)
    kinds = (("white_box", "white-box ASR, %"), ("transfer", "mean transfer, %"))
    for row, (kind, title) in zip(grid, kinds, strict=True):
        for panel, source in zip(row, sources, strict=True):
            mine = frame[frame["source"] == source]
            _lines(panel, mine, styles, "eps", (kind, f"{kind}_low", f"{kind}_high"))
        row[0].set_ylabel(title)
    for panel, source in zip(grid[0], sources, strict=True):
        panel.set_title(f"crafted on {names[source]}")
    for panel in grid[1]:
        panel.set_xlabel("eps, 0-255 scale")
        panel.set_xticks(sorted(frame["eps"].unique()))
        panel.xaxis.set_major_formatter("{x:g}")
    legend(figure, _shown(frame, styles))
    return figure


def _lines(
    panel: Axes, frame: pd.DataFrame, styles: Styles, x: str, columns: Sequence[str]
) -> None:
    """A line per attack with its interval as a band."""
    middle, low, high = columns
    for attack, style in styles.items():
        mine = frame[frame["attack"] == attack]
        if len(mine):
            panel.fill_between(mine[x], mine[low], mine[high], color=style.colour, alpha=0.15, lw=0)
            panel.plot(mine[x], mine[middle], **style.line())


def matrix(frame: pd.DataFrame, styles: Styles, names: Names) -> Figure:
    """ASR of every source and target as a heat map, a panel per attack."""
    attacks = [attack for attack in styles if (frame["attack"] == attack).any()]
    sources = list(dict.fromkeys(frame["source"]))
    targets = list(dict.fromkeys(frame["target"]))
    figure, panels = _panels(len(attacks), width=2.6, height=2.5, share=False)
    drawn: Any = None
    for panel, attack in zip(panels, attacks, strict=True):
        mine = frame[frame["attack"] == attack]
        wide = mine.pivot(index="source", columns="target", values="asr")
        values = wide.reindex(index=sources, columns=targets).to_numpy(dtype=float)
        drawn = _heat(panel, values, size=6.5)
        panel.set_title(styles[attack].title)
        panel.set_xticks(range(len(targets)), [names[t] for t in targets], rotation=45, ha="right")
        panel.set_yticks(range(len(sources)), [names[s] for s in sources])
    figure.colorbar(drawn, ax=panels, label="ASR, %", shrink=0.6, aspect=30)
    figure.supxlabel("target", fontsize=9)
    figure.supylabel("source", fontsize=9)
    return figure


def frontier(
    frame: pd.DataFrame, styles: Styles, names: Names, size: str, title: str, **limit: float
) -> Figure:
    """Transfer against a size of the perturbation, a point per attack, a panel per norm.

    `size` is a column, `title` that of its axis, and `limit` its end: left or right.
    """
    norms = list(dict.fromkeys(frame["norm"]))
    figure = Figure(figsize=(max(4.5, 4.0 * len(norms)), 3.6))
    panels = list(figure.subplots(1, len(norms), squeeze=False, sharey=True)[0])
    for panel, norm in zip(panels, norms, strict=True):
        for row in frame[frame["norm"] == norm].to_dict("records"):
            x, y, style = row[size], row["transfer"], styles[row["attack"]]
            spread = {
                "xerr": _ends(x, row[f"{size}_low"], row[f"{size}_high"]),
                "yerr": _ends(y, row["transfer_low"], row["transfer_high"]),
            }
            panel.errorbar(x, y, **spread, ecolor=style.colour, elinewidth=1, **style.point())
        panel.set_title(names[norm])
        panel.set_xlabel(title)
        panel.set_xlim(**limit)
        panel.set_ylim(bottom=0)
        panel.xaxis.set_major_locator(MaxNLocator(6))
    panels[0].set_ylabel("mean transfer, %")
    legend(figure, _shown(frame, styles))
    return figure


def _ends(middle: float, low: float, high: float) -> list[list[float]]:
    """Return the lengths of an interval's arms, which rounding must not make negative."""
    return [[max(0.0, middle - low)], [max(0.0, high - middle)]]


def distributions(steps: pd.DataFrame, sizes: pd.DataFrame, styles: Styles, names: Names) -> Figure:
    """Draw the steps that images needed and the sizes of their perturbations, a row per norm."""
    norms = list(dict.fromkeys(sizes["norm"]))
    attacks = [attack for attack in styles if (sizes["attack"] == attack).any()]
    figure = Figure(figsize=(7.2, (0.9 + 0.22 * len(attacks)) * len(norms)))
    grid = figure.subplots(len(norms), 2, squeeze=False, sharey="row")
    for (left, right), norm in zip(grid, norms, strict=True):
        _needed(left, steps[steps["norm"] == norm], attacks)
        _boxes(right, sizes[sizes["norm"] == norm], attacks, styles)
        left.set_yticks(range(len(attacks)), [styles[a].title for a in attacks])
        left.set_title(f"{names[norm]}: step of first success, % of images")
        right.set_title(f"{names[norm]}: ‖v‖₂/‖x‖₂ (5, 25, 50, 75, 95 %)")
    return figure


def _needed(panel: Axes, frame: pd.DataFrame, attacks: Sequence[str]) -> None:
    """The share of images by step, as a heat map with numbers; "never" comes last."""
    most = max([int(frame["step"].max()), 1]) if len(frame) else 1
    first = 0 if (frame["step"] == 0).any() else 1  # fooled before any step
    columns = [*range(first, most + 1), -1]
    wide = frame.pivot(index="attack", columns="step", values="share")
    values = wide.reindex(index=list(attacks), columns=columns).to_numpy(dtype=float)
    _heat(panel, values, size=6)
    panel.set_xticks(range(len(columns)), [str(c) if c >= 0 else "never" for c in columns], size=6)


def _heat(panel: Axes, values: NDArray[np.float64], size: float) -> Any:
    """Percentages as a heat map with their numbers; what is NaN stays empty."""
    panel.grid(visible=False)
    for (i, j), value in np.ndenumerate(values):
        if value == value:
            ink = "black" if value > 60 else "white"
            panel.text(j, i, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=size)
    return panel.imshow(values, cmap=HEAT, vmin=0, vmax=100, aspect="auto")


def _boxes(panel: Axes, frame: pd.DataFrame, attacks: Sequence[str], styles: Styles) -> None:
    """A box per attack, from quantiles."""
    for row in frame.to_dict("records"):
        y, colour = attacks.index(row["attack"]), styles[row["attack"]].colour
        panel.plot([row["q05"], row["q95"]], [y, y], color=colour, lw=1)
        panel.plot([row["q25"], row["q75"]], [y, y], color=colour, lw=6, solid_capstyle="butt")
        panel.plot(row["q50"], y, "|", color="white", markersize=7, markeredgewidth=1.5)
    panel.set_xlim(left=0)


def pictures(rows: Sequence[tuple[str, Sequence[RgbArray], Sequence[str]]], gain: int) -> Figure:
    """Clean image, perturbation and adversarial image of each attack (Figure 1).

    `rows` are an attack's title, its three images and what stands below each.
    """
    blocks = 2 if len(rows) > 4 else 1
    lines = -(-len(rows) // blocks)
    figure = Figure(figsize=(4.2 * blocks, 1.75 * lines + 0.3))
    grid = figure.subplots(lines, 3 * blocks, squeeze=False)
    for panel in grid.flat:
        panel.set_axis_off()
    for i, (title, images, texts) in enumerate(rows):
        block, line = divmod(i, lines)
        for j, (image, text) in enumerate(zip(images, texts, strict=True)):
            panel = grid[line, 3 * block + j]
            panel.imshow(image, interpolation="nearest")
            panel.text(0.5, -0.04, text, ha="center", va="top", transform=panel.transAxes, size=6.5)
        grid[line, 3 * block + 1].set_title(title)
    for block in range(blocks):
        grid[0, 3 * block].set_title("clean")
        grid[0, 3 * block + 2].set_title("adversarial")
    figure.suptitle(f"perturbations are scaled by {gain:g} around grey", fontsize=8)
    return figure


def _panels(
    many: int, *, width: float = 2.4, height: float = 2.0, share: bool = True
) -> tuple[Figure, list[Axes]]:
    """Panels of one size, at most three in a row."""
    across = min(3, max(1, many))
    down = -(-max(1, many) // across)
    figure = Figure(figsize=(max(4.2, width * across), height * down + 0.5))
    grid = figure.subplots(down, across, squeeze=False, sharex=share, sharey=share)
    panels = list(grid.flat)
    for panel in panels[many:]:
        panel.set_axis_off()
    return figure, panels[:many]


def _shown(frame: pd.DataFrame, styles: Styles) -> list[AttackStyle]:
    return [style for attack, style in styles.items() if (frame["attack"] == attack).any()]
