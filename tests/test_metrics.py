"""Each metric against another implementation, and at known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.stats
from sklearn.neighbors import KNeighborsClassifier

from kacjax import data, metrics
from kacjax.metrics.distances import mean_distance, nearest, nearest_other

RNG = np.random.default_rng(0)
# Sizes that the blocks do not divide.
X = RNG.normal(size=(601, 5)).astype(np.float32)
Y = (RNG.normal(size=(347, 5)) + 0.3).astype(np.float32)


def test_distances_equal_scipy():
    table = scipy.spatial.distance.cdist(X, Y)
    np.testing.assert_allclose(mean_distance(X, Y), table.mean(), rtol=1e-6)
    distance, index = nearest(X, Y)
    np.testing.assert_allclose(distance, table.min(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(index, table.argmin(axis=1))


def test_nearest_other_equals_scipy():
    distance, index = nearest_other(X)
    expected, order = scipy.spatial.cKDTree(X).query(X, k=2)
    np.testing.assert_allclose(distance, expected[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(index, order[:, 1])


def test_energy_distance_equals_scipy_in_one_dimension():
    x, y = X[:, :1], Y[:, :1]
    expected = scipy.stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    assert metrics.energy_distance(x, y) == pytest.approx(expected, rel=1e-4)


def test_energy_distance_equals_brute_force():
    def mean(x, y):
        return scipy.spatial.distance.cdist(x, y).mean()

    expected = 2 * mean(X, Y) - mean(X, X) - mean(Y, Y)
    assert metrics.energy_distance(X, Y) == pytest.approx(expected, rel=1e-4)
    assert metrics.energy_distance(X, X) == pytest.approx(0, abs=1e-6)


def test_energy_distance_is_small_for_equal_laws():
    x, y = jax.random.normal(jax.random.key(0), (2, 1000, 2))
    assert metrics.energy_distance(x, y) < 0.02
    assert metrics.energy_distance(x, y + 0.3) > 0.05


def test_energy_distance_traces():
    value, gradient = jax.jit(jax.value_and_grad(metrics.energy_distance))(
        jnp.asarray(X[:40]), jnp.asarray(Y[:30])
    )
    assert value == pytest.approx(float(metrics.energy_distance(X[:40], Y[:30])), rel=1e-4)
    step = 1e-3 * gradient / jnp.linalg.norm(gradient)
    moved = metrics.energy_distance(X[:40] - step, Y[:30])
    assert moved < value


def test_mode_statistics_equal_brute_force():
    modes = data.GRID2D_MODES
    x = RNG.normal(size=(1000, 2)).astype(np.float32)
    table = np.linalg.norm(x[:, None].astype(float) - modes[None], axis=-1)
    shares = np.bincount(table.argmin(axis=1), minlength=9) / 1000
    statistics = metrics.mode_statistics(x, modes, radius=0.3)
    assert statistics.median_distance == pytest.approx(np.median(table.min(axis=1)), rel=1e-5)
    assert statistics.within_radius == pytest.approx((table.min(axis=1) <= 0.3).mean())
    assert statistics.total_variation == pytest.approx(np.abs(shares - 1 / 9).sum() / 2, rel=1e-5)


def test_mode_statistics_see_a_missing_mode():
    modes = data.GRID2D_MODES
    assert metrics.mode_statistics(modes, modes) == pytest.approx((0, 1, 0), abs=1e-6)
    assert metrics.mode_statistics(modes[:8], modes).total_variation == pytest.approx(1 / 9)


def test_two_sample_accuracy_equals_scikit_learn():
    x, y = X[:347].astype(float), Y.astype(float)
    pooled, labels = np.concatenate([x, y]), np.repeat([0, 1], 347)
    hits = 0
    for left_out in range(len(pooled)):
        rest = np.arange(len(pooled)) != left_out
        classifier = KNeighborsClassifier(1).fit(pooled[rest], labels[rest])
        hits += classifier.predict(pooled[[left_out]])[0] == labels[left_out]
    assert metrics.two_sample_accuracy(X[:347], Y) == pytest.approx(hits / len(pooled))


def test_two_sample_accuracy_at_its_three_fixed_points():
    x, y = jax.random.normal(jax.random.key(0), (2, 1000, 3))
    # The standard error of 2,000 dependent trials is below 0.02: six of them.
    assert metrics.two_sample_accuracy(x, y) == pytest.approx(0.5, abs=0.1)
    assert metrics.two_sample_accuracy(x, y + 100) == 1
    assert metrics.two_sample_accuracy(x, x + 1e-6) < 0.05


def test_memorisation_ratio_equals_brute_force_and_sees_copies():
    train, held_out, x = X[:200], X[200:300], X[300:]

    def mean(points):
        return scipy.spatial.distance.cdist(points, train).min(axis=1).mean()

    ratio = metrics.memorisation_ratio(x, train, held_out)
    assert ratio == pytest.approx(mean(x) / mean(held_out), rel=1e-5)
    assert metrics.memorisation_ratio(train + 1e-4, train, held_out) < 0.01


def test_class_judge_on_real_noisy_and_unbalanced_digits():
    digits = data.load_digits()
    judge = metrics.ClassJudge(digits.train, digits.train_labels)
    real = judge.statistics(digits.held_out)
    assert real.confidence > 0.9
    assert real.total_variation < 0.03
    predicted = judge.probabilities(digits.held_out).argmax(axis=1)
    assert np.mean(predicted == digits.held_out_labels) > 0.97
    counts = np.bincount(predicted, minlength=10) / 360
    shares = np.bincount(digits.train_labels) / len(digits.train_labels)
    assert real.total_variation == pytest.approx(np.abs(counts - shares).sum() / 2)

    noisy = digits.held_out + 0.5 * RNG.normal(size=digits.held_out.shape).astype(np.float32)
    assert judge.statistics(noisy).confidence < 0.85
    ones = digits.held_out[digits.held_out_labels == 1]
    assert judge.statistics(ones).total_variation == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.energy_distance(X, X[:0]), "y must hold at least one point"),
        (lambda: metrics.energy_distance(X * np.float32(np.nan), X), "x must be finite"),
        (lambda: metrics.energy_distance(X, X[:, :2]), "one dimension"),
        (lambda: metrics.two_sample_accuracy(X, Y), "one shape"),
        (lambda: metrics.mode_statistics(X, X, radius=-1.0), "radius must be positive"),
        (lambda: metrics.ClassJudge(X, np.zeros(3, int)), "differ in number"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
