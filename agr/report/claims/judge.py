"""Judges claims on a paper's printed tables and on records, and says how sure that is.

On records two places are compared image by image: rates by McNemar's exact test, means by a
bootstrap over images, with Holm's correction over all comparisons of a claim. A printed table says
neither on how many images it is nor which, so there only the direction counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from agr.report.claims.spec import EXPECTED, Claim, Claims, Compare, pairs_of
from agr.report.claims.wording import UNDECIDED, Compared, bounds_in_words, in_words, measure_title
from agr.report.comparison.paired import paired
from agr.report.outcomes import MEASURES, Outcomes, Place
from agr.report.statistics import (
    LEVEL,
    bootstrap,
    holm,
    images_needed,
    smallest_difference,
)

SUPPORTED, CONTRADICTED = "supported", "contradicted"
NOT_RUN, NOT_PRINTED, NOT_ASKED = "not run", "not printed", "not asked"
INCOMPLETE = "incomplete"  # what is run speaks for it, or can't tell, and not all is run


@dataclass(frozen=True)
class Judgement:
    """Verdict on a claim, why, and every comparison behind it."""

    verdict: str
    why: str
    compared: Sequence[Compared] = ()


class Judge:
    """Judges the claims of a file on the records of some cells; equal questions are asked once."""

    def __init__(self, claims: Claims, printed: Mapping[str, pd.DataFrame], outcomes: Outcomes):
        self.claims, self.printed, self.outcomes = claims, printed, outcomes
        self.names = outcomes.titles()
        self._known: dict[tuple[str, Place, Place], Compared] = {}

    # ---- printed tables --------------------------------------------------------------------------

    def on_paper(self, claim: Claim) -> Judgement:
        """Judge a claim by the printed tables."""
        table = self.printed.get(claim.value)
        if table is None:
            return Judgement(NOT_PRINTED, f"the paper prints no {measure_title(claim.value)}")
        rows = table.dropna(subset="value").itertuples(index=False)
        values = {Place(*keys): float(value) for *keys, value in rows}
        if claim.possible:
            return self._possible(claim, claim.possible, values)
        white = {place: place.source == place.target for place in values}
        found = []
        for compare in claim.compare:
            for left, right in pairs_of(compare, [*values], white, {}):
                if right in values:
                    a, b = values[left], values[right]
                    verdict = _direction(claim, a - b)
                    found.append(Compared(claim.value, left, right, a, b, a - b, verdict=verdict))
        if not found:
            there = ", ".join(dict.fromkeys(place.attack for place in values))
            return Judgement(NOT_PRINTED, f"the printed table, of {there}, has nothing to compare")
        return _summed(found, claim, self.names)

    def _possible(self, claim: Claim, measure: str, values: Mapping[Place, float]) -> Judgement:
        """Judge whether the printed sizes can be means of `measure` at all, given their budgets."""
        found = []
        for place, value in values.items():
            most = self._most(claim, place, measure)
            if most is None:
                kind = f"a suite with synsets={claim.synsets}" if claim.synsets else place.source
                return Judgement(NOT_RUN, f"no finished run of {kind} says how bright images are")
            middle, low, high, n = most
            verdict = SUPPORTED if value <= low else CONTRADICTED if value > high else UNDECIDED
            sides = (measure, place, place, value, middle, value - middle)
            found.append(Compared(*sides, value - high, value - low, n, verdict=verdict))
        if not found:
            return Judgement(NOT_PRINTED, "the paper prints no such value")
        why = bounds_in_words(found, [c for c in found if c.verdict == CONTRADICTED], self.names)
        return Judgement(_of_all([c.verdict for c in found]), why, found)

    def _most(
        self, claim: Claim, place: Place, measure: str
    ) -> tuple[float, float, float, int] | None:
        """The largest possible mean of a measure, its interval, and on how many images that is.

        A relative norm's depends on the images, whatever network they were made for: it is made
        from their norms in the first finished run on images of the claim's kind (without a kind: in
        that on the source). None without one.
        """
        eps = claim.eps[place.norm]
        level = eps if place.norm == "linf" else eps / math.sqrt(3 * claim.size**2)  # of a value
        if measure != "rel_l2":
            level *= MEASURES[measure].scale
            return level, level, level, 0
        for known in self.outcomes.finished_places():
            cell = self.outcomes.cell(known)
            if claim.synsets and cell.suite.synsets != claim.synsets:
                continue
            if not claim.synsets and known.source != place.source:
                continue
            images = self.outcomes.frame(known).drop_duplicates("image_id")
            images = images[images["rel_l2"] > 0]  # of an unchanged image nothing follows
            if len(images):
                values = 3 * cell.geometry.size**2
                length = images["l2"] / images["rel_l2"]
                # The root mean square of every clean image, in levels.
                brightness = (length / math.sqrt(values)).to_numpy(dtype=float)
                bound = level / brightness
                low, high, _ = bootstrap(bound)
                return float(bound.mean()), low, high, len(bound)
        return None

    # ---- records ---------------------------------------------------------------------------------

    def on_records(self, claim: Claim, named: Mapping[str, str]) -> Judgement:
        """Judge a claim by the records, in which `named` play the paper's attacks."""
        if claim.possible:
            return Judgement(NOT_ASKED, "a question about the printed values alone")
        asked = dict.fromkeys(
            (measure, *pair)
            for measure in self.claims.measures(claim)
            for compare in claim.compare
            for pair in self._pairs(claim, compare, measure, named)
        )
        ran = [key for key in asked if all(map(self.outcomes.is_finished, key[1:]))]
        tested = _tested([self._compared(*key) for key in ran], claim)
        lacking = self._absent(claim, named)
        if len(ran) < len(asked):
            lacking.append(f"{len(asked) - len(ran)} of {len(asked)} comparisons")
        if not tested:
            why = "no image that both sides count" if ran else "nothing to compare"
            return Judgement(NOT_RUN, f"not run: {', '.join(lacking)}" if lacking else why)
        return _summed(tested, claim, self.names, lacking)

    def _absent(self, claim: Claim, named: Mapping[str, str]) -> list[str]:
        """Return what a claim names and these cells don't have, by kind and name."""
        places = self.outcomes.places("all")
        there = {key: {getattr(place, key) for place in places} for key in Place._fields}
        wanted = [
            (key, name)
            for compare in claim.compare
            for key in Place._fields
            for name in self._among(claim, compare, named).named(key, named)
        ]
        absent = [(key, name) for key, name in wanted if name not in there[key]]
        return [f"{key} {name}" for key, name in dict.fromkeys(absent)]

    def _pairs(
        self, claim: Claim, compare: Compare, measure: str, named: Mapping[str, str]
    ) -> Iterator[tuple[Place, Place]]:
        """The places to compare: by target where it is about rates, of the group unless named."""
        ours = "all" if compare.names("target") else "group"
        places = self.outcomes.places(ours if measure == "asr" else "none")
        white = {p: self.outcomes.cell(p).white_box(p.target) for p in places if p.target}
        return pairs_of(self._among(claim, compare, named), places, white, named)

    def _among(self, claim: Claim, compare: Compare, named: Mapping[str, str]) -> Compare:
        """The comparison among the paper's attacks, where it names none itself."""
        table = self.printed.get(claim.value)
        if compare.names("attack") or table is None:
            return compare
        return replace(compare, attack=list(dict.fromkeys(table["attack"])))

    def _compared(self, measure: str, left: Place, right: Place) -> Compared:
        """Two places of the records, on the images that both have."""
        key = (measure, left, right)
        if key not in self._known:
            a, b = (self.outcomes.values(place, measure) for place in (left, right))
            both = pd.concat([a, b], axis=1, join="inner")
            self._known[key] = compare_images(both, Compared(measure, left, right))
        return self._known[key]


