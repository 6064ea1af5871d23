"""Style of all figures: one palette that colour-blind readers can tell apart, readable in print.

An attack and the same attack with a stop have one colour; the stopped one is dashed and its markers
are hollow. Colours are those of Okabe and Ito: Color universal design (2008).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agr.config.cell import Cell
from agr.config.schema import SLOTS
from agr.utils.hashing import digest

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = "osD^v<>phd8H"  # all of which can be hollow
SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, and has ∞, ₂ and ‖
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "text.parse_math": False,  # a "$" in a title is a "$"
    "pdf.fonttype": 42,  # text stays text
}


class AttackStyle(NamedTuple):
    """Colour, marker and title of an attack in every figure."""

    title: str
    colour: str
    marker: str
    stopped: bool

    def line(self) -> dict[str, Any]:
        """Keywords of a line."""
        return {
            "label": self.title,
            "color": self.colour,
            "linestyle": "--" if self.stopped else "-",
            **self.point(),
        }

    def point(self) -> dict[str, Any]:
        """Keywords of a marker."""
        face = "white" if self.stopped else self.colour
        return {"marker": self.marker, "markerfacecolor": face, "markeredgecolor": self.colour}


def attack_styles(cells: Sequence[Cell], names: Mapping[str, str]) -> dict[str, AttackStyle]:
    """Choose the style of each attack of some cells, by name; `names` are titles by name."""
    kinds: dict[str, int] = {}
    found: dict[str, AttackStyle] = {}
    for cell in cells:
        a = cell.config.attack
        # What an attack is apart from its stop.
        given = a.images and a.images.sha256
        parts = [getattr(a, slot) for slot in SLOTS if slot != "stop"]
        rest = digest([a.steps, a.size, *parts, given])
        kind = kinds.setdefault(rest, len(kinds))
        colour, marker = COLOURS[kind % len(COLOURS)], MARKERS[kind % len(MARKERS)]
        found.setdefault(a.name, AttackStyle(names[a.name], colour, marker, a.stop is not None))
    return found


def palette(titles: Sequence[str]) -> dict[str, AttackStyle]:
    """Give each of some titles a style of its own, by title."""
    return {
        title: AttackStyle(title, COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], False)
        for i, title in enumerate(titles)
    }


@contextmanager
def styled() -> Iterator[None]:
    """Figures that are made inside style like all others."""
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # of a title: it is drawn as a box
        yield


def legend(figure: Figure, shown: Sequence[AttackStyle]) -> None:
    """One legend for all panels, below them."""
    lines = [Line2D([], [], **style.line()) for style in shown]
    across = max(1, int(figure.get_figwidth() / 1.45))
    figure.legend(handles=lines, loc="outside lower center", ncols=min(across, len(lines)))
