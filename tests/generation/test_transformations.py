"""Generation within other transformations: without callbacks, mapped over shards, in forward mode."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

import kacjax

PATH = kacjax.kac_path()
LABELS = np.array([0, 1, 2, 0, 1], np.int32)
STEPS = 4


def velocity(t, x, label):
    """Toward a point of each class."""
    return (x - label.astype(x.dtype)[:, None] - 1) / (t[:, None] + 0.1)


@pytest.mark.parametrize("solver", ["ab2", "heun", "rk4"])
def test_programs_with_fixed_steps_call_no_host(solver):
    """No callback is in what is compiled; those of tolerances are Diffrax's."""
    options = {"solver": solver, "labels": LABELS}
    run = lambda key: kacjax.generate(velocity, PATH, key, (5, 2), STEPS, **options)  # noqa: E731
    assert "callback" not in jax.jit(run).lower(jax.random.key(0)).as_text()


@pytest.mark.long
def test_a_traced_solve_that_fails_is_nan():
    wild = lambda t, x: 1e4 * jnp.sin(1e5 * t)[:, None] * jnp.ones_like(x)  # noqa: E731
    run = lambda key: kacjax.generate(  # noqa: E731
        wild, PATH, key, (2, 1), solver="tsit5", rtol=1e-7, atol=1e-7
    )
    assert np.all(np.isnan(jax.jit(run)(jax.random.key(0))))


@pytest.mark.long
def test_samples_that_fail_leave_the_others():
    """With steps of each sample's own."""

    def wild(t, x, label):
        return jnp.where(label == 1, 1e4 * jnp.sin(1e5 * t), -1.0)[:, None] * jnp.ones_like(x)

    def run(key):
        options = {"solver": "tsit5", "rtol": 1e-6, "atol": 1e-6, "per_sample_steps": True}
        return kacjax.generate(wild, PATH, key, (5, 1), labels=LABELS, **options)

    failed = np.isnan(jax.jit(run)(jax.random.key(0)))[:, 0]
    np.testing.assert_array_equal(failed, LABELS == 1)


@pytest.mark.parametrize("times", [[1.0, 0.4, 0.7, 0.25], [0.6, 0.5, 0.25], [1.0, 0.5, 0.3]])
def test_traced_times_that_do_not_fit_give_nan(times):
    """Out of order, or of another problem; concrete ones are refused."""
    falling = lambda t, x: x / (t[:, None] + 1)  # noqa: E731
    x = jnp.ones((2, 1))

    def run(times):
        return kacjax.generation.solve(falling, PATH, x, 1.0, 0.25, times, solver="euler")

    assert np.all(np.isnan(jax.jit(run)(jnp.array(times))))
    assert np.all(np.isfinite(jax.jit(run)(jnp.array([1.0, 0.5, 0.25]))))
    with pytest.raises(ValueError, match="steps must"):
        run(times)


@pytest.mark.parametrize("solver", ["ab2", "rk4"])
def test_equal_times_are_no_steps(solver):
    root = lambda t, x: x / jnp.sqrt(t)[:, None]  # noqa: E731
    for times in ([1.0, 0.5, 0.0, 0.0], [1.0, 1.0, 0.0]):
        with pytest.raises(ValueError, match=r"steps must fall within \[0, 1"):
            kacjax.generation.solve(root, PATH, jnp.ones((2, 1)), 1.0, 0.0, times, solver=solver)


@pytest.mark.long
@pytest.mark.parametrize("solver", ["ab2", "tsit5"])
def test_generate_within_shard_map(solver):
    """Without JAX's check of what varies over the mesh, which Diffrax's loops do not pass."""
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))

    def sample(keys, labels):
        return kacjax.generate(velocity, PATH, keys[0], (5, 2), STEPS, solver=solver, labels=labels)

    rows = PartitionSpec("data")
    specs = {"in_specs": (rows, rows), "out_specs": rows, "check_vma": False}
    mapped = jax.jit(jax.shard_map(sample, mesh=mesh, **specs))
    keys = jax.random.split(jax.random.key(1), 1)
    want = jax.jit(sample)(keys, LABELS)
    np.testing.assert_allclose(mapped(keys, LABELS), want, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("solver", ["ab2", "rk4"])
def test_forward_mode_is_reverse_mode(x64, solver):
    """The derivative of the samples in a number of the velocity."""

    def mean(a, **options):
        own = lambda t, x: jnp.tanh(a * x) / (a + t[:, None])  # noqa: E731
        draw = PATH, jax.random.key(0), (20, 2), STEPS
        return jnp.mean(kacjax.generate(own, *draw, solver=solver, **options) ** 2)

    a = jnp.asarray(4.0)
    forward = lambda a: mean(a, adjoint=diffrax.ForwardMode())  # noqa: E731
    value, slope = jax.jvp(forward, (a,), (jnp.ones(()),))
    np.testing.assert_allclose(value, mean(a), rtol=1e-12)
    np.testing.assert_allclose(slope, jax.grad(mean)(a), rtol=1e-8)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("adjoint", ["backsolve", diffrax.BacksolveAdjoint()])
def test_adjoint_is_one_that_works(adjoint, without_hook):
    with pytest.raises(ValueError, match=r"adjoint must be one of Diffrax's Recursive.*, got "):
        kacjax.generate(lambda t, x: x, PATH, jax.random.key(0), (2, 2), adjoint=adjoint)
