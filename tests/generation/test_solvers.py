"""Solvers: their order, what they cost, and which times they ask for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import generate, initial_noise
from kacjax.generation.solvers import ADAPTIVE, FIXED
from tests.generation.flows import PATH, exact, gaussian_velocity, recording, rough_velocity

KEY = jax.random.key(0)


def error(x):
    return float(jnp.max(jnp.abs(x - exact(initial_noise(PATH, KEY, x.shape)))))


@pytest.mark.parametrize(
    ("solver", "order", "each"),
    [("euler", 1, 1), ("heun", 2, 2), ("midpoint", 2, 2), ("rk4", 4, 4)],
)
def test_fixed_steps_have_their_order_and_their_cost(solver, order, each, x64):
    assert FIXED[solver][1] == each
    errors = []
    for steps in (40, 80):
        velocity, times = recording(gaussian_velocity)
        x, nfe = generate(
            velocity, PATH, KEY, (20, 1), steps, solver=solver, grid="uniform", return_nfe=True
        )
        jax.effects_barrier()
        errors.append(error(x))
        assert int(nfe) == len(times) == each * steps
        # Time runs down from T = 1 and never is 0, where velocities may be infinite.
        assert max(times) == times[0] == 1
        assert min(times) >= 1 / (2 * steps)
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.2)


@pytest.mark.parametrize("solver", ADAPTIVE)
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
    assert (int(nfe) - 1) % ADAPTIVE[solver][1] == 0
    assert np.any(np.diff(times) > 0.02)
    assert min(times) > 0


def test_steps_for_each_sample_are_those_it_takes_alone():
    options = {"solver": "tsit5", "return_nfe": True}
    x, nfe = generate(rough_velocity, PATH, KEY, (4, 1), control="sample", **options)
    alone, count = generate(rough_velocity, PATH, KEY, (1, 1), control="joint", **options)
    assert nfe.shape == (4,)
    assert int(nfe[0]) == int(count)
    np.testing.assert_allclose(x[0], alone[0], rtol=1e-5)
    joint, count = generate(rough_velocity, PATH, KEY, (4, 1), **options)
    assert count.shape == ()
    np.testing.assert_allclose(joint, x, atol=5e-3)
