"""Generation against flows whose answer is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import diffusion_path, flow_matching_path, generate, kac_path, trajectory

PATH = flow_matching_path()
DEVIATION = 0.3


def gaussian_velocity(t, x):
    """The marginal velocity of flow matching for normal data of this deviation."""
    t = t[:, None]
    variance = (1 - t) ** 2 * DEVIATION**2 + t**2
    slope = t - (1 - t) * DEVIATION**2
    return x * slope / variance


def exact(x_T):
    """The flow map of `gaussian_velocity`: the Gaussians' scale."""
    return x_T * DEVIATION


def error(solver, steps, **options):
    key = jax.random.key(0)
    x = generate(
        gaussian_velocity, PATH, key, (50, 1), steps, solver=solver, grid="uniform", **options
    )
    return float(jnp.max(jnp.abs(x - exact(PATH.sample_prior(key, (50, 1))))))


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver, order, x64):
    errors = [error(solver, steps) for steps in (40, 80, 160)]
    np.testing.assert_allclose(np.diff(np.log2(errors)), -order, atol=0.15)


def test_adaptive_error_follows_the_tolerance(x64):
    errors = [error("tsit5", 1, rtol=tolerance, atol=tolerance) for tolerance in (1e-3, 1e-5, 1e-7)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


@pytest.mark.parametrize("steps", [1, 7, 20])
@pytest.mark.parametrize(("solver", "each"), [("euler", 1), ("heun", 2)])
def test_evaluations_are_counted_truly(solver, each, steps):
    calls = []

    def velocity(t, x):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return gaussian_velocity(t, x)

    _, nfe = generate(
        velocity, PATH, jax.random.key(0), (4, 1), steps, solver=solver, return_nfe=True
    )
    jax.effects_barrier()
    assert int(nfe) == len(calls) == each * steps


def test_adaptive_evaluations_are_counted_truly():
    calls = []

    def velocity(t, x):
        jax.debug.callback(lambda t: calls.append(float(t[0])), t)
        return gaussian_velocity(t, x)

    _, nfe = generate(velocity, PATH, jax.random.key(0), (4, 1), solver="tsit5", return_nfe=True)
    jax.effects_barrier()
    assert int(nfe) == len(calls)


def test_euler_is_euler():
    """Against the loop written out, on the default grid."""
    key, steps = jax.random.key(0), 9
    x = PATH.sample_prior(key, (6, 1))
    times = np.linspace(1, 0, steps + 1) ** 2
    for t, after in itertools.pairwise(times):
        x = x + (after - t) * gaussian_velocity(jnp.full(6, t), x)
    generated = generate(gaussian_velocity, PATH, key, (6, 1), steps)
    np.testing.assert_allclose(generated, x, rtol=1e-4, atol=1e-6)


def test_trajectory_ends_where_generate_does():
    key, times = jax.random.key(0), jnp.array([1.0, 0.4, 0.0])
    x = trajectory(gaussian_velocity, PATH, key, (5, 1), times, 200, solver="heun")
    assert x.shape == (3, 5, 1)
    np.testing.assert_allclose(x[0], PATH.sample_prior(key, (5, 1)))
    np.testing.assert_allclose(
        x[-1], generate(gaussian_velocity, PATH, key, (5, 1), 200, solver="heun"), rtol=1e-5
    )
    scale = np.sqrt(0.6**2 * DEVIATION**2 + 0.4**2)
    np.testing.assert_allclose(x[1], x[0] * scale, rtol=1e-3)


@pytest.mark.parametrize("maker", [kac_path, diffusion_path])
def test_point_data_are_reached_through_the_linear_field(maker):
    """For one datum the linear part of the velocity, known exactly, leads there for any path."""
    path, target = maker(), jnp.array([0.7, -0.2])

    def velocity(t, x):
        return path.velocity_from_data(t, x, jnp.broadcast_to(target, x.shape))

    x = generate(velocity, path, jax.random.key(0), (100, 2), 200, power=4.0)
    np.testing.assert_allclose(x, jnp.broadcast_to(target, x.shape), atol=2e-3)


def test_one_compilation_per_shape():
    traces = []

    def velocity(t, x):
        traces.append(1)
        return -x

    for seed in range(3):
        generate(velocity, PATH, jax.random.key(seed), (4, 1), 5)
    once = len(traces)
    generate(velocity, PATH, jax.random.key(9), (4, 1), 5)
    assert len(traces) == once
    generate(velocity, PATH, jax.random.key(9), (5, 1), 5)
    assert len(traces) > once


def test_under_jit_vmap_and_grad():
    run = lambda key: generate(gaussian_velocity, PATH, key, (3, 1), 8)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 2)
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], jax.jit(run)(keys[1]), rtol=1e-5)

    def end(scale):
        return jnp.sum(generate(lambda t, x: scale * x, PATH, keys[0], (3, 1), 8, grid="uniform"))

    x_T = jnp.sum(PATH.sample_prior(keys[0], (3, 1)))
    np.testing.assert_allclose(jax.grad(end)(1.0), -8 / 8 * (1 - 1 / 8) ** 7 * x_T, rtol=1e-4)


def test_images_and_prior_with_data():
    x0 = jnp.ones((2, 4, 4, 3))
    path = kac_path(signal="exponential")
    x = generate(lambda t, x: -x, path, jax.random.key(0), x0.shape, 3, x0=x0)
    assert x.shape == x0.shape


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk45"}, "solver must be one of euler, heun, tsit5; got 'rk45'"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"grid": "log"}, "grid must be one of power, uniform"),
        ({"solver": "tsit5", "rtol": 0.0}, "rtol must be positive"),
        ({"path": kac_path(signal="constant")}, "does not vanish at T"),
    ],
)
def test_bad_arguments(options, message):
    options = {"path": PATH, "key": jax.random.key(0), "shape": (2, 1), **options}
    with pytest.raises(ValueError, match=message):
        generate(gaussian_velocity, **options)


def test_bad_times():
    for times in (jnp.array([0.0, 1.0]), jnp.array([2.0, 0.0]), jnp.ones((2, 2))):
        with pytest.raises(ValueError, match="times must be a vector that falls"):
            trajectory(gaussian_velocity, PATH, jax.random.key(0), (2, 1), times)
