"""The maximum mean discrepancy against scikit-learn's kernels, and its law for equal samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
from sklearn.metrics.pairwise import rbf_kernel

from kacjax import metrics
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y, assert_mean

SCALES = (0.5, 2.0)


def reference(x, y, scales, unbiased):
    def mean(a, b):
        a, b = a.astype(float), b.astype(float)
        table = np.mean([rbf_kernel(a, b, gamma=1 / (2 * h**2)) for h in scales], axis=0)
        if unbiased and a.shape == b.shape and np.all(a == b):
            return (table.sum() - len(a)) / (len(a) * (len(a) - 1))
        return table.mean()

    return mean(x, x) + mean(y, y) - 2 * mean(x, y)


@pytest.mark.parametrize("unbiased", [False, True])
def test_discrepancy_equals_scikit_learn(unbiased):
    value = metrics.mmd(X, Y, SCALES, unbiased=unbiased)
    assert value == pytest.approx(reference(X, Y, SCALES, unbiased), abs=2e-6)


def test_one_bandwidth_by_default_the_median_distance():
    pooled = np.concatenate([WIDE_X, WIDE_Y])
    median = np.median(scipy.spatial.distance.pdist(pooled))
    assert metrics.mmd(WIDE_X, WIDE_Y) == pytest.approx(
        float(metrics.mmd(WIDE_X, WIDE_Y, median)), abs=1e-6
    )
    value = metrics.mmd(WIDE_X, WIDE_Y, unbiased=True)
    assert value == pytest.approx(reference(WIDE_X, WIDE_Y, [median], True), abs=2e-6)


def test_mean_for_equal_laws():
    # 400 pairs of samples of 40 and 60 normal numbers; E k(X, X') = 1 / sqrt(1 + 2 / h^2).
    draws = jax.random.normal(jax.random.key(1), (400, 100, 1))

    @jax.jit
    @jax.vmap
    def both(draw):
        x, y = draw[:40], draw[40:]
        return (
            metrics.mmd(x, y, 1.0, unbiased=True),
            metrics.mmd(x, y, 1.0),
        )

    unbiased, biased = both(draws)
    assert_mean(unbiased, 0)
    assert_mean(biased, (1 - 1 / np.sqrt(3)) * (1 / 40 + 1 / 60))
    assert np.any(unbiased < 0)
    assert np.all(biased >= 0)


def test_discrepancy_traces_and_falls_along_its_gradient():
    function = jax.jit(jax.value_and_grad(lambda x: metrics.mmd(x, Y, 1.0)))
    value, gradient = function(jnp.asarray(X))
    assert function(X - 1e-2 * gradient / jnp.linalg.norm(gradient))[0] < value


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mmd(X, Y, -1.0), "bandwidth must be positive"),
        (lambda: metrics.mmd(X, Y, (1.0, 0.0)), "bandwidth must be positive"),
        (lambda: metrics.mmd(X, X[:1], unbiased=True), "y must hold at least 2"),
        (lambda: metrics.mmd(0 * X, 0 * X), "median distance of the points"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
