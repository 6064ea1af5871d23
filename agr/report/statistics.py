"""Confidence intervals and significance tests for tables, figures and claims."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import bdtr, betaincinv, stdtrit

DRAWS_AT_ONCE = 1000  # of a bootstrap; all of a large table's would fill the memory
MOST_CLUSTERS = 2000  # that are drawn; their draws fill 160 MB
FEW_VALUES = 16  # distinct values, up to which a bootstrap draws counts instead of values
SEED = 0  # of a bootstrap's draws
LEVEL, CONFIDENCE = 0.05, 0.95  # of tests, and of intervals


def wilson(successes: float, n: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the Wilson score interval of a rate, as fractions (low, high); (0, 1) for n = 0.

    Numbers of images need not be whole: `n` may be an `effective_number`.
    Wilson: Probable inference, the law of succession, and statistical inference (1927).
    Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} are not a rate")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    p, z2 = successes / n, z * z / n
    middle = (p + z2 / 2) / (1 + z2)
    half = z * math.sqrt(p * (1 - p) / n + z2 / (4 * n)) / (1 + z2)
    return max(0.0, middle - half), min(1.0, middle + half)


def clopper_pearson(successes: int, n: int, confidence: float) -> tuple[float, float]:
    """Return the exact binomial interval of a rate, as fractions (low, high); (0, 1) for n = 0.

    Its ends are the rates that an exact test on either side just rejects. Clopper, Pearson: The use
    of confidence or fiducial limits illustrated in the case of the binomial (1934).
    """
    tail, failures = (1 - confidence) / 2, n - successes
    low = betaincinv(successes, failures + 1, tail) if successes else 0.0
    high = betaincinv(successes + 1, failures, 1 - tail) if failures else 1.0
    return float(low), float(high)


class Bootstrap(NamedTuple):
    """Bootstrap interval of a mean, and p-value of the test against 0."""

    low: float
    high: float
    p: float  # two-sided, of the mean being 0


def bootstrap(
    values: ArrayLike, clusters: ArrayLike | None = None, resamples: int = 10_000
) -> Bootstrap:
    """Return the 95 % bootstrap interval of a mean, and test the mean against 0.

    Clusters are drawn whole, with replacement, as many as there are; a draw's mean is that of all
    its values. The interval's ends are percentiles of the draws' means: Efron, Tibshirani: An
    introduction to the bootstrap (1993), chapter 13. p is twice the share of draws on the rarer
    side of 0, where a draw at 0 counts for both sides: Davison, Hinkley: Bootstrap methods and
    their application (1997), section 4.2. If no draw is on that side, p is that of the normal
    limit. On few images a bootstrap is overconfident, so p is never below what a sign test on as
    many could give. Above MOST_CLUSTERS clusters, where draws would take minutes, the result is
    that of the normal limit.

    Args:
        values: finite values; for a difference on the same images, their differences.
        clusters: for each value the name of its cluster; by default each is its own.
        resamples: the number of draws.

    Returns:
        The interval in the unit of `values`, without width if these are all the same, and p;
        (nan, nan, 1) without values.

    Raises:
        ValueError: for values that aren't finite, or another number of clusters than of values.
    """
    x = np.asarray(values, float)
    names = np.arange(x.size) if clusters is None else np.asarray(clusters)
    if x.shape != names.shape:
        raise ValueError(f"{x.size} values are named {names.size} clusters")
    if not x.size:
        return Bootstrap(math.nan, math.nan, 1.0)
    if not np.isfinite(x).all():
        raise ValueError("values that are not numbers have no mean")
    place = np.unique(names, return_inverse=True)[1]
    sums: NDArray[np.float64] = np.bincount(place, x).astype(float)
    sizes = np.bincount(place)
    different, counts = np.unique(x, return_counts=True)
    if len(sums) == len(x) and len(different) <= FEW_VALUES:
        # Drawing how often each of the few values comes is equivalent, and quick.
        rng = np.random.default_rng(SEED)
        means = rng.multinomial(len(x), counts / len(x), resamples) @ different / len(x)
    elif len(sums) > MOST_CLUSTERS:
        return _limit(sums, sizes)
    else:
        drawn = _draws(len(sums), resamples)
        means = np.concatenate([_product(part, sums) for part in drawn])
        if len(sums) == len(x):
            means /= len(x)
        else:
            means /= np.concatenate([_product(part, sizes.astype(float)) for part in drawn])
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    rarer = float(min((means <= 0).sum(), (means >= 0).sum()))
    p = 2 * (1 + rarer) / (resamples + 1)
    if not rarer:  # so many draws can't tell how small it is
        p = min(p, _limit(sums, sizes).p)
    p = max(p, 2 * 0.5 ** np.unique(names[x != 0]).size)
    # Rounding puts the mean of values that are all alike beside their own interval.
    mean = float(x.mean())
    return Bootstrap(min(mean, float(low)), max(mean, float(high)), min(1.0, p))


def _product(matrix: NDArray[np.float64], vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply without BLAS: between products its threads would keep other cores busy."""
    return np.einsum("ij,j->i", matrix, vector)


