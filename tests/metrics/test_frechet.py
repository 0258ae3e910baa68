"""The Fréchet distance against SciPy's matrix root, and its bias at equal laws."""

import numpy as np
import pytest
import scipy.linalg

from kacjax import metrics
from tests.metrics.points import RNG, WIDE_X, WIDE_Y, X, Y, assert_mean


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
    value = metrics.frechet_distance_from_statistics(mean, first, 0 * mean, second)
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
    x, y = RNG.normal(size=(2, 200, 500, 8))
    values = np.array([metrics.frechet_distance(a, b) for a, b in zip(x, y, strict=True)])
    bias = 2 * 8 / 500 + 8 * 9 / (2 * 500)
    assert_mean(values / bias, 1.0)


def test_streaming_equals_numpy_at_once_and_in_any_chunks():
    # An offset that would cancel in a sum of squares.
    features = WIDE_X.astype(float) + 1e6
    whole = metrics.feature_statistics(lambda x: x, features, chunk_size=1000)
    chunked = metrics.feature_statistics(lambda x: x, features, chunk_size=37)
    for statistics in (whole, chunked):
        assert statistics.count == len(features)
        np.testing.assert_allclose(statistics.mean, features.mean(axis=0), rtol=1e-13)
        np.testing.assert_allclose(
            statistics.covariance, np.cov(features, rowvar=False), rtol=1e-6, atol=1e-9
        )
    parts = [metrics.FeatureStatistics.of(features[rows]) for rows in (slice(9), slice(9, None))]
    np.testing.assert_allclose(parts[0].add(parts[1]).covariance, whole.covariance, atol=1e-9)


def test_features_of_images_by_any_function():
    images = RNG.integers(0, 256, size=(50, 4, 4, 3)).astype(np.uint8)
    statistics = metrics.feature_statistics(lambda x: x.mean(axis=(1, 2)), images, chunk_size=20)
    expected = images.astype(float).mean(axis=(1, 2))
    np.testing.assert_allclose(statistics.covariance, np.cov(expected, rowvar=False), rtol=1e-10)


@pytest.mark.parametrize("name", ["mean_x", "covariance_x", "mean_y", "covariance_y"])
def test_statistics_must_be_finite(name):
    statistics = {
        "mean_x": np.zeros(2),
        "covariance_x": np.eye(2),
        "mean_y": np.zeros(2),
        "covariance_y": np.eye(2),
    }
    with pytest.raises(ValueError, match=f"{name} must be finite"):
        metrics.frechet_distance_from_statistics(**statistics | {name: statistics[name] * np.nan})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.frechet_distance(X[:1], Y), "at least two feature vectors"),
        (lambda: metrics.frechet_distance(X, WIDE_Y), "one dimension"),
        (
            lambda: metrics.frechet_distance_from_statistics(
                np.zeros(2), np.eye(2), np.zeros(3), np.eye(3)
            ),
            "mean_y must have shape",
        ),
        (lambda: metrics.frechet_distance(X * np.float32(np.inf), Y), "features must be finite"),
        (lambda: metrics.FeatureStatistics.of(X).add(WIDE_Y), "features must have dimension 5"),
        (lambda: metrics.feature_statistics(lambda x: x, X[:0]), "images must not be empty"),
        (
            lambda: metrics.frechet_distance_from_statistics(
                np.zeros(2), np.diag([1.0, -1.0]), np.zeros(2), np.eye(2)
            ),
            "covariance_x must not have negative eigenvalues",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
