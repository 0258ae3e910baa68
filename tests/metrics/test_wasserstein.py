"""Wasserstein distances against SciPy and POT, and their law for equal samples."""

import jax
import numpy as np
import ot
import pytest
import scipy.stats

from kacjax import metrics
from kacjax.metrics.discrepancies import random_directions
from tests.metrics.points import X, Y, assert_mean


def on_the_line(x, y, p=2):
    """There each of the two directions gives the distance."""
    return metrics.sliced_wasserstein(x[:, None], y[:, None], jax.random.key(0), 1, p)


@pytest.mark.parametrize("size", [347, 601, 200])
def test_on_the_line_equals_scipy_and_pot(size):
    x, y = X[:size, 0], Y[:, 0]
    first = scipy.stats.wasserstein_distance(x, y)
    assert on_the_line(x, y, p=1) == pytest.approx(first, rel=1e-5)
    second = np.sqrt(ot.wasserstein_1d(x.astype(float), y.astype(float), p=2))
    assert on_the_line(x, y, p=2) == pytest.approx(second, rel=1e-5)


@pytest.mark.parametrize("p", [1, 2])
def test_sliced_equals_pot_with_the_same_directions(p):
    key = jax.random.key(0)
    directions = np.asarray(random_directions(key, 5, 40), float)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1, rtol=1e-6)
    expected = ot.sliced_wasserstein_distance(
        X.astype(float), Y.astype(float), projections=directions.T, p=p
    )
    value = metrics.sliced_wasserstein(X, Y, key, projections=40, p=p)
    assert value == pytest.approx(expected, rel=1e-5)


def test_of_a_shift_it_is_the_mean_projection():
    key = jax.random.key(1)
    shift = np.array([0, 3, 0, 0, 0], np.float32)
    along = random_directions(key, 5, 128) @ shift
    value = metrics.sliced_wasserstein(X, X + shift, key)
    assert value == pytest.approx(np.sqrt(np.mean(along**2)), rel=1e-4)
    assert metrics.sliced_wasserstein(X, X[::-1], key) == pytest.approx(0, abs=1e-6)


def test_mean_for_equal_laws():
    # For n uniform numbers on both sides the squared distance is the mean of (U_(i) - V_(i))^2,
    # twice the mean variance of an order statistic: 1 / 3(n + 1). 400 repetitions with n = 50.
    x, y = jax.random.uniform(jax.random.key(2), (2, 400, 50))
    values = jax.vmap(on_the_line)(x, y) ** 2
    assert_mean(values, 1 / (3 * 51))


@pytest.mark.long
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.sliced_wasserstein(X, Y, jax.random.key(0), p=3), "p must be 1 or 2"),
        (lambda: metrics.sliced_wasserstein(X, Y, jax.random.key(0), 0), "projections must be"),
        (
            lambda: metrics.sliced_wasserstein(X[:0], Y, jax.random.key(0)),
            "x must hold at least 1",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_gradients_are_finite_where_sets_are_equal():
    x, key = np.ones((4, 2), np.float32), jax.random.key(0)
    distance = lambda own: metrics.sliced_wasserstein(own, x, key)  # noqa: E731
    np.testing.assert_array_equal(jax.grad(distance)(x), 0)