def compare_images(pairs: pd.DataFrame, blank: Compared, *, shares: bool = False) -> Compared:
    """Compare two columns, by image id, in the unit of a measure; `blank` says what they are.

    Only rows of which both have a number are compared. Rates are 100 or 0 of each image, with
    `shares` anything between: an image may then have several rows, and is drawn with all of them.
    """
    rates = blank.measure == "asr" and not shares
    numbers = paired(pairs, rates=rates, clusters=shares)._asdict()
    del numbers["differing"]  # which tells how many images would do, of means
    return replace(blank, **numbers)


def corrected(compared: Sequence[Compared]) -> list[Compared]:
    """Return the comparisons that have images, with Holm's correction over all of them."""
    counted = [c for c in compared if c.n]
    adjusted = holm([c.p for c in counted])
    return [replace(c, p_holm=p) for c, p in zip(counted, adjusted, strict=True)]


def _tested(found: Sequence[Compared], claim: Claim) -> list[Compared]:
    """The comparisons with Holm's correction over all of them, and their verdicts."""
    tested = corrected(found)
    for i, c in enumerate(tested):
        if c.p_holm < LEVEL:
            c = replace(c, verdict=_direction(claim, c.difference))
        if c.measure == "asr":
            smallest = 100 * smallest_difference(c.n, len(tested))
            needed = images_needed(c.only_left, c.only_right, c.n, len(tested))
            c = replace(c, smallest=smallest, needed=needed)
        tested[i] = c
    return tested


def _direction(claim: Claim, difference: float) -> str:
    """The verdict that a difference speaks for."""
    gap = EXPECTED[claim.expect] * difference
    return UNDECIDED if gap == 0 else SUPPORTED if gap > 0 else CONTRADICTED


def _of_all(verdicts: Sequence[str]) -> str:
    """The verdict on "always": one counterexample is enough against it."""
    if CONTRADICTED in verdicts:
        return CONTRADICTED
    return SUPPORTED if verdicts and {*verdicts} == {SUPPORTED} else UNDECIDED


def _summed(
    found: Sequence[Compared], claim: Claim, names: Mapping[str, str], lacking: Sequence[str] = ()
) -> Judgement:
    """The verdict on a claim from its comparisons, and why; `lacking` is what is not run."""
    verdicts = [c.verdict for c in found]
    verdict = _of_all(verdicts)
    if lacking and verdict != CONTRADICTED:
        verdict = INCOMPLETE
    counts = ", ".join(
        f"{verdicts.count(v)} {v}" for v in (SUPPORTED, CONTRADICTED, UNDECIDED) if v in verdicts
    )
    said = f"of {len(found)} comparison{'s' if len(found) > 1 else ''} {counts}"
    said += f"; not run: {', '.join(lacking)}" if lacking else ""
    return Judgement(verdict, f"{said}; {in_words(_telling(found, claim, verdict), names)}", found)


def _telling(found: Sequence[Compared], claim: Claim, verdict: str) -> Compared:
    """The comparison that says most: the farthest against the claim, or the nearest for it."""
    sign = EXPECTED[claim.expect]
    same = [c for c in found if c.verdict == verdict] or list(found)
    same = [c for c in same if c.difference] or same  # that nothing differs says least
    return min(same, key=lambda c: sign * c.difference / (abs(c.right_value) or 1))
