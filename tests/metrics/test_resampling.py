"""Intervals against SciPy, and how often they hold what they should."""

import functools

import jax
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from kacjax import metrics
from tests.statistics import frequency_bound

KEY = jax.random.key(0)


def mean_difference(x, y):
    return x.mean() - y.mean()


def nearest_other(x):
    """The mean distance to the nearest other point."""
    return scipy.spatial.cKDTree(x).query(x, k=2)[0][:, 1].mean()


def squared_difference(x, y):
    """Of first order where the means differ, and biased: a stand-in for a distance of samples."""
    return (x.mean() - y.mean()) ** 2


def test_bootstrap_equals_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=150), rng.normal(size=80)
    value, low, high = metrics.bootstrap(mean_difference, x, y, key=KEY, resamples=4000)
    expected = scipy.stats.bootstrap(
        (x, y), mean_difference, vectorized=False, method="percentile", n_resamples=4000, rng=0
    ).confidence_interval
    assert value == pytest.approx(mean_difference(x, y))
    # The ends are quantiles of 4,000 draws: an error of 0.04 standard deviations of the value, in
    # either interval; six times that.
    deviation = np.sqrt(1 / 150 + 1 / 80)
    assert (low, high) == pytest.approx(tuple(expected), abs=6 * 0.04 * np.sqrt(2) * deviation)


@pytest.mark.parametrize("interval", [metrics.bootstrap, metrics.subsampling])
def test_width_for_a_mean_is_that_of_normal_theory(interval):
    x = np.random.default_rng(0).normal(size=(400, 2)).astype(np.float32)
    value, low, high = interval(lambda x: x[:, 0].mean(), x, key=KEY, resamples=2000, level=0.9)
    deviation = x[:, 0].std(ddof=1) / np.sqrt(400)
    assert low < value < high
    # 2,000 draws: quantiles to 0.03 deviations, and six times that on both sides.
    assert high - low == pytest.approx(2 * 1.645 * deviation, abs=2 * 6 * 0.03 * deviation)


def test_subsampling_holds_the_mean_of_a_metric_between_samples():
    # 200 pairs of 61, shifted by 1, whose squared difference has the mean 1 + 2 / 61. The level is
    # 95% for many points, some 93% for so few; the bound is that of 200 intervals.
    size = 61
    pairs = np.random.default_rng(0).normal(size=(200, 2, size))
    held = 0
    for number, (x, y) in enumerate(pairs):
        interval = metrics.subsampling(
            squared_difference, x, y + 1, key=jax.random.key(number), resamples=100, level=0.95
        )
        held += interval.low <= 1 + 2 / size <= interval.high
    assert abs(held / 200 - 0.94) < frequency_bound(0.06, 200)


def test_resampling_with_replacement_is_wrong_for_distances_and_halves_are_right():
    # Copies lie at distance 0: the bootstrap's interval does not even hold the value itself.
    x = np.random.default_rng(0).normal(size=(200, 3))
    with pytest.warns(RuntimeWarning, match="does not hold the value .* use subsampling"):
        wrong = metrics.bootstrap(nearest_other, x, key=KEY, resamples=50)
    assert wrong.high < wrong.value
    right = metrics.subsampling(nearest_other, x, key=KEY, resamples=50)
    assert right.low < right.value < right.high


@pytest.mark.parametrize("wrap", [lambda f: f, functools.partial, jax.jit])
@pytest.mark.parametrize("name", ["energy_distance", "mmd", "frechet_distance", "prdc"])
def test_distances_of_this_package_are_refused_by_the_bootstrap(name, wrap):
    x = np.random.default_rng(0).normal(size=(20, 2))
    with pytest.raises(ValueError, match=f"metric must not be .*{name}.* use subsampling"):
        metrics.bootstrap(wrap(getattr(metrics, name)), x, x, key=KEY)


def test_key_decides():
    x = np.random.default_rng(0).normal(size=50)
    first, again, other = (
        metrics.bootstrap(np.mean, x, key=jax.random.key(seed)) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.bootstrap(np.mean, np.ones(1), key=KEY),
            "samples must have two points",
        ),
        (lambda: metrics.bootstrap(np.mean, key=KEY), "samples must have"),
        (
            lambda: metrics.subsampling(np.mean, np.ones(5), key=KEY, level=1.0),
            "level must lie between",
        ),
        (
            lambda: metrics.subsampling(np.mean, np.ones(5), key=KEY, resamples=1),
            "resamples must be",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
