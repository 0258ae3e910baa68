"""The Fréchet distance against SciPy's matrix root, and its bias at equal laws."""

import numpy as np
import pytest
import scipy.linalg

from kacjax import metrics
from kacjax.metrics.frechet import between_gaussians
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y, assert_mean


def reference(x, y):
    """By the root of a matrix that is not symmetric, as it is usually computed."""
    x, y = x.astype(float), y.astype(float)
    first, second = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    root = np.real(scipy.linalg.sqrtm(first @ second))
    shift = x.mean(axis=0) - y.mean(axis=0)
    return shift @ shift + np.trace(first + second - 2 * root)


@pytest.mark.parametrize(("x", "y"), [(X, 2 * Y), (WIDE_X, WIDE_Y)])
def test_distance_equals_scipy(x, y):
    assert metrics.frechet_distance(x, y) == pytest.approx(reference(x, y), rel=1e-6)


def test_distance_of_commuting_covariances_is_known():
    mean = np.array([1.0, -2.0, 0.0])
    first, second = np.diag([1.0, 4.0, 0.0]), np.diag([9.0, 4.0, 0.25])
    value = between_gaussians(mean, first, 0 * mean, second)
    assert value == pytest.approx(5 + 4 + 0 + 0.25, rel=1e-12)


def test_low_rank_loses_no_digits():
    # Fewer points than dimensions: the root of the product has a large null space.
    few = WIDE_X[:20]
    assert metrics.frechet_distance(few, few[::-1]) == pytest.approx(0, abs=1e-10)
    moved = metrics.frechet_distance(few, few + np.float32(0.5))
    assert moved == pytest.approx(70 * 0.25, rel=1e-5)


def test_mean_for_equal_laws():
    # 200 pairs of 500 normal vectors in 8 dimensions: the bias 52 / 500, and the next order in
    # 1/n, which is 1% of it here.
    x, y = np.random.default_rng(0).normal(size=(2, 200, 500, 8))
    values = np.array([metrics.frechet_distance(a, b) for a, b in zip(x, y, strict=True)])
    bias = 2 * 8 / 500 + 8 * 9 / (2 * 500)
    assert_mean(values / bias, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.frechet_distance(X[:1], Y), "x_features must hold at least 2 point"),
        (lambda: metrics.frechet_distance(X, WIDE_Y), "one dimension"),
        (lambda: metrics.frechet_distance(X * np.float32(np.inf), Y), "x_features must be finite"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
