"""Intervals and tests for what tables, figures and claims say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr

DRAWS_AT_ONCE = 1000  # of a bootstrap; all of a large table's would fill the memory
MANY = 2000  # clusters: their draws fill 160 MB
FEW = 16  # distinct values of which a bootstrap draws counts, not values
LEVEL = 0.05  # of tests; 1 - LEVEL is the confidence of intervals


def wilson(successes: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The Wilson score interval of a rate, as fractions (low, high); (0, 1) for n = 0.

    Numbers of images need not be whole: `n` may be an `effective_number`.
    Wilson: Probable inference, the law of succession, and statistical inference (1927).
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are no rate")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, z2 = successes / n, z * z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


class Bootstrap(NamedTuple):
    """Bootstrap result of a mean: interval and p-value."""

    low: float
    high: float
    p: float  # two-sided, of the mean being 0


def bootstrap(
    values: ArrayLike,
    clusters: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Bootstrap:
    """The bootstrap interval of a mean, in the unit of `values`, and a test against 0.

    Values are one per image, or come in clusters, of which `clusters` names each value's: those are
    drawn whole, with replacement, as many as there are; a draw's mean is that of all its values.
    The ends are percentiles of the draws' means: Efron, Tibshirani: An introduction to the
    bootstrap (1993), chapter 13. p is twice the share of draws on the rarer side of 0, a draw at 0
    on both sides: Davison, Hinkley: Bootstrap methods and their application (1997), section 4.2.
    Where no draw is there, p is the normal limit's. Of few images a bootstrap is too sure, so p is
    never below what a sign test of as many could give. For a difference on the same images, give
    their differences.
    Above MANY clusters, draws would take minutes to give what the normal limit gives at once.
    Of values that are all the same the interval has no width; (nan, nan, 1) without values.
    Raises ValueError unless there are as many clusters as values, all of them finite.
    """
    x = np.asarray(values, float)
    names = np.arange(x.size) if clusters is None else np.asarray(clusters)
    if x.shape != names.shape:
        raise ValueError(f"{x.size} values are named {names.size} clusters")
    if not x.size:
        return Bootstrap(math.nan, math.nan, 1.0)
    if not np.isfinite(x).all():
        raise ValueError("values that are no numbers have no mean")
    place = np.unique(names, return_inverse=True)[1]
    sums: NDArray[np.float64] = np.bincount(place, x).astype(float)
    sizes = np.bincount(place)
    different, counts = np.unique(x, return_counts=True)
    if len(sums) == len(x) and len(different) <= FEW:
        # To draw images is to draw how often each of their few values comes, which is quick.
        rng = np.random.default_rng(seed)
        means = rng.multinomial(len(x), counts / len(x), resamples) @ different / len(x)
    elif len(sums) > MANY:
        return _limit(sums, sizes, confidence)
    else:
        drawn = _draws(len(sums), resamples, seed)
        means = np.concatenate([(part @ sums) / (part @ sizes) for part in drawn])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    rarer = float(min((means <= 0).sum(), (means >= 0).sum()))
    p = 2 * (1 + rarer) / (resamples + 1)
    if not rarer:  # so many draws can't tell how small it is
        p = min(p, _limit(sums, sizes, confidence).p)
    p = max(p, 2 * 0.5 ** np.unique(names[x != 0]).size)
    # Rounding puts the mean of values that are all alike beside their own interval.
    mean = float(x.mean())
    return Bootstrap(min(mean, float(low)), max(mean, float(high)), min(1.0, p))


@lru_cache(maxsize=1)  # claims ask a thousand times about as many images
def _draws(n: int, resamples: int, seed: int) -> tuple[NDArray[np.float64], ...]:
    """Draw how often each of n clusters is taken, a row per draw, some draws at a time."""
    rng = np.random.default_rng(seed)
    starts = range(0, resamples, DRAWS_AT_ONCE)
    many = [min(DRAWS_AT_ONCE, resamples - start) for start in starts]
    return tuple(rng.multinomial(n, np.full(n, 1 / n), m).astype(float) for m in many)


def _limit(sums: NDArray[np.float64], sizes: NDArray[np.int_], confidence: float) -> Bootstrap:
    """Approximate a bootstrap of very many clusters: a normal distribution around the mean.

    Its variance is that of the linearised ratio of sums: Davison, Hinkley (1997), section 2.7.
    """
    mean = float(sums.sum() / sizes.sum())
    spread = float(np.sqrt(((sums - mean * sizes) ** 2).sum())) / float(sizes.sum())
    half = NormalDist().inv_cdf((1 + confidence) / 2) * spread
    p = math.erfc(abs(mean) / spread / math.sqrt(2)) if spread else float(mean == 0)
    return Bootstrap(mean - half, mean + half, p)


def effective_number(clusters: ArrayLike) -> float:
    """Return the number of independent values that are worth these if a cluster's are all alike.

    (sum of m)^2 / sum of m^2 over the clusters' sizes m: the least that clustering can leave.
    Kish: Survey sampling (1965), section 11.7 (unequal weights). 0 without values.
    """
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.size else 0.0


def mcnemar(only_left: int, only_right: int) -> float:
    """The two-sided p of McNemar's exact test that two attacks fool the same images equally often.

    `only_left` images are fooled by the left attack alone, `only_right` by the right one alone; the
    others say nothing. 1 if there are none.
    McNemar: Note on the sampling error of the difference between correlated proportions (1947).
    """
    fewer, both = min(only_left, only_right), only_left + only_right
    return min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """The p-values of a family of tests, adjusted so that LEVEL holds for all of them together.

    Holm: A simple sequentially rejective multiple test procedure (1979).
    """
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised)) if len(p) else raised
    return [float(value) for value in adjusted]


def images_needed(only_left: int, only_right: int, n: int, tests: int = 1) -> float:
    """About how many images show a difference of rates that n images have; inf: none is there.

    As many as `mcnemar` needs for LEVEL / `tests`, Holm's first step, if further images split as
    these n did. Not a power: of so many images, about half of all samples show it.
    """
    if only_left == only_right:
        return math.inf
    fewest, most = 0.0, 1.0  # shares and multiples of n
    while mcnemar(round(most * only_left), round(most * only_right)) > LEVEL / tests:
        fewest, most = most, 2 * most
        if most > 1e6:
            return math.inf
    for _ in range(40):
        middle = (fewest + most) / 2
        shown = mcnemar(round(middle * only_left), round(middle * only_right)) <= LEVEL / tests
        fewest, most = (fewest, middle) if shown else (middle, most)
    return math.ceil(most * n)


def smallest_difference(n: int, tests: int = 1, level: float = LEVEL) -> float:
    """The smallest difference of two rates that n images can show, as a fraction; inf: none can.

    With `mcnemar` on the same images, if all images on which two attacks differ speak for the same
    one, and Holm's first step asks for level / `tests`. Where they speak for both it takes more.
    """
    images = math.ceil(1 + math.log2(tests / level))  # 2 * 0.5^k <= level / tests
    return images / n if images <= n else math.inf
