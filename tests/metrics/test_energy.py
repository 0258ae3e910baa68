"""The energy distance against SciPy, and its law for equal samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats

from kacjax import metrics
from tests.metrics.points import X, Y, assert_mean


def test_energy_distance_equals_scipy_in_one_dimension():
    x, y = X[:, :1], Y[:, :1]
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert metrics.energy_distance(x, y) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("unbiased", [False, True])
def test_energy_distance_equals_brute_force(unbiased):
    def mean(x, y):
        table = scipy.spatial.distance.cdist(x, y)
        return table.sum() / (table.size - len(x) * (unbiased and x is y))

    expected = 2 * mean(X, Y) - mean(X, X) - mean(Y, Y)
    assert metrics.energy_distance(X, Y, unbiased=unbiased) == pytest.approx(expected, rel=1e-4)


def test_energy_distance_of_a_sample_from_itself_is_zero():
    assert metrics.energy_distance(X, X) == pytest.approx(0, abs=1e-6)


def test_mean_for_equal_laws():
    # 400 pairs of samples of 40 and 60 normal numbers, whose mean distance is 2 / sqrt(pi).
    draws = jax.random.normal(jax.random.key(0), (400, 100, 1))

    @jax.jit
    @jax.vmap
    def both(draw):
        x, y = draw[:40], draw[40:]
        return metrics.energy_distance(x, y), metrics.energy_distance(x, y, unbiased=True)

    biased, unbiased = both(draws)
    assert_mean(unbiased, 0)
    assert_mean(biased, 2 / np.sqrt(np.pi) * (1 / 40 + 1 / 60))
    assert np.all(biased >= 0)


def test_energy_distance_traces():
    value, gradient = jax.jit(jax.value_and_grad(metrics.energy_distance))(
        jnp.asarray(X[:40]), jnp.asarray(Y[:30])
    )
    assert value == pytest.approx(float(metrics.energy_distance(X[:40], Y[:30])), rel=1e-4)
    step = 1e-3 * gradient / jnp.linalg.norm(gradient)
    moved = metrics.energy_distance(X[:40] - step, Y[:30])
    assert moved < value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.energy_distance(X, X[:0]), "y must hold at least 1 point"),
        (lambda: metrics.energy_distance(X, X[:1], unbiased=True), "y must hold at least 2"),
        (lambda: metrics.energy_distance(X * np.float32(np.nan), X), "x must be finite"),
        (lambda: metrics.energy_distance(X, X[:, :2]), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
