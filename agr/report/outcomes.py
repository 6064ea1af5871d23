"""Outcomes of every image of some cells: the numbers that figures and claims compare.

Numbers of two places are compared image by image, since attacks of one seed and group had the same
images. Records are read once for each cell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import NamedTuple

import pandas as pd

from agr.config.cell import Cell
from agr.config.networks import undefended
from agr.report.frames import counted_rows, selected
from agr.report.rates import NORM_TITLES
from agr.report.unfinished import rest_of
from agr.utils.errors import ConfigError
from agr.utils.pixels import LEVELS


class Measure(NamedTuple):
    """A quantity that is measured of every image."""

    title: str
    digits: int = 4
    scale: float = 1.0  # from the records to percent or [0, 1]
    column: str | None = None  # of the records, if it isn't named like the measure


MEASURES = {
    "asr": Measure("ASR", 1, 100.0, "success"),
    "rel_l2": Measure("‖v‖₂/‖x‖₂"),
    "mean_abs": Measure("mean |v|, [0,1]", 4, 1 / LEVELS),
    "mean_abs_sym": Measure("mean |v|, [-1,1]", 4, 2 / LEVELS, "mean_abs"),  # twice as wide
    "linf": Measure("L∞ of v", 2),
    "l2": Measure("L2 of v", 1),
    "cosine": Measure("cosine similarity", 5),
    "steps_used": Measure("steps", 2),
    "backwards": Measure("gradients", 2),
}
MOST_MISSING = 5  # cells that are named; a sweep may not be run at all


class Place(NamedTuple):
    """Place of a number in the tables; a number that depends on no target has target ""."""

    norm: str
    source: str
    attack: str
    target: str = ""


class Outcomes:
    """The cells of a sweep by place, and the outcome of each of their images."""

    def __init__(self, cells: Sequence[Cell]):
        """Raises ConfigError if two cells have the same norm, source and attack."""
        self.cells: dict[tuple[str, str, str], Cell] = {}
        self._frame = cache(lambda key: selected(self.cells[key]))
        self.values = cache(self._values)  # claims and figures ask for the same ones again
        for cell in cells:
            key = (cell.config.norm.name, cell.source, cell.config.attack.name)
            if key in self.cells:
                raise ConfigError(
                    f"{key[2]} {key[0]} on {key[1]} is there twice: give one eps, seed, steps, … "
                    "and each attack a name of its own"
                )
            self.cells[key] = cell

    def cell(self, place: Place) -> Cell:
        """Return the cell of a place. Raises KeyError."""
        return self.cells[place[:3]]

    def is_finished(self, place: Place) -> bool:
        """Return whether a place's cell is there and finished."""
        return place[:3] in self.cells and self._frame(place[:3]) is not None

    def frame(self, place: Place) -> pd.DataFrame:
        """Return the rows (frames.COLUMNS, all targets) of a place's finished cell."""
        frame = self._frame(place[:3])
        assert frame is not None, place
        return frame

    def places(self, targets: str = "group") -> list[Place]:
        """Return the places of all cells, in their order and by target.

        Args:
            targets: "group", those of the source's group; "defended", these and defended ones of
                the group; "all"; or "none", for places without a target.
        """
        names_of: dict[str, Callable[[Cell], list[str]]] = {
            "group": group_targets,
            "defended": partial(group_targets, defended=True),
            "all": lambda cell: cell.targets,
            "none": lambda _: [""],
        }
        cells = self.cells.items()
        return [Place(*key, name) for key, cell in cells for name in names_of[targets](cell)]

    def finished_places(self, targets: str = "none") -> list[Place]:
        """Return the `places` of finished cells."""
        return [place for place in self.places(targets) if self.is_finished(place)]

    def _values(self, place: Place, measure: str) -> pd.Series[float]:
        """Return a measure of every image, in its unit, by image id.

        For "asr" that is 100 for a success and else 0, of the images that the denominator counts.
        """
        frame = self.frame(place)
        if measure == "asr":
            rows = counted_rows(frame, place.target, self.cell(place).config.denominator)
        else:
            rows = frame.drop_duplicates("image_id")
        column = MEASURES[measure].column or measure
        values = MEASURES[measure].scale * rows[column].astype(float)
        return values.set_axis(rows["image_id"].astype(str))

    def titles(self) -> dict[str, str]:
        """Return the titles of norms, attacks and networks, by name."""
        networks: dict[str, str] = {}
        for (_, source, _), cell in self.cells.items():
            networks |= {name: cell.title(name) for name in (source, *cell.targets)}
        attacks = {attack: cell.config.attack.title for (*_, attack), cell in self.cells.items()}
        return distinct(networks) | distinct(attacks) | NORM_TITLES

    def unfinished(self) -> list[Cell]:
        """Return the cells that aren't finished."""
        return [cell for key, cell in self.cells.items() if not self.is_finished(Place(*key))]

    def missing(self) -> list[str]:
        """Return lines with the commands that run the cells that aren't finished."""
        missing = self.unfinished()
        lines = [f"missing: {rest_of(cell)}" for cell in missing[:MOST_MISSING]]
        rest = len(missing) - MOST_MISSING
        return [*lines, f"missing: {rest} more cells"] if rest > 0 else lines


def group_targets(cell: Cell, *, defended: bool = False) -> list[str]:
    """Return the targets that are of the source's group, with `defended` those behind a defense."""
    defenses = cell.config.defenses if defended else ()
    return [t for t in cell.targets if undefended(t, defenses)[0] in cell.group.networks]


def in_group(cell: Cell) -> Cell:
    """Return the cell with no targets but those of its source's group, if it has any."""
    targets = group_targets(cell, defended=True)
    return replace(cell, config=replace(cell.config, targets=targets)) if targets else cell


def distinct(titles: Mapping[str, str]) -> dict[str, str]:
    """Return titles by name, with the name in brackets where several have the same title."""
    texts = list(titles.values())
    return {n: t if texts.count(t) == 1 else f"{t} ({n})" for n, t in titles.items()}
