"""Precision, recall, density and coverage against brute force, and for equal laws."""

import jax
import numpy as np
import pytest
import scipy.spatial

from kacjax import metrics
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y, assert_mean


def brute_force(x, data, k):
    """From whole tables of distances, in float64."""

    def radii(points):
        table = scipy.spatial.distance.cdist(points, points)
        np.fill_diagonal(table, np.inf)
        return np.sort(table, axis=1)[:, k - 1]

    table = scipy.spatial.distance.cdist(x, data)
    in_data = table <= radii(data)[None]
    in_x = table <= radii(x)[:, None]
    return (
        in_data.any(axis=1).mean(),
        in_x.any(axis=0).mean(),
        in_data.sum() / (k * len(x)),
        in_data.any(axis=0).mean(),
    )


@pytest.mark.parametrize(
    ("x", "data", "k"), [(Y, X, 5), (WIDE_X, WIDE_Y, 3)], ids=["narrow", "wide"]
)
def test_statistics_equal_brute_force(x, data, k):
    statistics = metrics.prdc(x, data, k)
    assert statistics == pytest.approx(brute_force(x, data, k), abs=1e-6)


def test_mean_for_equal_laws():
    # 300 pairs of 40 points; with k = 5 of 40 the expected coverage is known exactly.
    x, data = jax.random.normal(jax.random.key(0), (2, 300, 40, 3))
    statistics = jax.jit(jax.vmap(metrics.prdc))(x, data)
    assert_mean(statistics.density, 1)
    factors = [(40 - i) / (80 - i) for i in range(1, 6)]
    assert_mean(statistics.coverage, 1 - np.prod(factors))
    # Precision and recall change places with the sets.
    assert_mean(statistics.precision - statistics.recall, 0)


@pytest.mark.parametrize("dim", [2, 70])
def test_points_that_repeat_lie_in_their_own_balls(dim):
    """Radii and distances are rounded alike: in 70 dimensions this was 0.94 to 0.56."""
    points = np.random.default_rng(0).normal(size=(60, dim)).astype(np.float32) + 3
    repeated = metrics.prdc(*2 * (np.repeat(points, 6, axis=0),))
    assert (repeated.precision, repeated.recall, repeated.coverage) == (1, 1, 1)
    itself = metrics.prdc(points, points)
    assert (itself.precision, itself.recall, itself.coverage) == (1, 1, 1)


def test_narrow_clusters_in_many_dimensions():
    """Distances much smaller than the norms keep their digits: density was 4.94, right 1.07."""
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(10, 64))
    x, data = (
        (centers[rng.integers(10, size=500)] + 1e-5 * rng.normal(size=(500, 64))).astype(np.float32)
        for _ in range(2)
    )
    assert metrics.prdc(x, data) == pytest.approx(brute_force(x, data, 5), abs=2e-3)


def test_samples_that_miss_half_of_the_data_and_samples_beside_them():
    far = np.float32(50) * (np.arange(601)[:, None] < 300)
    missed = metrics.prdc(Y, X + far)
    assert missed.precision > 0.9
    assert 0.4 < missed.recall <= 301 / 601
    assert 0.4 < missed.coverage <= 301 / 601
    beside = metrics.prdc(Y + far[200:547], X)
    assert 0.65 < beside.precision <= 247 / 347
    assert beside.recall > 0.9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.prdc(X, Y[:5]), "data must hold at least 6 point"),
        (lambda: metrics.prdc(X, Y, 0), "k must be an integer"),
        (lambda: metrics.prdc(X, WIDE_Y), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
