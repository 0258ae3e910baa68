"""The kernel distance against scikit-learn's kernel, and its law for equal samples."""

import jax
import numpy as np
import pytest
from sklearn.metrics.pairwise import polynomial_kernel

from kacjax import metrics
from tests.metrics.points import WIDE_X, WIDE_Y, X, Y, assert_mean


def reference(x, y):
    x, y = x.astype(float), y.astype(float)

    def within(a):
        table = polynomial_kernel(a, degree=3, coef0=1)
        return (table.sum() - np.trace(table)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * polynomial_kernel(x, y, degree=3, coef0=1).mean()


def test_all_pairs_equal_scikit_learn():
    # Kernel values are about 100 in the second case: 2e-4 is the rounding of float32.
    assert metrics.polynomial_discrepancy(X, Y) == pytest.approx(reference(X, Y), abs=1e-5)
    wide = metrics.polynomial_discrepancy(WIDE_X, WIDE_Y)
    assert wide == pytest.approx(reference(WIDE_X, WIDE_Y), abs=5e-4)


def test_a_subset_of_everything_is_everything():
    value = metrics.kernel_distance(X[:347], Y, jax.random.key(0), subsets=3, subset_size=347)
    assert value.mean == pytest.approx(reference(X[:347], Y), abs=1e-5)
    assert value.standard_deviation == pytest.approx(0, abs=1e-6)


def test_subsets_agree_with_all_pairs():
    value = metrics.kernel_distance(X, Y, jax.random.key(1), subsets=300, subset_size=60)
    error = value.standard_deviation / np.sqrt(300)
    assert 0 < abs(value.mean - reference(X, Y)) < 5.5 * error


def test_mean_for_equal_laws():
    # 300 pairs of samples of 40 and 60 normal points.
    draws = jax.random.normal(jax.random.key(2), (300, 100, 3))
    values = jax.vmap(lambda draw: metrics.polynomial_discrepancy(draw[:40], draw[40:]))(draws)
    assert_mean(values, 0)
    assert np.mean(np.asarray(values) < 0) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.kernel_distance(X, Y, jax.random.key(0)), "x_features must hold at least"),
        (lambda: metrics.kernel_distance(X, Y, jax.random.key(0), subsets=0), "subsets must be"),
        (lambda: metrics.polynomial_discrepancy(X, WIDE_Y), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
