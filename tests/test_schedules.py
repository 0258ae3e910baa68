"""Schedules: boundary values, derivatives, grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kacjax import time_grid
from kacjax.schedules import CLOCKS, SIGNALS, make_clock, make_signal, value_and_derivative

pytestmark = pytest.mark.optimised


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", SIGNALS)
def test_signals(name, T):
    signal = make_signal(name, T)
    ends = signal(jnp.array([0.0, T]))
    np.testing.assert_allclose(ends[0], 1, rtol=1e-7)
    assert signal.vanishes == (float(ends[1]) == 0)
    t = jnp.linspace(0, T, 33)
    assert np.all(np.diff(signal(t)) <= 0)


@pytest.mark.parametrize("T", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("name", CLOCKS)
def test_clocks(name, T):
    clock = make_clock(name, T)
    np.testing.assert_array_equal(clock(jnp.array([0.0, T])), [0, T])
    assert np.all(np.diff(clock(jnp.linspace(0, T, 33))) > 0)


@pytest.mark.parametrize("schedule", [*SIGNALS.values(), *CLOCKS.values()])
def test_derivatives_are_those_of_the_values(schedule, x64):
    t = jnp.linspace(0.05, 1.9, 20)
    f = schedule(2.0)
    value, slope = value_and_derivative(f, t)
    np.testing.assert_array_equal(value, f(t))
    np.testing.assert_allclose(slope, (f(t + 1e-6) - f(t - 1e-6)) / 2e-6, atol=1e-8)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 200), st.floats(0.1, 10.0), st.floats(0.3, 5.0))
def test_grids_fall_from_T_to_zero(steps, T, power):
    grid = np.asarray(time_grid("power", T, steps, power))
    assert grid.shape == (steps + 1,)
    assert grid[0] == np.float32(T)
    assert grid[-1] == 0
    assert np.all(np.diff(grid) < 0)


def test_named_grids():
    np.testing.assert_allclose(time_grid("uniform", 2.0, 4), [2, 1.5, 1, 0.5, 0])
    np.testing.assert_allclose(
        time_grid("power", 1.0, 4), [1, 9 / 16, 4 / 16, 1 / 16, 0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_signal("sine", 1.0),
            "signal must be one of constant, cosine, exponential, linear",
        ),
        (lambda: make_clock("t3", 1.0), "clock must be one of t, t2; got 't3'"),
        (lambda: make_clock("t", -1.0), "T must be positive and finite, got -1.0"),
        (lambda: time_grid("log", 1.0, 5), "grid must be one of power, uniform; got 'log'"),
        (lambda: time_grid("power", 1.0, 0), "steps must be an integer of at least 1, got 0"),
        (lambda: time_grid("power", 1.0, 5, -1.0), "power must be positive"),
        (lambda: time_grid("power", 1.0, 5, t_min=2.0), r"t_min must lie in \[0, T\) with T = 1.0"),
        (lambda: time_grid("power", -1.0, 5), "T must be positive"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_grid_under_jit():
    grid = jax.jit(lambda T: time_grid("power", T, 4))(2.0)
    np.testing.assert_allclose(grid, time_grid("power", 2.0, 4))


def test_grid_above_zero_keeps_its_shape_and_its_ends():
    """The p-th roots of the times are evenly spaced, from T to t_min exactly."""
    times = np.asarray(time_grid("power", 2.0, 7, power=3.0, t_min=0.01))
    assert times[0] == 2
    assert times[-1] == np.float32(0.01)
    np.testing.assert_allclose(np.diff(np.cbrt(times), 2), 0, atol=1e-6)
