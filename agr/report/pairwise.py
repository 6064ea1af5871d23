"""Comparisons of every two attacks of a table on the same images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from agr.report.claims.judge import compare_images, corrected
from agr.report.claims.wording import Compared
from agr.report.outcomes import Outcomes, Place
from agr.report.statistics import LEVEL, smallest_difference
from agr.report.transfer import success_shares


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
            both = pd.concat([values[left], values[right]], axis=1, join="inner")
            compared.append(compare_images(both, Compared("asr", left, right)))
    adjusted = corrected(compared)
    return [replace(c, smallest=100 * smallest_difference(c.n, len(adjusted))) for c in adjusted]


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
    compared = []
    for left, right in itertools.combinations(order, 2):
        shared = [source for source in shares[left] if source in shares[right]]
        pairs = [
            pd.concat([shares[left][source], shares[right][source]], axis=1, join="inner")
            for source in shared
        ]
        blank = Compared("asr", Place(norm, "", left), Place(norm, "", right))
        if pairs:
            compared.append(compare_images(pd.concat(pairs), blank, shares=True))
    return corrected(compared)


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
    shown = ("difference", "low", "high", "n", "only_left", "only_right", "p", "p_holm")
    rows = [
        {"norm": c.left.norm, "source": c.left.source, "target": c.left.target}
        | {"left": c.left.attack, "right": c.right.attack}
        | {"left_asr": c.left_value, "right_asr": c.right_value}
        | {name: getattr(c, name) for name in shown}
        for c in compared
    ]
    return pd.DataFrame(rows)
