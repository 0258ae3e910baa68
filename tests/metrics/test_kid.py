"""The kernel distance (KID) against scikit-learn's kernel, and its law for equal samples."""

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


@pytest.mark.parametrize(("x", "y", "rounding"), [(X[:347], Y, 1e-5), (WIDE_X[:270], WIDE_Y, 5e-4)])
def test_a_subset_of_everything_equals_scikit_learn(x, y, rounding):
    # Kernel values are about 100 in the second case: 2e-4 is the rounding of float32. Subsets
    # hold all there is by default.
    value = metrics.kid(x, y, jax.random.key(0), subsets=3)
    assert value.mean == pytest.approx(reference(x, y), abs=rounding)
    assert value.standard_deviation == pytest.approx(0, abs=rounding)


def test_subsets_agree_with_all_pairs():
    value = metrics.kid(X, Y, jax.random.key(1), subsets=300, subset_size=60)
    error = value.standard_deviation / np.sqrt(300)
    assert 0 < abs(value.mean - reference(X, Y)) < 5.5 * error


def test_mean_for_equal_laws():
    # 300 pairs of samples of 40 normal points.
    x, y = jax.random.normal(jax.random.key(2), (2, 300, 40, 3))
    keys = jax.random.split(jax.random.key(3), 300)
    values = jax.vmap(lambda x, y, key: metrics.kid(x, y, key, subsets=1).mean)(x, y, keys)
    assert_mean(values, 0)
    assert np.mean(np.asarray(values) < 0) > 0.3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.kid(X, Y, jax.random.key(0), subset_size=400), "y_features must hold at"),
        (lambda: metrics.kid(X, Y[:1], jax.random.key(0)), "y_features must hold at least 2"),
        (lambda: metrics.kid(X, Y, jax.random.key(0), subsets=0), "subsets must be"),
        (lambda: metrics.kid(X, WIDE_Y, jax.random.key(0)), "one dimension"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
