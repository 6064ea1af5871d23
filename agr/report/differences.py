"""Which attacks differ: every two of a table on the same images, and which can't be told apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from agr.report.judge import compare_images
from agr.report.outcomes import Outcomes, Place
from agr.report.results import NAN
from agr.report.statistics import LEVEL, holm, smallest_difference
from agr.report.wording import Compared


def differences(outcomes: Outcomes, norm: str) -> list[Compared]:
    """Every two attacks of a norm's table on each source and target, with Holm over all of them.

    The left attack is the one with the higher rate. Targets are those of the source's group, with
    defended ones.
    """
    found = []
    for places in _pairs(outcomes, norm):
        values = {place: outcomes.values(place, "asr") for place in places}
        order = sorted(places, key=lambda place: -values[place].mean())
        for left, right in itertools.combinations(order, 2):
            blank = Compared("asr", left, right, NAN, NAN, NAN)
            found.append(compare_images(values[left], values[right], blank))
    counted = [c for c in found if c.n]
    adjusted = holm([c.p for c in counted])
    return [
        replace(c, p_holm=p, smallest=100 * smallest_difference(c.n, len(counted)))
        for c, p in zip(counted, adjusted, strict=True)
    ]


def _pairs(outcomes: Outcomes, norm: str) -> list[list[Place]]:
    """The places of each source and target, one per attack."""
    found: dict[tuple[str, str], list[Place]] = {}
    for place in outcomes.places("defended"):
        if place.norm == norm and outcomes.finished(place):
            found.setdefault((place.source, place.target), []).append(place)
    return list(found.values())


def best_and_equal(compared: Sequence[Compared]) -> pd.DataFrame:
    """Per source and target: the best attack, and those that can't be told from it.

    Columns: source target best asr equal (attacks) n smallest (points).
    """
    found: dict[tuple[str, str], list[Compared]] = {}
    for c in compared:
        found.setdefault((c.left.source, c.left.target), []).append(c)
    rows = []
    for (source, target), mine in found.items():
        best = max(mine, key=lambda c: c.left_value).left.attack
        against = [c for c in mine if c.left.attack == best]
        equal = [c.right.attack for c in against if c.p_holm >= LEVEL]
        value, n, smallest = against[0].left_value, against[0].n, against[0].smallest
        rows.append((source, target, best, value, equal, n, smallest))
    return pd.DataFrame(rows, columns=["source", "target", "best", "asr", "equal", "n", "smallest"])


def as_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """Every comparison as a row."""
    rows = [
        {"norm": c.left.norm, "source": c.left.source, "target": c.left.target}
        | {"left": c.left.attack, "right": c.right.attack}
        | {"left_asr": c.left_value, "right_asr": c.right_value, "difference": c.difference}
        | {"low": c.low, "high": c.high, "n": c.n}
        | {"only_left": c.only_left, "only_right": c.only_right, "p": c.p, "p_holm": c.p_holm}
        for c in compared
    ]
    return pd.DataFrame(rows)
