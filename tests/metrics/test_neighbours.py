"""Neighbour metrics against scikit-learn and SciPy, for equal laws and for copies."""

import jax
import numpy as np
import pytest
import scipy.spatial
from sklearn.neighbors import KNeighborsClassifier

from kacjax import metrics
from tests.metrics.points import X, Y
from tests.statistics import frequency_bound


def test_nearest_neighbours_equal_scipy():
    distance, index = scipy.spatial.cKDTree(Y).query(X, k=4)
    found = metrics.nearest_neighbours(X, Y, 4)
    np.testing.assert_allclose(found.distance, distance, rtol=1e-5)
    np.testing.assert_array_equal(found.index, index)


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


def test_memorisation_equals_brute_force():
    train, held_out, x = X[:200], X[200:300], X[300:]

    def distances(points):
        return scipy.spatial.distance.cdist(points, train).min(axis=1)

    ratio = metrics.memorisation_ratio(x, train, held_out)
    assert ratio == pytest.approx(distances(x).mean() / distances(held_out).mean(), rel=1e-5)
    share = metrics.memorised_share(x, train, held_out, quantile=0.1)
    expected = np.mean(distances(x) < np.quantile(distances(held_out), 0.1))
    assert share == pytest.approx(expected)


def test_memorisation_for_new_samples_and_copies():
    train, held_out, x = jax.random.normal(jax.random.key(1), (3, 2000, 3))
    # The errors of the held-out quantile and of the share of samples add up.
    bound = 2 * frequency_bound(0.05, 2000)
    assert metrics.memorised_share(x, train, held_out) == pytest.approx(0.05, abs=bound)
    assert metrics.memorisation_ratio(x, train, held_out) == pytest.approx(1, abs=0.1)
    copies = x.at[:600].set(train[:600] + 1e-4)
    share = metrics.memorised_share(copies, train, held_out)
    assert share == pytest.approx(0.3 + 0.7 * 0.05, abs=bound)
    assert metrics.memorisation_ratio(train + 1e-4, train, held_out) < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.two_sample_accuracy(X, Y), "one shape"),
        (lambda: metrics.memorised_share(X, X, X, quantile=1.0), "quantile must lie between"),
        (lambda: metrics.nearest_neighbours(X, Y[:3], 4), "neighbours must be at most 3"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
