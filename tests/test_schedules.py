"""Schedules: boundary values, derivatives, names, grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacjax import ProbabilityPath, diffusion_path, kac_path
from kacjax.schedules import (
    CLOCKS,
    SIGNALS,
    ExponentialSignal,
    LinearClock,
    LinearSignal,
    make_clock,
    make_signal,
    power_grid,
)

pytestmark = pytest.mark.optimised

U = jnp.linspace(0, 1, 33)
FORMULAS = {
    "linear": lambda u: 1 - u,
    "exponential": lambda u: np.exp(-1.5 * u),
    "cosine": lambda u: np.cos(np.pi * u / 2),
    "constant": lambda u: np.ones_like(u),
}


@pytest.mark.parametrize("name", SIGNALS)
def test_signals(name):
    """Of the final time only the exponential signal knows, whose rate it is."""
    signal = make_signal(name, 1.5)
    np.testing.assert_allclose(signal(U), FORMULAS[name](np.asarray(U)), atol=1e-6)
    assert signal(jnp.zeros(())) == 1
    vanishes = float(signal(jnp.ones(()))) == 0
    assert vanishes == (name in ("linear", "cosine"))
    assert vanishes == kac_path(T=1.5, signal=name).prior_is_noise


@pytest.mark.parametrize("name", CLOCKS)
def test_clocks(name):
    clock = make_clock(name)
    np.testing.assert_array_equal(clock(jnp.array([0.0, 1.0])), [0, 1])
    np.testing.assert_allclose(clock(U), U ** {"t": 1, "t2": 2}[name], rtol=1e-6)


@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("clock", CLOCKS)
def test_derivatives_are_those_of_the_values(name, clock, x64):
    """In t, of the path's coefficients; the deviation's too."""
    for path in (kac_path(5.0, 2.0, 2.0, name, clock), diffusion_path(0.7, 2.0, name, clock)):
        t = jnp.linspace(0.05, 1.9, 20)
        c, above, below = (path.coefficients(t + h) for h in (0, 1e-6, -1e-6))
        for value in ("f", "g", "sigma"):
            slope = (getattr(above, value) - getattr(below, value)) / 2e-6
            np.testing.assert_allclose(getattr(c, f"{value}_dot"), slope, atol=2e-8)
        np.testing.assert_allclose(c.f, path.signal(t / 2), rtol=1e-12)
        np.testing.assert_allclose(c.g, 2 * path.clock(t / 2), rtol=1e-12)
        np.testing.assert_allclose(c.sigma**2, path.process.variance(c.g), rtol=1e-9)


def test_callables_stay_what_they_are():
    own = lambda u: 1 - u**3  # noqa: E731
    clock = lambda u: u**3  # noqa: E731
    path = ProbabilityPath(kac_path().process, own, clock)
    assert (path.signal, path.clock) == (own, clock)
    assert path.prior_is_noise
    assert kac_path(signal=LinearSignal()) == kac_path(signal="linear")
    assert make_clock(LinearClock()) == make_clock("t")
    assert not kac_path(signal=lambda u: 1 - u / 2).prior_is_noise


@pytest.mark.long
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.floats(0.1, 10.0), st.floats(0.3, 5.0))
def test_grids_fall_to_zero(steps, start, power):
    grid = np.asarray(power_grid(start, 0.0, steps, power))
    assert grid.shape == (steps + 1,)
    assert grid[0] == np.float32(start)
    assert grid[-1] == 0
    assert np.all(np.diff(grid) < 0)


def test_a_grid_by_its_formula():
    np.testing.assert_allclose(power_grid(2.0, 0.0, 4, 1.0), [2, 1.5, 1, 0.5, 0])
    np.testing.assert_allclose(power_grid(1.0, 0.0, 4, 2.0), np.array([16, 9, 4, 1, 0]) / 16, 1e-6)
    jitted = jax.jit(lambda T, p: power_grid(T, 0.0, 4, p))(2.0, 2.0)
    np.testing.assert_allclose(jitted, power_grid(2.0, 0.0, 4, 2.0))


def test_a_grid_above_zero_keeps_its_shape_and_its_ends():
    """The p-th roots are evenly spaced, from start to end exactly."""
    grid = np.asarray(power_grid(2.0, 0.01, 7, 3.0))
    assert grid[0] == 2
    assert grid[-1] == np.float32(0.01)
    np.testing.assert_allclose(np.diff(np.cbrt(grid), 2), 0, atol=1e-6)


def test_a_grid_has_derivatives():
    slope = jax.jacfwd(lambda end: power_grid(2.0, end, 4, 2.0))
    assert np.all(np.isfinite(slope(0.0)))
    np.testing.assert_allclose(slope(0.5)[-1], 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: make_signal("sine", 1.0), "signal must be one of constant, cosine, exponential,"),
        (lambda: make_clock("t3"), "clock must be one of t, t2; got 't3'"),
        (lambda: ExponentialSignal(0.0), "rate must be positive and finite, got 0.0"),
        (lambda: kac_path(signal=0.5), "signal must be a name or a callable of t / T, got 0.5"),
        (lambda: kac_path(clock=None), "clock must be a name or a callable of t / T, got None"),
    ],
)
def test_bad_arguments(call, message, without_hook):
    with pytest.raises(ValueError, match=message):
        call()
