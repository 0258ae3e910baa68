"""Distances in blocks against SciPy."""

import jax
import numpy as np
import pytest
import scipy.spatial

from kacjax.metrics.distances import k_nearest, k_nearest_other, mean_distance, nearest
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y


@pytest.mark.parametrize(("x", "y"), [(X, Y), (WIDE_X, WIDE_Y)], ids=["narrow", "wide"])
def test_distances_equal_scipy(x, y):
    table = scipy.spatial.distance.cdist(x, y)
    np.testing.assert_allclose(mean_distance(x, y), table.mean(), rtol=1e-6)
    distance, index = k_nearest(x, y, 3)
    order = np.argsort(table, axis=1)[:, :3]
    np.testing.assert_array_equal(index, order)
    np.testing.assert_allclose(distance, np.take_along_axis(table, order, axis=1), rtol=1e-5)


@pytest.mark.parametrize("x", [X, WIDE_X], ids=["narrow", "wide"])
def test_nearest_others_equal_scipy(x):
    distance, index = k_nearest_other(x, 3)
    expected, order = scipy.spatial.cKDTree(x).query(x, k=4)
    np.testing.assert_allclose(distance, expected[:, 1:], rtol=1e-5)
    np.testing.assert_array_equal(index, order[:, 1:])


def test_copies_are_found_at_distance_zero_in_many_dimensions():
    distance, index = nearest(WIDE_Y[:40], WIDE_Y)
    np.testing.assert_array_equal(index, np.arange(40))
    np.testing.assert_array_equal(distance, 0)
    distance, index = k_nearest_other(np.concatenate([WIDE_X, WIDE_X[:1]]), 1)
    assert (distance[0, 0], index[0, 0]) == (0, len(WIDE_X))


def test_nearest_has_a_finite_gradient_at_a_copy():
    gradient = jax.grad(lambda x: nearest(x, Y)[0].sum())(Y[:40] + np.eye(40, 5, dtype=np.float32))
    np.testing.assert_allclose(np.linalg.norm(gradient[5:], axis=1), 0)
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k_nearest(X, Y, 348), "neighbours must be at most 347"),
        (lambda: k_nearest_other(X[:1], 1), "neighbours must be at most 0"),
        (lambda: k_nearest(X, Y, 0), "neighbours must be an integer of at least 1"),
        (lambda: mean_distance(X, Y[:, :2]), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
