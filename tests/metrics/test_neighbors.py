"""Neighbor metrics against scikit-learn and SciPy, for equal laws and for copies."""

import jax
import numpy as np
import pytest
import scipy.spatial
from sklearn.neighbors import KNeighborsClassifier

from kacjax import metrics
from kacjax.metrics.neighbors import nearest_squares, root
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y
from tests.statistics import frequency_bound

KEY = jax.random.key(3)


@pytest.mark.parametrize(("x", "y"), [(X, Y), (WIDE_X, WIDE_Y)], ids=["narrow", "wide"])
def test_nearest_neighbors_equal_scipy(x, y):
    distance, index = scipy.spatial.cKDTree(y).query(x, k=4)
    found = metrics.nearest_neighbors(x, y, 4)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    np.testing.assert_array_equal(found.index, index)


@pytest.mark.parametrize("x", [X, WIDE_X], ids=["narrow", "wide"])
def test_nearest_others_equal_scipy(x):
    square, index = nearest_squares(x, x, k=3, skip_own=True)
    expected, order = scipy.spatial.cKDTree(x).query(x, k=4)
    np.testing.assert_allclose(root(square), expected[:, 1:], rtol=1e-5)
    np.testing.assert_array_equal(index, order[:, 1:])


def test_copies_are_found_at_distance_zero_in_many_dimensions():
    found = metrics.nearest_neighbors(WIDE_Y[:40], WIDE_Y)
    np.testing.assert_array_equal(found.index[:, 0], np.arange(40))
    np.testing.assert_array_equal(found.distance, 0)


def test_distances_have_a_finite_gradient_at_a_copy():
    x = Y[:40] + np.eye(40, 5, dtype=np.float32)
    gradient = jax.grad(lambda x: metrics.nearest_neighbors(x, Y).distance.sum())(x)
    np.testing.assert_allclose(np.linalg.norm(gradient[5:], axis=1), 0)
    assert np.all(np.isfinite(gradient))


def test_two_sample_accuracy_equals_scikit_learn():
    x, y = X[:100].astype(float), Y[:100].astype(float)
    pooled, labels = np.concatenate([x, y]), np.repeat([0, 1], 100)
    hits = 0
    for left_out in range(len(pooled)):
        rest = np.arange(len(pooled)) != left_out
        classifier = KNeighborsClassifier(1).fit(pooled[rest], labels[rest])
        hits += classifier.predict(pooled[[left_out]])[0] == labels[left_out]
    assert metrics.two_sample_accuracy(X[:100], Y[:100]) == pytest.approx(hits / len(pooled))


def test_two_sample_accuracy_at_its_three_fixed_points():
    x, y = jax.random.normal(jax.random.key(0), (2, 1000, 3))
    # The standard error of 2,000 dependent trials is below 0.02: six of them.
    assert metrics.two_sample_accuracy(x, y) == pytest.approx(0.5, abs=0.1)
    assert metrics.two_sample_accuracy(x, y + 100) == 1
    assert metrics.two_sample_accuracy(x, x + 1e-6) < 0.05


def test_two_sample_accuracy_of_points_that_coincide():
    """Ones of 10% and 90%: every nearest point at distance 0 votes, whatever the order."""
    x, y = (np.arange(100)[:, None] % 10 < ones for ones in (1, 9))
    x, y = x.astype(np.float32), y.astype(np.float32)
    # Of 99 other points at a common value 89 or 90, or 9 or 10, are of one's own set.
    expected = 0.9 * 89 / 99 + 0.1 * 9 / 99
    assert metrics.two_sample_accuracy(x, y) == pytest.approx(expected, rel=1e-5)
    assert metrics.two_sample_accuracy(y, x) == pytest.approx(expected, rel=1e-5)


def test_two_sample_accuracy_of_unequal_numbers():
    x, y = jax.random.normal(jax.random.key(2), (1200, 3)), jax.random.normal(KEY, (300, 3))
    # The standard error of the 300 is 0.03: six of their halves.
    assert metrics.two_sample_accuracy(x, y) == pytest.approx(0.5, abs=0.1)
    assert metrics.two_sample_accuracy(x, y + 100) == 1


def test_memorization_equals_brute_force():
    train, held_out, x = X[:200], X[200:300], X[300:]

    def distances(points):
        return scipy.spatial.distance.cdist(points, train).min(axis=1)

    ratio = metrics.memorization_ratio(x, train, held_out)
    assert ratio == pytest.approx(distances(x).mean() / distances(held_out).mean(), rel=1e-5)
    share = metrics.memorized_share(x, train, held_out, quantile=0.1)
    expected = np.mean(distances(x) < np.quantile(distances(held_out), 0.1))
    assert share == pytest.approx(expected)


def test_memorization_for_new_samples_and_copies():
    train, held_out, x = jax.random.normal(jax.random.key(1), (3, 2000, 3))
    # The errors of the held-out quantile and of the share of samples add up.
    bound = 2 * frequency_bound(0.05, 2000)
    assert metrics.memorized_share(x, train, held_out) == pytest.approx(0.05, abs=bound)
    assert metrics.memorization_ratio(x, train, held_out) == pytest.approx(1, abs=0.1)
    copies = x.at[:600].set(train[:600] + 1e-4)
    share = metrics.memorized_share(copies, train, held_out)
    assert share == pytest.approx(0.3 + 0.7 * 0.05, abs=bound)
    assert metrics.memorization_ratio(train + 1e-4, train, held_out) < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.two_sample_accuracy(X, Y[:, :2]), "one dimension"),
        (lambda: metrics.memorization_ratio(X, X, X[:9]), "held_out must not lie in train"),
        (lambda: metrics.memorized_share(X, X, X[:9]), "held_out must not lie in train"),
        (lambda: metrics.nearest_neighbors(X, Y, 348), "k must be at most 347"),
        (lambda: metrics.nearest_neighbors(X, Y, 0), "k must be an integer of at least 1"),
        (lambda: metrics.memorized_share(X, X, X, quantile=1.0), "quantile must lie between"),
        (lambda: metrics.nearest_neighbors(X, Y[:3], 4), "k must be at most 3"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
