"""Outcomes of every image of some cells: the numbers that figures and claims compare.

A *place* is where a number stands: norm, source, attack and target. Numbers of two places are
compared image by image, since attacks of one seed and group had the same images. Records are read
once for each cell. Needs neither torch nor timm.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.config.networks import undefended
from agr.report.rates import count, norm_title, selected
from agr.utils.errors import ConfigError, nearest


class Measure(NamedTuple):
    """Something that is measured of every image."""

    title: str
    unit: str = ""
    scale: float = 1.0  # from the records to the unit
    digits: int = 4


MEASURES = {
    "asr": Measure("ASR", " %", 100.0, 1),
    "rel_l2": Measure("‖v‖₂/‖x‖₂"),
    "mean_abs": Measure("mean |v|, [0,1]"),
    "mean_abs_sym": Measure("mean |v|, [-1,1]", "", 2.0),  # a range twice as wide
    "linf": Measure("L∞ of v", "", 255.0, 2),
    "l2": Measure("L2 of v", "", 255.0, 1),
    "cosine": Measure("cosine similarity", "", 1.0, 5),
    "steps_used": Measure("steps", "", 1.0, 2),
    "backwards": Measure("gradients", "", 1.0, 2),
}
FIRST = 5  # of what is missing; a sweep may not be run at all
COLUMN_OF = {"asr": "success", "mean_abs_sym": "mean_abs"}


class Place(NamedTuple):
    """Place of a number in the tables; numbers that no target decides have target ""."""

    norm: str
    source: str
    attack: str
    target: str = ""


class Outcomes:
    """The cells of a sweep by place, and what became of their images."""

    def __init__(self, cells: Sequence[Cell]):
        """Raises ConfigError where two cells stand at one place, or nothing can be compared."""
        self.cells: dict[tuple[str, str, str], Cell] = {}
        self._frames: dict[tuple[str, str, str], pd.DataFrame | None] = {}
        for cell in cells:
            key = (cell.config.norm.name, cell.source, cell.config.attack.name)
            if key in self.cells:
                raise ConfigError(
                    f"{key[2]} {key[0]} on {key[1]} is there twice: give one eps, seed, steps, … "
                    "and each attack a name of its own"
                )
            self.cells[key] = cell

    def cell(self, place: Place) -> Cell:
        """The cell of a place. Raises KeyError."""
        return self.cells[place[:3]]

    def finished(self, place: Place) -> bool:
        """Return whether the place's cell is there and finished."""
        return place[:3] in self.cells and self._frame(place) is not None

    def frame(self, place: Place) -> pd.DataFrame:
        """The rows (results.COLUMNS, all targets) of a place's cell, which must be finished."""
        frame = self._frame(place)
        assert frame is not None, place
        return frame

    def _frame(self, place: Place) -> pd.DataFrame | None:
        key = place[:3]
        if key not in self._frames:
            self._frames[key] = selected(self.cells[key])
        return self._frames[key]

    def places(self, targets: str = "group") -> list[Place]:
        """All places, in the cells' order, by target.

        `targets` are those of the source's "group", these and defended ones of it ("defended"),
        "all", or "none": places without a target.
        """
        found = []
        for key, cell in self.cells.items():
            own = {"all": cell.targets, "none": [""]}.get(targets)
            own = group_targets(cell, defended=targets == "defended") if own is None else own
            found += [Place(*key, target) for target in own]
        return found

    def done(self, targets: str = "none") -> list[Place]:
        """The `places` of finished cells."""
        return [place for place in self.places(targets) if self.finished(place)]

    def values(self, place: Place, measure: str) -> pd.Series[float]:
        """A measure of every image, in its unit, by image id.

        Of "asr", 100 for a success and 0 else, for the images that the denominator counts.
        """
        frame = self.frame(place)
        column = COLUMN_OF.get(measure, measure)
        if measure == "asr":
            rows = count(frame, place.target, self.cell(place).config.denominator)
        else:
            rows = frame.drop_duplicates("image_id")
        values = MEASURES[measure].scale * rows[column].astype(float)
        return values.set_axis(rows["image_id"].astype(str))

    def titles(self) -> dict[str, str]:
        """Return the titles of norms, attacks and networks, by name."""
        networks: dict[str, str] = {}
        for (_, source, _), cell in self.cells.items():
            networks |= {name: cell.title(name) for name in (source, *cell.targets)}
        attacks = {attack: cell.config.attack.title for (*_, attack), cell in self.cells.items()}
        norms = {norm: norm_title(norm) for norm in ("linf", "l2")}
        return distinct(networks) | distinct(attacks) | norms

    def missing(self) -> list[str]:
        """Lines that name the cells that aren't finished, by the commands that fill the gaps."""
        lacking = [c for k, c in self.cells.items() if not self.finished(Place(*k))]
        lines = [f"missing: {cell.command()}" for cell in lacking[:FIRST]]
        rest = len(lacking) - FIRST
        return [*lines, f"missing: {rest} more cells"] if rest > 0 else lines


def group_targets(cell: Cell, *, defended: bool = False) -> list[str]:
    """The targets of a cell that are of its source's group, perhaps behind a defense."""
    known = cell.config.defenses if defended else ()
    return [t for t in cell.targets if undefended(t, known)[0] in cell.group.networks]


def in_group(cell: Cell) -> Cell:
    """The cell with no targets but those of its source's group, if it has any."""
    own = group_targets(cell, defended=True)
    return replace(cell, config=replace(cell.config, targets=own)) if own else cell


def distinct(titles: Mapping[str, str]) -> dict[str, str]:
    """Titles by name, with the name beside it where two have the same title."""
    said = list(titles.values())
    return {n: t if said.count(t) == 1 else f"{t} ({n})" for n, t in titles.items()}


def check_measure(name: str, of: str, others: Iterable[str] = ()) -> None:
    """Raise ConfigError for a name that isn't one of MEASURES; `others` may have been meant."""
    if name not in MEASURES:
        way = nearest(name, [*MEASURES, *others])
        raise ConfigError(f"{of}: {name} is not measured: {way}")
