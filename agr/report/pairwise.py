"""Comparisons of every two attacks of a table on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from agr.report.claims.judge import compare_images
from agr.report.claims.wording import Compared
from agr.report.leaderboard import shares_of
from agr.report.outcomes import Outcomes, Place
from agr.report.rates import NAN
from agr.report.statistics import LEVEL, bootstrap, holm, smallest_difference


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


def transfer_differences(outcomes: Outcomes, norm: str) -> list[Compared]:
    """The mean transfer of every two attacks of a norm, with Holm over all of them.

    An image's transfer is the share of its black-box targets that it fools, percent. Compared are
    images that both attacks had from one source; images are drawn with all their sources. The left
    attack is the one with the higher mean.
    """
    shares: dict[str, dict[str, pd.Series[float]]] = {}
    for place in outcomes.done():
        if place.norm == norm:
            cell, frame = outcomes.cell(place), outcomes.frame(place)
            found = 100 * shares_of(cell, frame, white_box=False)
            shares.setdefault(place.attack, {})[place.source] = found
    means = {a: pd.concat(s.values()).mean() for a, s in shares.items()}
    order = sorted((a for a in means if means[a] == means[a]), key=lambda a: -means[a])
    compared = [
        _transfer(norm, left, right, shares) for left, right in itertools.combinations(order, 2)
    ]
    counted = [c for c in compared if c.n]
    adjusted = holm([c.p for c in counted])
    return [replace(c, p_holm=p) for c, p in zip(counted, adjusted, strict=True)]


def _transfer(
    norm: str, left: str, right: str, shares: dict[str, dict[str, pd.Series[float]]]
) -> Compared:
    blank = Compared("asr", Place(norm, "", left), Place(norm, "", right), NAN, NAN, NAN)
    sources = [source for source in shares[left] if source in shares[right]]
    both = [pd.concat([shares[left][s], shares[right][s]], axis=1, join="inner") for s in sources]
    if not sum(map(len, both)):
        return blank
    pairs = pd.concat(both)
    a, b = (pairs.iloc[:, side] for side in (0, 1))
    low, high, p = bootstrap(a - b, pairs.index)
    means = float(a.mean()), float(b.mean())
    return replace(
        blank,
        left_value=means[0],
        right_value=means[1],
        difference=means[0] - means[1],
        low=low,
        high=high,
        n=pairs.index.nunique(),
        p=p,
    )


def _pairs(outcomes: Outcomes, norm: str) -> list[list[Place]]:
    """The places of each source and target, one per attack."""
    found: dict[tuple[str, str], list[Place]] = {}
    for place in outcomes.done("defended"):
        if place.norm == norm:
            found.setdefault((place.source, place.target), []).append(place)
    return list(found.values())


def best_and_equal(compared: Sequence[Compared]) -> pd.DataFrame:
    """Per source and target: the attacks with the highest rate, and what can't be told from them.

    Columns: source target best (attacks) asr equal (attacks) n smallest (points).
    """
    found: dict[tuple[str, str], list[Compared]] = {}
    for c in compared:
        found.setdefault((c.left.source, c.left.target), []).append(c)
    rows = []
    for (source, target), mine in found.items():
        most = max(c.left_value for c in mine)
        against = [c for c in mine if c.left.attack == mine[0].left.attack]
        alike = [c.right.attack for c in against if c.right_value == most]
        best = [against[0].left.attack, *alike]
        equal = [c.right.attack for c in against if c.p_holm >= LEVEL and c.right_value < most]
        rows.append((source, target, best, most, equal, against[0].n, against[0].smallest))
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
