"""The random numbers are those of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from kacjax import WienerProcess
from kacjax._random import bits, normal

pytestmark = pytest.mark.optimised

FLOAT32 = jnp.dtype("float32")


def same(ours, theirs):
    assert ours.dtype == theirs.dtype
    np.testing.assert_array_equal(ours, theirs)


def close(ours, theirs):
    """Equal to rounding: the compiler decides what becomes a fused multiply-add."""
    assert ours.dtype == theirs.dtype
    np.testing.assert_allclose(ours, theirs, rtol=5e-7, atol=1e-7)


@pytest.mark.parametrize("shape", [(), (0, 3), (1000, 37), (2, 3, 4, 5)])
def test_bits_and_normal_variables_are_those_of_jax(shape):
    key = jax.random.fold_in(jax.random.key(0), len(shape))
    same(bits(key, shape), jax.random.bits(key, shape))
    close(normal(key, shape, FLOAT32), jax.random.normal(key, shape))


@pytest.mark.parametrize(
    "key",
    [jax.random.key(3, impl="rbg"), jax.random.key(3, impl="unsafe_rbg"), jax.random.PRNGKey(3)],
    ids=["rbg", "unsafe_rbg", "raw"],
)
def test_of_any_kind_of_key(key):
    same(bits(key, (5, 3)), jax.random.bits(key, (5, 3)))
    close(normal(key, (5, 3), FLOAT32), jax.random.normal(key, (5, 3)))


def test_without_partitionable_counters():
    before = jax.config.jax_threefry_partitionable
    jax.config.update("jax_threefry_partitionable", not before)
    try:
        key = jax.random.key(3)
        close(normal(key, (5, 3), FLOAT32), jax.random.normal(key, (5, 3)))
    finally:
        jax.config.update("jax_threefry_partitionable", before)


def test_double_precision(x64):
    key = jax.random.key(3)
    same(normal(key, (50,), jnp.dtype("float64")), jax.random.normal(key, (50,), jnp.float64))


def test_under_vmap():
    keys = jax.random.split(jax.random.key(3), 6)
    ours = jax.vmap(lambda key: normal(key, (5, 3), FLOAT32))(keys)
    close(ours, jax.vmap(lambda key: jax.random.normal(key, (5, 3)))(keys))


def test_rounds_are_compiled_once():
    """Though displacement and velocity both read their result; seen by a constant of theirs."""
    process, s = WienerProcess(), jnp.ones((40, 1))
    program = jax.jit(lambda key: process.sample_with_velocity(key, s, (40, 30)))
    text = program.lower(jax.random.key(0)).compile().as_text()
    assert text.count(f"u32[] constant({0x1BD11BDA})") == 1


def test_under_shard_map():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))
    keys = jax.random.split(jax.random.key(3), 1)
    spread = jax.shard_map(
        lambda keys: WienerProcess().sample(keys[0], 1.0, (4, 3)),
        mesh=mesh,
        in_specs=PartitionSpec("data"),
        out_specs=PartitionSpec("data"),
    )
    close(spread(keys), jax.random.normal(keys[0], (4, 3)))


def test_only_cpus_have_a_branch():
    traced = jax.jit(lambda key: normal(key, (4, 3), FLOAT32)).trace(jax.random.key(0))
    lowered = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ("cpu", "cuda", "tpu")
    }
    branches = {platform: text.count("stablehlo.case") for platform, text in lowered.items()}
    assert branches["cuda"] == branches["tpu"] == branches["cpu"] - 1
