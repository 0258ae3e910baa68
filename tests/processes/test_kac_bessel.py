"""The Bessel quotient against mpmath, with its derivatives."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from kacjax.processes.kac.law import TABLES, bessel_quotient, bessel_quotient_slope
from tools.make_squash_table import quotient_polynomials, quotient_series

pytestmark = pytest.mark.optimised

POINTS = np.concatenate([[0.0], np.logspace(-8, 10, 73), [0.49, 0.51, 2499, 2501]])


def exact(q, order=0):
    with mpmath.workdps(40):
        if q == 0:
            return [1, 1 / 8, -1 / 96][order]

        def quotient(q):
            x = mpmath.sqrt(q)
            return x * mpmath.besseli(0, x) / (2 * mpmath.besseli(1, x))

        return float(mpmath.diff(quotient, mpmath.mpf(float(q)), order))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 6e-7), ("float64", 3e-15)])
def test_quotient_against_mpmath(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.asarray(POINTS, dtype)
        expected = [exact(value) for value in np.asarray(q, np.float64)]
        np.testing.assert_allclose(bessel_quotient(q), expected, rtol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 5e-7), ("float64", 1e-12)])
def test_slope_is_the_derivative(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.asarray(POINTS, dtype)
        expected = [exact(value, 1) for value in np.asarray(q, np.float64)]
        np.testing.assert_allclose(bessel_quotient_slope(q), expected, rtol=tolerance)
        np.testing.assert_allclose(jax.vmap(jax.grad(bessel_quotient))(q), expected, rtol=tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [("float32", 1e-3), pytest.param("float64", 1e-6, marks=pytest.mark.slow)],
)
def test_second_derivative_is_finite_and_right(dtype, tolerance):
    with jax.enable_x64(dtype == "float64"):
        q = jnp.asarray([0.0, 1e-3, 0.3, 2.0, 50.0, 1e3], dtype)
        expected = [exact(value, 2) for value in np.asarray(q, np.float64)]
        second = jax.vmap(jax.grad(jax.grad(bessel_quotient)))(q)
        np.testing.assert_allclose(second, expected, rtol=tolerance)


def test_coefficients_are_those_that_the_script_makes(x64):
    for name, made in quotient_polynomials().items():
        np.testing.assert_allclose(TABLES[name], made, atol=1e-9)
    for name, made in quotient_series().items():
        np.testing.assert_array_equal(TABLES[name], made)
