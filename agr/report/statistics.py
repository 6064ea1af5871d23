"""Intervals for what the tables print."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

DRAWS_AT_ONCE = 1000  # of a bootstrap; all of a large table's would fill the memory


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


def cluster_interval(
    values: ArrayLike,
    clusters: ArrayLike,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> tuple[float, float]:
    """The bootstrap interval of a mean whose values come in clusters, in the unit of `values`.

    `clusters` names each value's cluster. Clusters are drawn whole, with replacement, as many as
    there are; a draw's mean is that of all its values. The ends are percentiles of the draws'
    means: Efron, Tibshirani: An introduction to the bootstrap (1993), chapter 13. Of values that
    are all the same the interval has no width; (nan, nan) without values.
    Raises ValueError unless there are as many clusters as values.
    """
    x, names = np.asarray(values, float), np.asarray(clusters)
    if x.shape != names.shape:
        raise ValueError(f"{x.size} values are named {names.size} clusters")
    if not x.size:
        return math.nan, math.nan
    place = np.unique(names, return_inverse=True)[1]
    sums, sizes = np.bincount(place, x), np.bincount(place)
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, DRAWS_AT_ONCE):
        many = min(DRAWS_AT_ONCE, resamples - start)
        drawn = rng.integers(len(sums), size=(many, len(sums)))
        means.append(sums[drawn].sum(1) / sizes[drawn].sum(1))
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def effective_number(clusters: ArrayLike) -> float:
    """How many independent values are worth as much as these, if those of a cluster are all alike.

    (sum of m)^2 / sum of m^2 over the clusters' sizes m: the least that clustering can leave.
    Kish: Survey sampling (1965), section 11.7 (unequal weights). 0 without values.
    """
    sizes = np.unique(np.asarray(clusters), return_counts=True)[1]
    return float(sizes.sum() ** 2 / (sizes**2).sum()) if sizes.size else 0.0
