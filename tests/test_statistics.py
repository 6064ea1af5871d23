"""Intervals and tests against scipy, statsmodels and arithmetic by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as their_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from agr.report.statistics import (
    bootstrap,
    effective_number,
    holm,
    images_needed,
    mcnemar,
    smallest_difference,
    wilson,
)


def interval(*arguments: Any, **options: Any) -> tuple[float, float]:
    return bootstrap(*arguments, **options)[:2]


@pytest.mark.parametrize("n", [1, 7, 400, 1000])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("confidence", [0.95, 0.9])
def test_wilson_agrees_with_scipy(n: int, share: float, confidence: float) -> None:
    k = round(n * share)
    theirs = stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
    assert wilson(k, n, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_at_the_edges() -> None:
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    x = np.random.default_rng(1).beta(0.5, 1, 60)
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=50_000, method="percentile",
        rng=np.random.default_rng(2), vectorized=True, batch=1000,
    ).confidence_interval  # fmt: skip
    ours = interval(x, np.arange(60), resamples=50_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)
    assert ours[0] < x.mean() < ours[1]


def test_the_interval_of_clusters_agrees_with_scipy() -> None:
    """Clusters of one to three values are drawn whole: a ratio of sums over clusters."""
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 4, 50)
    clusters = np.repeat(np.arange(50), sizes)
    x = (rng.random(50)[clusters] + rng.random(len(clusters))) / 2
    theirs = stats.bootstrap(
        (np.bincount(clusters, x), sizes), lambda s, m, axis: s.sum(axis) / m.sum(axis),
        paired=True, n_resamples=50_000, method="percentile", rng=rng, batch=1000,
    ).confidence_interval  # fmt: skip
    ours = interval(x, clusters, resamples=50_000)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.003)
    alone = interval(x, np.arange(len(x)), resamples=50_000)
    assert alone[1] - alone[0] < 0.9 * (ours[1] - ours[0])  # as if there were more images


def test_the_interval_of_a_rate_is_about_normal() -> None:
    x = np.arange(1000) < 300
    half = 1.96 * math.sqrt(0.3 * 0.7 / 1000)
    expected = pytest.approx((0.3 - half, 0.3 + half), abs=0.002)
    assert interval(x, np.arange(1000)) == expected


def test_a_result_said_twice_narrows_nothing() -> None:
    x = np.random.default_rng(4).random(30)
    once = interval(x, np.arange(30))
    assert interval(np.tile(x, 2), np.tile(np.arange(30), 2)) == pytest.approx(once)


def test_the_interval_is_the_same_every_time_and_in_every_order() -> None:
    x = np.random.default_rng(5).random(30)
    names = np.array([f"image{i // 2}" for i in range(30)])
    order = np.random.default_rng(6).permutation(30)
    first = interval(x, names)
    assert interval(x, names) == first
    assert interval(x[order], names[order]) == pytest.approx(first)


def test_intervals_at_the_edges() -> None:
    assert all(math.isnan(end) for end in interval([], []))
    assert interval([0.5, 0.5], ["a", "b"]) == (0.5, 0.5)
    with pytest.raises(ValueError, match="3 values are named 2 clusters"):
        interval([1, 2, 3], ["a", "b"])


@pytest.mark.parametrize(
    ("clusters", "number"),
    [("", 0.0), ("abc", 3.0), ("aabb", 2.0), ("aab", 9 / 5), ("aaa", 1.0)],
)
def test_effective_numbers(clusters: str, number: float) -> None:
    assert effective_number(list(clusters)) == pytest.approx(number)


# ---- tests ---------------------------------------------------------------------------------------


def test_wilson_agrees_with_statsmodels() -> None:
    for k, n in ((0, 7), (3, 7), (399, 400), (400, 400)):
        assert wilson(k, n) == pytest.approx(proportion_confint(k, n, method="wilson"), abs=1e-9)


def test_few_values_are_drawn_as_counts_and_many_one_by_one() -> None:
    """A mean of -1, 0 and 1 has the interval that it has when no two values are quite the same."""
    x = np.repeat([-1.0, 0.0, 1.0], [10, 40, 30])
    blurred = x + np.random.default_rng(0).normal(0, 1e-9, len(x))
    assert interval(x) == pytest.approx(interval(blurred), abs=0.013)  # steps of 1 / 80
    exact = stats.bootstrap(
        (x,), np.mean, n_resamples=50_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert interval(x, resamples=50_000) == pytest.approx((exact.low, exact.high), abs=0.013)


@pytest.mark.slow
def test_the_p_of_a_mean_is_about_that_of_a_t_test() -> None:
    rng = np.random.default_rng(2)
    for shift in (0.05, 0.1, 0.2, 0.3):
        x = rng.normal(shift, 1, 300)
        theirs = stats.ttest_1samp(x, 0).pvalue
        assert bootstrap(x, resamples=100_000).p == pytest.approx(theirs, rel=0.15, abs=0.003)
    assert bootstrap(rng.normal(5, 1, 300)).p < 1e-50  # lower than draws can tell
    assert bootstrap(np.zeros(9)).p == 1


def test_few_images_are_never_sure() -> None:
    """Of m values a sign test gives 2 * 0.5^m at least, whatever a bootstrap makes of them."""
    for m in (1, 2, 5, 9):
        least = stats.binomtest(m, m).pvalue
        assert bootstrap([1.0, 1.1, 1.2] * 3, np.arange(9) % m).p == least


def test_the_mean_lies_in_its_interval_however_it_is_rounded() -> None:
    """Of values that are all alike: 1/3 of ten images has a mean beside the draws' one."""
    for n in range(2, 60):
        for value in (1 / 3, 0.1, 0.7):
            x = np.full(n, value)
            low, high, _ = bootstrap(x)
            assert low <= x.mean() <= high


