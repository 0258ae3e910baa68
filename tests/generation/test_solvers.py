"""Solvers: their order, what they cost, and which times they ask for."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from kacjax import generate, initial_noise, trajectory
from kacjax.generation import ADAPTIVE, FIXED, solve
from kacjax.generation.solvers import evaluations
from tests.generation.flows import PATH, GaussianFlow, gaussian_velocity, recording, rough_velocity

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
DIFFUSION = kacjax.diffusion_path()


@pytest.mark.long
@pytest.mark.parametrize(
    ("solver", "order", "each", "spared"),
    [
        ("euler", 1, 1, 0),
        ("ab2", 2, 1, 0),
        ("heun", 2, 2, 0),
        # In straight coordinates the midpoint rule gains an order on this flow.
        ("midpoint", 3, 2, 0),
        ("rk4", 4, 4, 2),
    ],
)
@pytest.mark.parametrize("path", [PATH, DIFFUSION], ids=["flow matching", "diffusion"])
def test_fixed_steps_have_their_order_and_their_cost(path, solver, order, each, spared, x64):
    """On a grid whose last step is short: it is of second order for `rk4` too.

    On a diffusion `rk4` would be of second order, if its control were taken for linear in a step.
    """
    errors, flow = [], GaussianFlow(path)
    for steps in (40, 80):
        velocity, times = recording(flow)
        x, nfe = generate(velocity, path, KEY, (20, 1), steps, solver=solver, return_nfe=True)
        jax.effects_barrier()
        errors.append(float(jnp.max(jnp.abs(x - flow.data(initial_noise(path, KEY, x.shape))))))
        assert int(nfe) == len(times) == each * steps - spared
        # Time runs down from T = 1 and never is 0, where velocities may be infinite.
        assert max(times) == 1
        assert min(times) > 0
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.35)


SOLVERS = {
    **FIXED,
    **ADAPTIVE,
    "Bosh3": diffrax.Bosh3(),
    "Ralston": diffrax.Ralston(),
    "Kvaerno3": diffrax.Kvaerno3(),
    "ImplicitEuler": diffrax.ImplicitEuler(),
}
SLOW = (
    "euler",
    "midpoint",
    "rk4",
    "tsit5",
    "dopri5",
    "dopri8",
    "Bosh3",
    "Ralston",
    "ImplicitEuler",
)


@pytest.mark.parametrize(
    "name", [pytest.param(s, marks=pytest.mark.slow) if s in SLOW else s for s in SOLVERS]
)
def test_what_is_counted_is_what_is_evaluated(name):
    """Down and up, with fixed steps and with chosen ones; and time 0 is never asked."""
    solver = name if name in FIXED | ADAPTIVE else SOLVERS[name]
    for options in ({"steps": 3}, {"rtol": 1e-2, "atol": 1e-2}):
        for ends in ((1.0, 0.0), (0.0, 1.0), (0.9, 0.2)):
            if name == "euler" and "rtol" in options:
                continue  # It has no estimate of its error.
            velocity, times = recording(GaussianFlow(DIFFUSION))
            x, nfe = solve(
                velocity,
                DIFFUSION,
                jnp.ones((2, 1)),
                *ends,
                solver=solver,
                return_nfe=True,
                **options,
            )
            jax.effects_barrier()
            assert int(nfe) == len(times) > 0, (options, ends)
            assert min(times) > 0, (options, ends)
            assert np.all(np.isfinite(x))
        if name == "ab2":
            break


def test_solvers_whose_stages_are_solved_for_are_counted():
    assert evaluations(diffrax.Kvaerno3()) is None
    assert evaluations(diffrax.Bosh3()) == (3, 1)
    assert evaluations(diffrax.Heun()) == (2, 0)
    with pytest.raises(ValueError, match="return_nfe must be False for Kvaerno3 with per_sample"):
        generate(
            gaussian_velocity,
            PATH,
            KEY,
            (2, 1),
            solver=diffrax.Kvaerno3(),
            rtol=1e-2,
            per_sample_steps=True,
            return_nfe=True,
        )


@pytest.mark.parametrize(
    "solver",
    [pytest.param(s, marks=pytest.mark.slow) if s == "euler" else s for s in FIXED],
)
def test_a_single_step(solver):
    """Straight lines into a point, y / t, are exact for every solver, and saved on their way."""
    line = lambda t, x: x / t[:, None]  # noqa: E731
    x, nfe = generate(line, PATH, KEY, (3, 1), 1, solver=solver, return_nfe=True)
    np.testing.assert_allclose(x, 0, atol=1e-6)
    assert int(nfe) == min(evaluations(FIXED[solver])[0], 2)
    # One that keeps its last slope has none to keep, if the midpoint rule makes the only step.
    _, nfe = generate(line, PATH, KEY, (3, 1), 1, solver=diffrax.Bosh3(), return_nfe=True)
    assert int(nfe) == 2
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
    flow = GaussianFlow(PATH)
    for tolerance in (1e-4, 1e-6, 1e-8):
        x, nfe = generate(
            flow,
            PATH,
            KEY,
            (20, 1),
            solver=solver,
            rtol=tolerance,
            atol=tolerance,
            return_nfe=True,
        )
        errors.append(float(jnp.max(jnp.abs(x - flow.data(initial_noise(PATH, KEY, x.shape))))))
        counts.append(int(nfe))
    assert counts == sorted(counts)
    assert max(errors) < 1e-3
    assert errors[-1] < 1e-7
    velocity, times = recording(rough_velocity)
    _, nfe = generate(velocity, PATH, KEY, (3, 1), solver=solver, return_nfe=True)
    jax.effects_barrier()
    assert int(nfe) == len(times)
    assert (int(nfe) - 3) % evaluations(ADAPTIVE[solver])[0] == 0
    assert min(times) > 0


@pytest.mark.slow
def test_steps_for_each_sample_are_those_it_takes_alone(x64):
    options = {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-5, "return_nfe": True}
    x, nfe = generate(rough_velocity, PATH, KEY, (4, 1), per_sample_steps=True, **options)
    alone, count = generate(rough_velocity, PATH, KEY, (1, 1), per_sample_steps=False, **options)
    assert nfe.shape == (4,)
    assert int(nfe[0]) == int(count)
    np.testing.assert_allclose(x[0], alone[0], rtol=1e-5)
    joint, count = generate(rough_velocity, PATH, KEY, (4, 1), **options)
    assert count.shape == ()
    np.testing.assert_allclose(joint, x, atol=0.05)


@pytest.mark.slow
def test_any_solver_of_diffrax(x64, without_hook):
    """Its Heun is the one with a name; an implicit one needs no name."""
    flow = GaussianFlow(DIFFUSION)
    run = lambda solver, **options: generate(  # noqa: E731
        flow, DIFFUSION, KEY, (5, 1), solver=solver, **options
    )
    np.testing.assert_array_equal(run(diffrax.Heun(), steps=10), run("heun", steps=10))
    true = flow.data(initial_noise(DIFFUSION, KEY, (5, 1)))
    np.testing.assert_allclose(run(diffrax.Kvaerno3(), rtol=1e-5, atol=1e-5), true, atol=1e-4)
    # Its stages need tolerances: it chooses its steps, whatever their number.
    np.testing.assert_allclose(run(diffrax.Kvaerno3(), steps=1), true, atol=5e-3)
    # A tolerance makes any solver choose its steps, one with a name too.
    np.testing.assert_allclose(run("heun", rtol=1e-5), true, atol=1e-2)
    for solver in ("rk45", 3, diffrax.Heun):
        with pytest.raises(
            ValueError, match=r"solver, if it is none of Diffrax, must be one of ab2"
        ):
            run(solver)


@pytest.mark.long
def test_the_step_limit_is_one_line():
    """It names the solver and the tolerances, and what can be done."""
    wild = lambda t, x: 1e4 * jnp.sin(1e5 * t)[:, None] * jnp.ones_like(x)  # noqa: E731
    with pytest.raises(
        ValueError, match="solver Tsit5 did not reach rtol=1e-07, atol=1e-07"
    ) as info:
        generate(wild, PATH, KEY, (2, 1), solver="tsit5", rtol=1e-7, atol=1e-7)
    assert "\n" not in str(info.value)
    assert info.value.__cause__ is None


@pytest.mark.long
@pytest.mark.parametrize("make", [kacjax.kac_path, kacjax.diffusion_path, kacjax.vp_path])
def test_the_finest_steps_round_to_none(make, adam):
    """Of a steep grid the last times have one control in float32."""
    path, point = make(), jnp.array([[0.7, -0.2]])
    velocity = kacjax.exact_velocity(path, point)
    x = generate(velocity, path, KEY, (20, 2), 60, grid_power=7.0)
    np.testing.assert_allclose(x, np.broadcast_to(point, x.shape), atol=1e-4)
