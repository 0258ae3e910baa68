"""Generation within other transformations: without callbacks, mapped over shards, in forward mode."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

import kacjax

PATH = kacjax.kac_path()
LABELS = np.array([0, 1, 2, 0, 1], np.int32)
STEPS = 4


@pytest.fixture(scope="module")
def velocity():
    """A network that knows classes; its output is zero at first, times what `x0` multiplies."""
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, classes=3)
    return kacjax.Velocity(network, PATH)


@pytest.mark.parametrize("solver", ["ab2", "heun", "rk4"])
def test_programs_with_fixed_steps_call_no_host(velocity, solver):
    """No callback is in what is compiled; those of tolerances are Diffrax's."""
    run = lambda key: kacjax.generate(velocity, PATH, key, (4, 2), STEPS, solver=solver)  # noqa: E731
    assert "callback" not in jax.jit(run).lower(jax.random.key(0)).as_text()


def test_a_traced_solve_that_fails_is_nan():
    wild = lambda t, x: 1e4 * jnp.sin(1e5 * t)[:, None] * jnp.ones_like(x)  # noqa: E731
    run = lambda key: kacjax.generate(  # noqa: E731
        wild, PATH, key, (2, 1), solver="tsit5", rtol=1e-7, atol=1e-7
    )
    assert np.all(np.isnan(jax.jit(run)(jax.random.key(0))))


@pytest.mark.parametrize("solver", ["ab2", "tsit5"])
def test_generate_within_shard_map(velocity, solver):
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


def test_adjoint_is_one_of_diffrax(velocity, without_hook):
    with pytest.raises(ValueError, match=r"adjoint must be a diffrax.AbstractAdjoint, got 'back"):
        kacjax.generate(velocity, PATH, jax.random.key(0), (2, 2), adjoint="backsolve")