def test_very_many_images_are_not_drawn() -> None:
    """Above 2,000 the normal limit gives what draws would, for single images and for clusters."""
    rng = np.random.default_rng(4)
    x = rng.beta(0.5, 1, 2600)
    exact = stats.bootstrap(
        (x,), np.mean, n_resamples=5000, method="percentile", rng=rng, batch=500
    ).confidence_interval
    ours = bootstrap(x)
    assert (ours.low, ours.high) == pytest.approx((exact.low, exact.high), abs=0.0015)
    shift = rng.normal(0.04, 1, 2600)
    assert bootstrap(shift).p == pytest.approx(stats.ttest_1samp(shift, 0).pvalue, rel=0.02)
    twice, names = np.tile(x, 2), np.tile(np.arange(2600), 2)
    assert bootstrap(twice, names) == pytest.approx(ours)
    assert bootstrap(np.zeros(3000) + np.arange(3000) * 0, None).p == 1


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not numbers"):
        bootstrap([1.0, float("nan")])


def test_a_bootstrap_without_values_says_nothing() -> None:
    low, high, p = bootstrap([])
    assert math.isnan(low)
    assert math.isnan(high)
    assert p == 1


def test_mcnemar_agrees_with_statsmodels_and_scipy() -> None:
    for left, right in itertools.product((0, 1, 5, 6, 40, 371), repeat=2):
        table = [[17, left], [right, 4]]
        p = mcnemar(left, right)
        assert p == pytest.approx(their_mcnemar(table, exact=True).pvalue)
        if left + right:
            assert p == pytest.approx(stats.binomtest(left, left + right).pvalue)


def test_mcnemar_by_hand() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(0, 6) == 2 / 64
    assert mcnemar(1, 7) == 2 * (1 + 8) / 256


@pytest.mark.slow
def test_holm_agrees_with_statsmodels() -> None:
    rng = np.random.default_rng(3)
    for n in (1, 2, 7, 50):
        p = list(rng.random(n) ** 4)
        assert holm(p) == pytest.approx(multipletests(p, method="holm")[1])
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])  # 3, 2 and 1 times


@pytest.mark.parametrize("tests", [1, 2, 18, 36])
def test_the_smallest_difference_is_the_least_that_mcnemar_finds(tests: int) -> None:
    n = 400
    found = next(k for k in range(1, n) if stats.binomtest(0, k).pvalue * tests <= 0.05)
    assert smallest_difference(n, tests) == found / n


@pytest.mark.parametrize(("left", "right", "tests"), [(7, 2, 1), (6, 0, 18), (30, 20, 1)])
def test_the_number_of_images_that_shows_a_difference(left: int, right: int, tests: int) -> None:
    """The split of n images, blown up until the exact test finds it and not much before."""
    n = 100
    many = images_needed(left, right, n, tests)

    def p(m: float) -> float:
        k = round(m / n * left), round(m / n * right)
        return stats.binomtest(k[0], sum(k)).pvalue * tests

    assert p(many) <= 0.05
    assert p(0.9 * many) > 0.05


def test_no_number_of_images_shows_what_is_not_there() -> None:
    assert images_needed(3, 3, 100) == math.inf
    assert images_needed(10, 0, 16, 18) == 16  # shown already


def test_too_few_images_show_nothing() -> None:
    assert smallest_difference(5) == math.inf
    assert smallest_difference(6) == 1
