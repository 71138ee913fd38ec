"""Statistics against values worked out by hand, SciPy, and their own promises on simulated data."""

import numpy as np
import pytest
import scipy.stats

from covey.experiment.statistics import bootstrap_interval, iqm, probability_of_improvement


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7.0], 7.0),
        ([1.0, 2.0, 9.0], 4.0),  # floor(3 / 4) = 0: nothing is cut
        ([100.0, 1.0, 3.0, -50.0], 2.0),
        ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 3.0),  # floor(7 / 4) = 1 cut at each end
        ([8.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0], 4.5),
    ],
)
def test_iqm_by_hand(values, expected):
    assert iqm(np.array(values)) == pytest.approx(expected)


@pytest.mark.parametrize("runs", range(1, 14))
def test_iqm_is_scipys_trimmed_mean(runs):
    x = np.random.default_rng(runs).normal(size=(runs, 5))
    np.testing.assert_allclose(iqm(x), scipy.stats.trim_mean(x, 0.25, axis=0))
    np.testing.assert_allclose(iqm(x.T, axis=1), iqm(x))


def test_iqm_leaves_nan_out_point_by_point():
    x = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan], [3.0, np.nan], [90.0, np.nan]])
    np.testing.assert_allclose(iqm(x), [2.5, np.nan])


def test_interval_agrees_with_scipys_percentile_bootstrap():
    x = np.random.default_rng(1).gumbel(size=(24, 3))
    ours = bootstrap_interval(x, num_resamples=20_000)
    theirs = scipy.stats.bootstrap((x,), iqm, n_resamples=20_000, method="percentile", rng=2).confidence_interval
    np.testing.assert_allclose(ours, (theirs.low, theirs.high), atol=0.02)


def test_interval_resamples_within_each_task():
    # Two tasks far apart, constant within: pooled resampling would mix them in other proportions, stratified cannot.
    low, high = bootstrap_interval([np.zeros(4), np.full(12, 100.0)], statistic=np.mean)
    assert low == high == pytest.approx(75.0)


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.normal(size=40), confidence=0.9, num_resamples=400, seed=trial)
        hits += low <= 0 <= high  # the interquartile mean of a symmetric distribution is its centre
    assert 0.82 <= hits / 300 <= 0.95


def test_interval_is_nan_where_fewer_than_two_runs_remain():
    x = np.array([[1.0, 1.0, np.nan], [2.0, np.nan, np.nan], [4.0, np.nan, np.nan]])
    low, high = bootstrap_interval(x)
    assert np.isfinite([low[0], high[0]]).all() and low[0] < high[0]
    assert np.isnan([*low[1:], *high[1:]]).all()
    assert np.isnan(bootstrap_interval(np.array([3.0]))).all()


def test_interval_refuses_an_impossible_confidence():
    with pytest.raises(ValueError, match="confidence is 95"):
        bootstrap_interval(np.arange(4.0), confidence=95)


def test_interval_is_reproducible():
    x = np.random.default_rng(1).normal(size=9)
    assert bootstrap_interval(x, seed=3) == bootstrap_interval(x, seed=3)


def test_probability_of_improvement():
    assert probability_of_improvement(np.array([3.0, 1.0]), np.array([2.0, 1.0])) == pytest.approx((2 + 0.5) / 4)
    assert probability_of_improvement(np.array([3.0, np.nan]), np.array([2.0])) == 1.0
    x, y = np.random.default_rng(0).integers(9, size=(2, 30))
    expected = scipy.stats.mannwhitneyu(x, y).statistic / 900
    assert probability_of_improvement(x, y) == pytest.approx(expected)
    assert probability_of_improvement([x, np.ones(3)], [y, np.zeros(3)]) == pytest.approx((expected + 1) / 2)
