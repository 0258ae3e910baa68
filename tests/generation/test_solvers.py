"""Solvers: their order, what they cost, and which times they ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import generate, initial_noise, trajectory
from kacjax.generation.solvers import ADAPTIVE, FIXED
from tests.generation.flows import PATH, exact, gaussian_velocity, recording, rough_velocity

KEY = jax.random.key(0)


def error(x):
    return float(jnp.max(jnp.abs(x - exact(initial_noise(PATH, KEY, x.shape)))))


@pytest.mark.parametrize(
    ("solver", "order", "each", "spared"),
    [
        ("euler", 1, 1, 0),
        ("ab2", 2, 1, 0),
        ("heun", 2, 2, 0),
        ("midpoint", 2, 2, 0),
        ("rk4", 4, 4, 2),
    ],
)
def test_fixed_steps_have_their_order_and_their_cost(solver, order, each, spared, x64):
    """On a grid whose last step is short: it is of second order for `rk4` too."""
    errors = []
    factor = jnp.exp(-jnp.sin(3.0) / 3)
    for steps in (40, 80):
        velocity, times = recording(lambda t, x: x * jnp.cos(3 * t)[:, None])
        x, nfe = generate(
            velocity, PATH, KEY, (20, 1), steps, solver=solver, power=2.0, return_nfe=True
        )
        jax.effects_barrier()
        errors.append(float(jnp.max(jnp.abs(x - factor * initial_noise(PATH, KEY, x.shape)))))
        assert int(nfe) == len(times) == each * steps - spared
        # Time runs down from T = 1 and never is 0, where velocities may be infinite.
        assert max(times) == times[0] == 1
        assert min(times) > 0.49 / steps**2
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.25)


@pytest.mark.parametrize(
    "solver",
    [s if s in ("ab2", "rk4") else pytest.param(s, marks=pytest.mark.slow) for s in FIXED],
)
def test_a_single_step(solver):
    """Straight lines into a point, y / t, are exact for every solver, and saved on their way."""
    line = lambda t, x: x / t[:, None]  # noqa: E731
    x, nfe = generate(line, PATH, KEY, (3, 1), 1, solver=solver, return_nfe=True)
    np.testing.assert_allclose(x, 0, atol=1e-6)
    assert int(nfe) == min(FIXED[solver][1], 2)
    noise = initial_noise(PATH, KEY, (3, 1))
    way = trajectory(line, PATH, KEY, (3, 1), jnp.array([1.0, 0.7, 0.0]), 1, solver=solver)
    np.testing.assert_allclose(way[:2, :, 0], jnp.outer(jnp.array([1, 0.7]), noise[:, 0]), 1e-5)


@pytest.mark.parametrize(
    "solver",
    [s if s == "tsit5" else pytest.param(s, marks=pytest.mark.slow) for s in ADAPTIVE],
)
def test_adaptive_steps_follow_the_tolerance_and_are_counted(solver, x64):
    """Rejected steps included: oscillations make the solver step back."""
    errors, counts = [], []
    for tolerance in (1e-4, 1e-6, 1e-8):
        x, nfe = generate(
            gaussian_velocity,
            PATH,
            KEY,
            (20, 1),
            solver=solver,
            rtol=tolerance,
            atol=tolerance,
            return_nfe=True,
        )
        errors.append(error(x))
        counts.append(int(nfe))
    assert counts == sorted(counts)
    assert max(errors) < 1e-3
    assert errors[-1] < 1e-7
    velocity, times = recording(rough_velocity)
    _, nfe = generate(velocity, PATH, KEY, (3, 1), solver=solver, return_nfe=True)
    jax.effects_barrier()
    assert int(nfe) == len(times)
    assert (int(nfe) - 3) % ADAPTIVE[solver][1] == 0
    assert np.any(np.diff(times) > 0.02)
    assert min(times) > 0


def test_steps_for_each_sample_are_those_it_takes_alone(x64):
    options = {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-5, "return_nfe": True}
    x, nfe = generate(rough_velocity, PATH, KEY, (4, 1), control="sample", **options)
    alone, count = generate(rough_velocity, PATH, KEY, (1, 1), control="joint", **options)
    assert nfe.shape == (4,)
    assert int(nfe[0]) == int(count)
    np.testing.assert_allclose(x[0], alone[0], rtol=1e-5)
    joint, count = generate(rough_velocity, PATH, KEY, (4, 1), **options)
    assert count.shape == ()
    np.testing.assert_allclose(joint, x, atol=0.05)
