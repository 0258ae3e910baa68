"""What all metrics of points take and refuse alike, and what they do not import."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from kacjax import metrics
from tests.metrics.points import X, Y

KEY = jax.random.key(0)
FLAT = X[:, 0]

CALLS = {
    "energy_distance": lambda x, y: metrics.energy_distance(x, y),
    "mmd": lambda x, y: metrics.mmd(x, y),
    "kid": lambda x, y: metrics.kid(x, y, KEY, subsets=2).mean,
    "sliced_wasserstein": lambda x, y: metrics.sliced_wasserstein(x, y, KEY),
    "sinkhorn_divergence": lambda x, y: metrics.sinkhorn_divergence(x, y, 10.0),
    "frechet_distance": lambda x, y: metrics.frechet_distance(x, y),
    "prdc": lambda x, y: metrics.prdc(x, y).density,
    "mode_statistics": lambda x, y: metrics.mode_statistics(x, y, 1.0).median_distance,
    "nearest_neighbors": lambda x, y: metrics.nearest_neighbors(x, y).distance.sum(),
    "two_sample_accuracy": lambda x, y: metrics.two_sample_accuracy(x, y),
    "memorization_ratio": lambda x, y: metrics.memorization_ratio(x, y, y[::-1] * 2),
    "memorized_share": lambda x, y: metrics.memorized_share(x, y, y * 2, 0.5),
    "classifier": lambda x, y: metrics.classifier_two_sample_test(x, y, key=KEY).accuracy,
}


@pytest.mark.parametrize("name", CALLS)
def test_events_of_any_shape_and_numbers_of_any_kind(name):
    """Images count as their pixels; whole numbers, lists and JAX arrays as what they hold."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 9, (2, 40, 3, 2)).astype(np.uint8)
    expected = float(CALLS[name](x.reshape(40, 6).astype(float), y.reshape(40, 6).astype(float)))
    assert float(CALLS[name](x.astype(int), y.astype(int))) == pytest.approx(expected, rel=1e-5)
    as_jax = (jax.numpy.asarray(a, float) for a in (x, y))
    assert float(CALLS[name](*as_jax)) == pytest.approx(expected, rel=1e-5)


def test_lists():
    assert metrics.energy_distance([[0.0], [1.0]], [[2.0], [3.0]]) == 3
    assert metrics.frechet_distance([[0, 0], [1, 0]], [[0, 3], [1, 3]]) == pytest.approx(9)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: metrics.energy_distance(FLAT, Y), "x"),
        (lambda: metrics.energy_distance(X, FLAT), "y"),
        (lambda: metrics.mmd(FLAT, FLAT), "x"),
        (lambda: metrics.sinkhorn_divergence(X, FLAT), "y"),
        (lambda: metrics.sliced_wasserstein(FLAT, FLAT, KEY), "x"),
        (lambda: metrics.kid(X, FLAT, KEY), "y_features"),
        (lambda: metrics.frechet_distance(FLAT, Y), "x_features"),
        (lambda: metrics.frechet_distance(X, FLAT), "y_features"),
        (lambda: metrics.prdc(X, FLAT), "data"),
        (lambda: metrics.mode_statistics(FLAT, X), "x"),
        (lambda: metrics.mode_statistics(X, FLAT), "modes"),
        (lambda: metrics.nearest_neighbors(X, FLAT), "train"),
        (lambda: metrics.two_sample_accuracy(FLAT, FLAT), "x"),
        (lambda: metrics.memorization_ratio(X, X, FLAT), "held_out"),
        (lambda: metrics.memorized_share(X, FLAT, X), "train"),
        (lambda: metrics.classifier_two_sample_test(FLAT, FLAT, key=KEY), "x"),
    ],
)
def test_points_lie_along_the_first_axis(call, name):
    with pytest.raises(ValueError, match=rf"^{name} must hold points along its first axis, .*601,"):
        call()


@pytest.mark.long
def test_packages_of_extras_are_imported_where_they_are_used():
    code = """if True:
        import sys
        import kacjax.metrics, kacjax.plots, kacjax.diagnostics
        extras = ("sklearn", "matplotlib", "ott", "torch", "torch_fidelity")
        sys.exit(", ".join(name for name in extras if name in sys.modules) or 0)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
