"""Saved images of records as pictures: clean, perturbation, adversarial, and what was said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agr.records import Records, image_of
from agr.report.outcomes import Outcomes, Place

Image = NDArray[np.uint8]  # (H, W, 3)
GREY, MOST_GAIN = 127.5, 50
FACTS = [
    *("image_id", "label", "source_clean_pred", "source_clean_conf", "source_adv_pred"),
    *("source_adv_conf", "steps_used", "rel_l2", "linf"),
]
Row = tuple[str, Sequence[Image], Sequence[str]]


def rows_of_images(outcomes: Outcomes, norm: str) -> tuple[list[Row], float, pd.DataFrame] | None:
    """One image as each attack left it: rows for draw.pictures, the gain, and facts of each.

    From the first source that has saved images; None if no source has any.
    """
    places = [p for p in outcomes.places(targets=False) if p.norm == norm and outcomes.finished(p)]
    saved = {p: Records(outcomes.cell(p).folder).positions("adversarials") for p in places}
    places = [p for p in places if saved[p]]
    if not places:
        return None
    places = [p for p in places if p.source == places[0].source]
    position = min(set.intersection(*(saved[p] for p in places)) or saved[places[0]])
    found = [(p, *_images(outcomes, p, position)) for p in places if position in saved[p]]
    gain = gain_of([np.abs(a.astype(int) - c) for _, c, a, _ in found])
    rows: list[Row] = [
        (outcomes.cell(p).config.attack.title, (c, scaled(c, a, gain), a), _texts(facts))
        for p, c, a, facts in found
    ]
    said = pd.DataFrame([p._asdict() | facts for p, _, _, facts in found])
    return rows, gain, said.drop(columns="target")


def _images(outcomes: Outcomes, place: Place, position: int) -> tuple[Image, Image, dict[str, Any]]:
    """The clean and the adversarial image at a position, and a row's facts."""
    records = Records(outcomes.cell(place).folder)
    ((saved,),) = records.saved_images({position})
    rows = records.read("rows", ["position", *FACTS])
    row = rows[rows["position"] == position].iloc[0]
    facts = {name: row[name] for name in FACTS}
    return image_of(saved, "clean_pixels"), image_of(saved), facts


def _texts(facts: dict[str, Any]) -> list[str]:
    """What stands below the three images."""
    steps = facts["steps_used"]
    taken = "" if pd.isna(steps) else f"{steps} step{'s' if steps != 1 else ''}, "
    return [
        f"class {facts['source_clean_pred']}, {facts['source_clean_conf']:.0%}",
        f"{taken}{100 * facts['rel_l2']:.1f} % of the image",
        f"class {facts['source_adv_pred']}, {facts['source_adv_conf']:.0%}",
    ]


def gain_of(sizes: Sequence[NDArray[np.int_]]) -> float:
    """A whole number by which all of some perturbations, given as |v|, can be scaled to be seen.

    The strongest one then leaves what can be shown in a twentieth of its values.
    """
    most = max(float(np.quantile(size, 0.95)) for size in sizes)
    return float(max(1, min(MOST_GAIN, math.floor(GREY / most)))) if most else float(MOST_GAIN)


def scaled(clean: Image, adversarial: Image, gain: float) -> Image:
    """A perturbation around grey."""
    v = adversarial.astype(float) - clean
    return np.clip(np.rint(GREY + gain * v), 0, 255).astype(np.uint8)
