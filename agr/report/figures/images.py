"""Saved images of records as pictures: clean, perturbation, adversarial, and what was said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from agr.records.store import Records, image_of
from agr.report.outcomes import Outcomes, Place
from agr.report.perturbations import RgbArray, common_factor, scaled
from agr.utils.text import plural

FACTS = [
    *("image_id", "label", "source_clean_pred", "source_clean_conf", "source_adv_pred"),
    *("source_adv_conf", "steps_used", "rel_l2", "linf"),
]
WITHOUT = {-1: "no finite answer", -2: "abstained"}  # classes that are none
PictureRow = tuple[str, Sequence[RgbArray], Sequence[str]]


def rows_of_images(
    outcomes: Outcomes, norm: str
) -> tuple[list[PictureRow], int, pd.DataFrame] | None:
    """One image as each attack left it: rows for draw.pictures, the gain, and facts of each.

    From the first source that has saved images; None if no source has any.
    """
    places = [place for place in outcomes.finished_places() if place.norm == norm]
    saved = {p: Records(outcomes.cell(p).folder).positions("adversarials") for p in places}
    places = [p for p in places if saved[p]]
    if not places:
        return None
    places = [p for p in places if p.source == places[0].source]
    position = min(set.intersection(*(saved[p] for p in places)) or saved[places[0]])
    found = [(p, *_images(outcomes, p, position)) for p in places if position in saved[p]]
    gain = common_factor((c, a) for _, c, a, _ in found)
    names = outcomes.titles()
    rows: list[PictureRow] = [
        (names[p.attack], (c, scaled(c, a, gain), a), _texts(facts, _classes(outcomes, p)))
        for p, c, a, facts in found
    ]
    said = pd.DataFrame([p._asdict() | facts for p, _, _, facts in found])
    return rows, gain, said.drop(columns="target")


def _images(
    outcomes: Outcomes, place: Place, position: int
) -> tuple[RgbArray, RgbArray, dict[str, Any]]:
    """The clean and the adversarial image at a position, and a row's facts."""
    records = Records(outcomes.cell(place).folder)
    ((saved,),) = records.saved_images({position})
    rows = records.read("rows", ["position", *FACTS])
    row = rows[rows["position"] == position].iloc[0]
    facts = {name: row[name] for name in FACTS}
    return image_of(saved, "clean_pixels"), image_of(saved), facts


def _classes(outcomes: Outcomes, place: Place) -> dict[str, str]:
    """The names of classes that a place's cell knows."""
    run = Records(outcomes.cell(place).folder).run()
    return run.classes if run else {}


def _texts(facts: dict[str, Any], classes: dict[str, str]) -> list[str]:
    """Return the text below the three images."""
    steps = facts["steps_used"]
    taken = "" if pd.isna(steps) else f"{plural(int(steps), 'step')}, "
    return [
        _answer(facts["source_clean_pred"], facts["source_clean_conf"], classes),
        f"{taken}{100 * facts['rel_l2']:.1f} % of the image",
        _answer(facts["source_adv_pred"], facts["source_adv_conf"], classes),
    ]


def _answer(pred: int, confidence: float, classes: dict[str, str]) -> str:
    if pred < 0:
        return WITHOUT[pred]
    name = classes.get(str(pred))
    return f"{f'{name} ({pred})' if name else f'class {pred}'}, {confidence:.0%}"
