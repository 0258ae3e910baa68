"""The Sinkhorn divergence against POT, and between samples of one law."""

import sys

import jax
import numpy as np
import ot
import pytest

from kacjax import metrics
from tests.metrics.points import X, Y

A, B = X[:80, :3], 1.5 * Y[:60, :3]


def entropic_cost(x, y, epsilon):
    """By POT, in float64, with the entropy relative to the product of the marginals."""
    costs = ot.dist(x.astype(float), y.astype(float))
    a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    plan = ot.sinkhorn(
        a, b, costs, epsilon, method="sinkhorn_log", numItermax=20_000, stopThr=1e-9, warn=False
    )
    return np.sum(plan * costs) + epsilon * np.sum(plan * np.log(plan / np.outer(a, b)))


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.3, 3.0])
def test_divergence_equals_pot(epsilon):
    within = entropic_cost(A, A, epsilon) + entropic_cost(B, B, epsilon)
    expected = entropic_cost(A, B, epsilon) - within / 2
    assert metrics.sinkhorn_divergence(A, B, epsilon) == pytest.approx(expected, rel=1e-4)


def test_a_large_epsilon_leaves_the_distance_of_the_means():
    expected = np.sum((A.mean(axis=0) - B.mean(axis=0)) ** 2)
    assert metrics.sinkhorn_divergence(A, B, 1e3) == pytest.approx(expected, rel=1e-2)


def test_epsilon_is_a_twentieth_of_the_mean_cost_by_default():
    expected = metrics.sinkhorn_divergence(A, B, float(ot.dist(A, B).mean()) / 20)
    assert metrics.sinkhorn_divergence(A, B) == pytest.approx(float(expected), rel=1e-4)


def test_equal_laws():
    # 30 pairs of 80 and 60 normal points, beside pairs shifted by 2: no value of the first kind
    # reaches one of the second (a permutation p-value of 1e-17).
    first, second = jax.random.normal(jax.random.key(0), (2, 30, 80, 3))
    shift = np.array([[2, 0, 0]], np.float32)

    def divergences(move):
        pairs = zip(first, second[:, :60] + move[None], strict=True)
        return [float(metrics.sinkhorn_divergence(x, y, 0.5)) for x, y in pairs]

    equal, moved = divergences(0 * shift), divergences(shift)
    assert min(equal) > 0
    assert max(equal) < min(moved)


def test_too_few_iterations_are_told():
    with pytest.warns(RuntimeWarning, match="did not converge"):
        metrics.sinkhorn_divergence(A, B, 1e-2, threshold=1e-5, max_iterations=10)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.sinkhorn_divergence(A, B, 0.0), "epsilon must be positive"),
        (lambda: metrics.sinkhorn_divergence(A, B[:, :2]), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ott.geometry.pointcloud", None)
    with pytest.raises(ImportError, match=r"kacjax\[metrics\]"):
        metrics.sinkhorn_divergence(A, B)
