"""Two outcomes of the same images, compared image by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from agr.report.numbers import minus
from agr.report.rates import NAN
from agr.report.statistics import CONFIDENCE, LEVEL, bootstrap, images_needed, mcnemar


class Paired(NamedTuple):
    """Means of two outcomes of the same images, and their difference; unknown numbers are NaN."""

    left_value: float = NAN
    right_value: float = NAN
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0  # images
    only_left: int = 0  # of rates: images that the left side alone fools
    only_right: int = 0
    p: float = NAN
    differing: int = 0  # images with a difference

    def exchanged(self) -> Paired:
        """Return the comparison with its sides exchanged."""
        return self._replace(
            left_value=self.right_value,
            right_value=self.left_value,
            difference=0 - self.difference,  # -0.0 would be shown with its sign
            low=0 - self.high,
            high=0 - self.low,
            only_left=self.only_right,
            only_right=self.only_left,
        )


def paired(columns: pd.DataFrame, *, rates: bool, clusters: bool) -> Paired:
    """Compare two columns, by image id, on the rows of which both have a number.

    Args:
        columns: two columns of numbers.
        rates: whether each number is 0 or 100 percent; the test is then McNemar's exact one, else a
            bootstrap.
        clusters: whether an image may have several rows, and is drawn with all of them.
    """
    both = columns.to_numpy(dtype=float)
    known = np.isfinite(both).all(axis=1)  # what another library did not say
    both, images = both[known], columns.index[known]
    if not len(both):
        return Paired()
    difference = both[:, 0] - both[:, 1]
    low, high, p = bootstrap(difference, images if clusters else None)
    left, right = map(float, both.mean(axis=0))
    found = Paired(left, right, float(difference.mean()), low, high, images.nunique(), p=p)
    found = found._replace(differing=images[difference != 0].nunique())
    if not rates:
        return found
    only = int((difference > 0).sum()), int((difference < 0).sum())
    return found._replace(only_left=only[0], only_right=only[1], p=mcnemar(*only))


def transfer_pair(left: Sequence[pd.Series[float]], right: Sequence[pd.Series[float]]) -> Paired:
    """Compare outcomes, percent by image id, of pairs of cells that had the same images.

    Where each image has one outcome of 0 or 100 the test is McNemar's; otherwise an image is drawn
    with all its outcomes.
    """
    pairs = [pd.concat(two, axis=1, join="inner") for two in zip(left, right, strict=True)]
    both = pd.concat(pairs) if pairs else pd.DataFrame({0: [], 1: []})
    once = not both.index.has_duplicates
    return paired(both, rates=once and bool(both.isin((0, 100)).all(axis=None)), clusters=not once)


def images_to_show(found: Paired, tests: int = 1) -> float:
    """Return about how many images would show a difference; inf where there is none.

    Rates: `images_needed`. Means: as many as shrink the interval's standard error until the
    difference is significant at LEVEL / `tests`, Holm's first step, and as a sign test needs.
    """
    if found.only_left or found.only_right:
        return images_needed(found.only_left, found.only_right, found.n, tests)
    width = found.high - found.low
    if not found.difference or not width > 0:
        return math.inf
    error = width / (2 * NormalDist().inv_cdf((1 + CONFIDENCE) / 2))
    wanted = NormalDist().inv_cdf(1 - LEVEL / tests / 2)
    by_error = found.n * (wanted * error / found.difference) ** 2
    by_signs = math.log2(2 * tests / LEVEL) * found.n / found.differing if found.differing else 0.0
    return max(found.n + 1, math.ceil(by_error), math.ceil(by_signs))


def in_short(found: Paired, p: float, tests: int = 1) -> str:
    """Say whether the left side transfers better, worse, or can't be told from the right one.

    Args:
        found: the comparison.
        p: its p-value with Holm's correction.
        tests: how many comparisons that corrects for.
    """
    if not found.n:
        return "no image in common"
    if p < LEVEL:
        word = "better" if found.difference > 0 else "worse"
        gap = minus(f"{found.difference:+.1f} points [{found.low:.1f}, {found.high:.1f}]")
        return f"transfers {word} ({gap})"
    needed = images_to_show(found, tests)
    more = [f"about {needed:,.0f} would do"] if math.isfinite(needed) else []
    if 2 * 0.5**found.n >= LEVEL:  # the least p of either test, without a correction
        more.insert(0, "too few images to show any difference")
    return f"can't be told apart at n = {found.n:,}" + (f" ({'; '.join(more)})" if more else "")
