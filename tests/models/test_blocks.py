"""Dropout, residual blocks and changes of resolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kacjax.models.blocks import Resample, ResidualBlock, double, dropout, halve


def draw(*shape: int):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    """Of 2^18 numbers the kept ones are binomial: 6 deviations, false alarm 2e-9 each."""
    count = 2**18
    out = dropout(jnp.ones(count), rate, jax.random.key(3))
    kept = 1 - round(rate * 2**16) / 2**16
    values, counts = np.unique(out, return_counts=True)
    np.testing.assert_allclose(values, [0, 1 / kept], rtol=1e-6)
    assert abs(counts[1] - count * kept) < 6 * np.sqrt(count * kept * (1 - kept))


def test_dropout_keeps_the_type_and_spares_the_rest():
    x = jax.random.normal(jax.random.key(0), (64,), jnp.bfloat16)
    out = dropout(x, 0.5, jax.random.key(1))
    assert out.dtype == x.dtype
    np.testing.assert_array_equal(jnp.where(out == 0, 2 * x, out), 2 * x)
    assert dropout(x, 0.5, None) is x
    assert dropout(x, 0.0, jax.random.key(1)) is x


def test_changes_of_resolution_undo_each_other():
    x = draw(2, 4, 6, 3)
    assert double(x).shape == (2, 8, 12, 3)
    np.testing.assert_allclose(halve(double(x)), x, rtol=1e-6)
    np.testing.assert_array_equal(double(x)[:, 1::2, ::2], x)
    np.testing.assert_allclose(halve(x)[0, 1, 2], jnp.mean(x[0, 2:4, 4:6], axis=(0, 1)), rtol=1e-5)


def test_blocks_start_as_the_identity():
    x, time = draw(2, 4, 4, 8), jnp.ones((2, 5))

    @jax.jit
    def start():
        keys = nnx.Rngs(jax.random.key(0, impl="rbg"))
        block = ResidualBlock(8, 8, 5, 0.5, 4, dtype="float32", rngs=keys)
        up, down = (Resample(8, up=up, dtype="float32", rngs=keys) for up in (True, False))
        return block(x, time, keys.params()), up(x), down(x)

    for out, expected in zip(start(), (x, double(x), halve(x)), strict=True):
        np.testing.assert_allclose(out, expected, atol=1e-6)


def test_time_scales_and_shifts():
    """A modulation of scale -1 leaves the shift alone: the block no longer sees its input."""
    block = ResidualBlock(8, 8, 5, 0.0, None, dtype="float32", rngs=nnx.Rngs(0))
    block.second.kernel[...] = draw(3, 3, 8, 8)
    block.modulation.kernel[...] = jnp.zeros((5, 16))
    x, time = draw(2, 4, 4, 8), jnp.ones((2, 5))
    other = x[:, ::-1] + 1
    update = lambda x: block(x, time) - x  # noqa: E731
    assert jnp.max(jnp.abs(update(x) - update(other))) > 0.1
    block.modulation.bias[...] = jnp.concatenate([-jnp.ones(8), jnp.arange(8.0)])
    np.testing.assert_allclose(update(x), update(other), atol=1e-4)
    assert jnp.max(jnp.abs(update(x))) > 0.1
