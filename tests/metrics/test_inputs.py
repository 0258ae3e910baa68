"""What all metrics of points refuse alike."""

import jax
import numpy as np
import pytest

from kacjax import metrics
from tests.metrics.points import X, Y

KEY = jax.random.key(0)
FLAT = X[:, 0]


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: metrics.energy_distance(FLAT, Y), "x"),
        (lambda: metrics.energy_distance(X, FLAT), "y"),
        (lambda: metrics.maximum_mean_discrepancy(FLAT, FLAT), "x"),
        (lambda: metrics.median_distance(FLAT, FLAT), "x"),
        (lambda: metrics.sinkhorn_divergence(X, FLAT), "y"),
        (lambda: metrics.sliced_wasserstein(FLAT, FLAT, KEY), "x"),
        (lambda: metrics.kernel_distance(X, FLAT, KEY), "y_features"),
        (lambda: metrics.polynomial_discrepancy(FLAT, FLAT), "x"),
        (lambda: metrics.frechet_distance(FLAT, Y), "x_features"),
        (lambda: metrics.frechet_distance(X, FLAT), "y_features"),
        (lambda: metrics.FeatureStatistics.of(FLAT), "features"),
        (lambda: metrics.manifold_statistics(X, FLAT), "data"),
        (lambda: metrics.mode_statistics(FLAT, X), "x"),
        (lambda: metrics.mode_statistics(X, FLAT), "modes"),
        (lambda: metrics.nearest_neighbours(X, FLAT), "train"),
        (lambda: metrics.two_sample_accuracy(FLAT, FLAT), "x"),
        (lambda: metrics.memorisation_ratio(X, X, FLAT), "held_out"),
        (lambda: metrics.memorised_share(X, FLAT, X), "train"),
        (lambda: metrics.classifier_two_sample_test(FLAT, FLAT), "x"),
        (lambda: metrics.ClassJudge(FLAT, np.arange(len(FLAT))), "train"),
    ],
)
def test_points_are_rows(call, name):
    with pytest.raises(ValueError, match=rf"^{name} must hold points as rows, .* \(601,\)"):
        call()


def test_numbers_are_a_vector():
    with pytest.raises(ValueError, match=r"^y must hold numbers, \(num,\); got shape \(601, 3\)"):
        metrics.wasserstein_1d(FLAT, X[:, :3])