@lru_cache(maxsize=4)  # a file of claims needs the same draws a thousand times
def _draws(n: int, resamples: int) -> tuple[NDArray[np.float64], ...]:
    """Return how often each of n clusters is drawn, (draws, n), in parts of DRAWS_AT_ONCE draws."""
    rng = np.random.default_rng(SEED)
    starts = range(0, resamples, DRAWS_AT_ONCE)
    sizes = [min(DRAWS_AT_ONCE, resamples - start) for start in starts]
    return tuple(rng.multinomial(n, np.full(n, 1 / n), size).astype(float) for size in sizes)


def _limit(sums: NDArray[np.float64], sizes: NDArray[np.int_]) -> Bootstrap:
    """Return a bootstrap's limit for very many clusters: a normal distribution around the mean.

    Its variance is that of the linearised ratio of sums: Davison, Hinkley (1997), section 2.7.
    """
    mean = float(sums.sum() / sizes.sum())
    spread = float(np.sqrt(((sums - mean * sizes) ** 2).sum())) / float(sizes.sum())
    half = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * spread
    p = math.erfc(abs(mean) / spread / math.sqrt(2)) if spread else float(mean == 0)
    return Bootstrap(mean - half, mean + half, p)


def over_seeds(means: Sequence[float]) -> tuple[float, float, float]:
    """Return the standard deviation of seeds' means and Student's 95 % interval of their mean.

    NaN for fewer than two seeds.
    """
    if len(means) < 2:
        return math.nan, math.nan, math.nan
    middle, sd = float(np.mean(means)), float(np.std(means, ddof=1))
    half = float(stdtrit(len(means) - 1, (1 + CONFIDENCE) / 2)) * sd / math.sqrt(len(means))
    return sd, middle - half, middle + half


def effective_number(clusters: ArrayLike) -> float:
    """Return the effective number of values in clusters whose values are all alike.

    (sum of m)^2 / sum of m^2 over the clusters' sizes m, the least that clustering can leave; 0
    without values. Kish: Survey sampling (1965), section 11.7 (unequal weights).
    """
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.size else 0.0


def mcnemar(only_left: int, only_right: int) -> float:
    """Return the two-sided p of McNemar's exact test of two attacks on the same images.

    The null hypothesis is that both fool equally many; p is 1 without any image that one alone
    fools. McNemar: Note on the sampling error of the difference between correlated proportions
    (1947).

    Args:
        only_left: the number of images that the left attack alone fools.
        only_right: the number of those that the right one alone fools.
    """
    fewer, both = min(only_left, only_right), only_left + only_right
    return min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """Return the p-values of a family of tests, adjusted to bound the family-wise error rate.

    Holm: A simple sequentially rejective multiple test procedure (1979).
    """
    order = np.argsort(p, kind="stable")
    raised = np.asarray(p, float)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised)) if len(p) else raised
    return [float(value) for value in adjusted]


def images_needed(only_left: int, only_right: int, n: int, tests: int = 1) -> float:
    """Return about how many images would show a difference of rates; inf without a difference.

    As many as `mcnemar` needs for LEVEL / `tests`, Holm's first step, if further images split as
    these did. This is not a power analysis: about half of all samples of that size show it.

    Args:
        only_left: the number of images that the left attack alone fools.
        only_right: the number of those that the right one alone fools.
        n: the number of all images.
        tests: the number of tests in the family.
    """
    if only_left == only_right:
        return math.inf

    def shown(multiple: float) -> bool:
        p = mcnemar(round(multiple * only_left), round(multiple * only_right))
        return p <= LEVEL / tests

    fewest, most = 0.0, 1.0  # shares and multiples of n
    while not shown(most):
        fewest, most = most, 2 * most
        if most > 1e6:
            return math.inf
    for _ in range(40):
        middle = (fewest + most) / 2
        fewest, most = (fewest, middle) if shown(middle) else (middle, most)
    return math.ceil(most * n)


def smallest_difference(n: int, tests: int = 1) -> float:
    """Return the smallest difference of two rates that n images can show, as a fraction, or inf.

    That is by `mcnemar` at LEVEL / `tests`, Holm's first step, if one attack fools all the images
    on which the two differ. Otherwise it takes a larger difference.
    """
    images = math.ceil(1 + math.log2(tests / LEVEL))  # 2 * 0.5^k <= LEVEL / tests
    return images / n if images <= n else math.inf
