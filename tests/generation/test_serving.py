"""A generator that is exported, and read where there is no kacjax."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export

import kacjax

# Another process is to make the same bits.
pytestmark = [pytest.mark.optimised, pytest.mark.long]
PATH = kacjax.kac_path()
LABELS = np.array([0, 1, 2, 0, 1], np.int32)
STEPS = 6

LOADING = """
import sys
import jax, numpy as np
from jax import export
file, result = sys.argv[1:]
with open(file, "rb") as opened:
    generate = export.deserialize(bytearray(opened.read()))
labels = np.array([0, 1, 2, 0, 1], np.int32)
x = jax.jit(generate.call)(jax.random.key_data(jax.random.key(3)), labels)
assert not {"kacjax", "diffrax", "flax", "optax"} & set(sys.modules)
np.save(result, x)
"""


@pytest.fixture(scope="module")
def velocity():
    """A network that was trained for a few steps: a new one's output is zero."""
    with jax.numpy_dtype_promotion("standard"):
        network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, classes=3)
        data = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
        labels = np.arange(60) % 3
        run = kacjax.fit(
            network, PATH, data, jax.random.key(0), 20, 16, labels=labels, progress=False
        )
    return run.velocity


def test_an_exported_generator_needs_no_kacjax_and_gives_the_same_bits(
    velocity, tmp_path, without_hook
):
    """For three platforms and any number of samples, in one file."""

    def sample(key, labels):
        shape = (labels.shape[0], 2)
        key = jax.random.wrap_key_data(key)
        return kacjax.generate(velocity, PATH, key, shape, STEPS, labels=labels)

    (num,) = export.symbolic_shape("num")
    arguments = jax.ShapeDtypeStruct((2,), jnp.uint32), jax.ShapeDtypeStruct((num,), jnp.int32)
    exported = export.export(jax.jit(sample), platforms=("cpu", "cuda", "tpu"))(*arguments)
    file, result = tmp_path / "generator.bin", tmp_path / "samples.npy"
    file.write_bytes(exported.serialize())
    users = {n: v for n, v in os.environ.items() if n != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    subprocess.run([sys.executable, "-c", LOADING, str(file), str(result)], check=True, env=users)
    key = jax.random.key(3)
    want = jax.jit(sample)(jax.random.key_data(key), LABELS)
    np.testing.assert_array_equal(np.load(result), want)
    eager = kacjax.generate(velocity, PATH, key, (5, 2), STEPS, labels=LABELS)
    np.testing.assert_allclose(want, eager, atol=1e-5)


def test_numbers_of_the_surroundings_are_known_within_jit():
    """Times as an array of JAX, and functions of equal values as a signal."""
    key, still, path = jax.random.key(0), lambda t, x: x, kacjax.kac_path()
    times = jnp.array([1.0, 0.5, 0.0])
    x = jax.jit(lambda key: kacjax.generate(still, path, key, (3, 2), times))(key)
    np.testing.assert_allclose(x, kacjax.generate(still, path, key, (3, 2), times), rtol=1e-5)
    make = lambda power: kacjax.ProbabilityPath(kacjax.KacProcess(), lambda u: 1 - u**power)  # noqa: E731
    velocity = kacjax.Velocity(still, make(2), "velocity")
    x = jax.jit(lambda key: kacjax.generate(velocity, make(2), key, (3, 2), 2))(key)
    assert jnp.all(jnp.isfinite(x))
    with pytest.raises(ValueError, match="path must be that of the velocity"):
        jax.jit(lambda key: kacjax.generate(velocity, make(3), key, (3, 2), 2))(key)
