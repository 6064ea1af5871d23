"""Comparisons of every two attacks of a table on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from agr.report.claims.judge import compare_images
from agr.report.claims.wording import Compared
from agr.report.leaderboard import success_shares
from agr.report.outcomes import Outcomes, Place
from agr.report.rates import NAN
from agr.report.statistics import LEVEL, bootstrap, holm, smallest_difference


def pair_differences(outcomes: Outcomes, norm: str) -> list[Compared]:
    """Compare every two attacks of a norm on each source and target, with Holm over all of them.

    The left attack is the one with the higher rate. Targets are those of the source's group, with
    defended ones.
    """
    attacks: dict[tuple[str, str], list[Place]] = {}
    for place in outcomes.finished_places("defended"):
        if place.norm == norm:
            attacks.setdefault((place.source, place.target), []).append(place)
    compared = []
    for places in attacks.values():
        values = {place: outcomes.values(place, "asr") for place in places}
        order = sorted(places, key=lambda place: -values[place].mean())
        for left, right in itertools.combinations(order, 2):
            blank = Compared("asr", left, right, NAN, NAN, NAN)
            compared.append(compare_images(values[left], values[right], blank))
    adjusted = _adjusted(compared)
    return [replace(c, smallest=100 * smallest_difference(c.n, len(adjusted))) for c in adjusted]


def _adjusted(compared: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons that have images, with Holm's correction over all of them."""
    counted = [c for c in compared if c.n]
    adjusted = holm([c.p for c in counted])
    return [replace(c, p_holm=p) for c, p in zip(counted, adjusted, strict=True)]


def transfer_differences(outcomes: Outcomes, norm: str) -> list[Compared]:
    """Compare the mean transfer of every two attacks of a norm, with Holm over all of them.

    An image's transfer is the share of its black-box targets that it fools, percent. The images are
    those that both attacks had from one source; they are drawn with all their sources. The left
    attack is the one with the higher mean.
    """
    shares: dict[str, dict[str, pd.Series[float]]] = {}
    for place in outcomes.finished_places():
        if place.norm == norm:
            cell, frame = outcomes.cell(place), outcomes.frame(place)
            transfer = 100 * success_shares(cell, frame, white_box=False)
            shares.setdefault(place.attack, {})[place.source] = transfer
    means = {attack: pd.concat(by_source.values()).mean() for attack, by_source in shares.items()}
    order = sorted((a for a in means if means[a] == means[a]), key=lambda a: -means[a])
    pairs = itertools.combinations(order, 2)
    return _adjusted([_transfer_difference(norm, left, right, shares) for left, right in pairs])


def _transfer_difference(
    norm: str, left: str, right: str, shares: dict[str, dict[str, pd.Series[float]]]
) -> Compared:
    blank = Compared("asr", Place(norm, "", left), Place(norm, "", right), NAN, NAN, NAN)
    sources = [source for source in shares[left] if source in shares[right]]
    both = [pd.concat([shares[left][s], shares[right][s]], axis=1, join="inner") for s in sources]
    if not sum(map(len, both)):
        return blank
    pairs = pd.concat(both)
    difference = pairs.iloc[:, 0] - pairs.iloc[:, 1]
    low, high, p = bootstrap(difference, pairs.index)
    left_value, right_value = (float(pairs.iloc[:, side].mean()) for side in (0, 1))
    return replace(
        blank,
        left_value=left_value,
        right_value=right_value,
        difference=left_value - right_value,
        low=low,
        high=high,
        n=pairs.index.nunique(),
        p=p,
    )


def best_and_equal(compared: Sequence[Compared]) -> pd.DataFrame:
    """Return the best attacks of each source and target, and those not significantly worse.

    Columns: source target best (attacks) asr equal (attacks) n smallest (points).
    """
    pairs: dict[tuple[str, str], list[Compared]] = {}
    for c in compared:
        pairs.setdefault((c.left.source, c.left.target), []).append(c)
    rows = []
    for (source, target), of_pair in pairs.items():
        highest = max(c.left_value for c in of_pair)
        winner = of_pair[0].left.attack
        against = [c for c in of_pair if c.left.attack == winner]
        best = [winner, *(c.right.attack for c in against if c.right_value == highest)]
        equal = [c.right.attack for c in against if c.p_holm >= LEVEL and c.right_value < highest]
        rows.append((source, target, best, highest, equal, against[0].n, against[0].smallest))
    return pd.DataFrame(rows, columns=["source", "target", "best", "asr", "equal", "n", "smallest"])


def differences_frame(compared: Sequence[Compared]) -> pd.DataFrame:
    """Return comparisons of attacks as a frame, one row each."""
    rows = [
        {
            "norm": c.left.norm,
            "source": c.left.source,
            "target": c.left.target,
            "left": c.left.attack,
            "right": c.right.attack,
            "left_asr": c.left_value,
            "right_asr": c.right_value,
            "difference": c.difference,
            "low": c.low,
            "high": c.high,
            "n": c.n,
            "only_left": c.only_left,
            "only_right": c.only_right,
            "p": c.p,
            "p_holm": c.p_holm,
        }
        for c in compared
    ]
    return pd.DataFrame(rows)
