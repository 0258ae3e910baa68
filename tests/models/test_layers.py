"""Layers of the U-Net: against their formulas in float64, at their start, with dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kacjax.models.layers import GroupNorm, Resample, ResidualBlock, SelfAttention, group_count

FLOAT32 = {"dtype": jnp.dtype("float32")}


def reference_norm(x, groups):
    batch, height, width, channels = x.shape
    split = np.asarray(x, np.float64).reshape(batch, height, width, groups, channels // groups)
    mean = split.mean(axis=(1, 2, 4), keepdims=True)
    variance = split.var(axis=(1, 2, 4), keepdims=True)
    return ((split - mean) / np.sqrt(variance + 1e-5)).reshape(x.shape)


@pytest.mark.parametrize(
    ("channels", "groups"), [(1, 1), (6, 1), (16, 4), (34, 2), (64, 16), (128, 32), (384, 32)]
)
def test_groups_divide_and_are_not_too_small(channels, groups):
    assert group_count(channels) == groups


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 2e-5), (jnp.bfloat16, 2e-2)])
def test_normalization_scales_and_shifts(dtype, tolerance):
    draw = np.random.default_rng(0).normal
    x = jnp.asarray(draw(3, 2, (2, 5, 3, 16)), dtype)
    norm = GroupNorm(16)
    norm.scale[...], norm.bias[...] = jnp.asarray(draw(size=(2, 16)), jnp.float32)
    scale, shift = jnp.asarray(draw(size=(2, 2, 16)), jnp.float32)
    out = jax.jit(norm)(x, scale, shift)
    plain = reference_norm(x, 4) * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...])
    expected = plain * np.asarray(1 + scale[:, None, None]) + np.asarray(shift[:, None, None])
    assert out.dtype == dtype
    np.testing.assert_allclose(out.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(norm(x).astype(jnp.float32), plain, rtol=tolerance, atol=tolerance)


def test_normalization_of_constants_is_finite():
    x = jnp.full((1, 4, 4, 8), 1e3)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(GroupNorm(8)(x)))(x)
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(gradient))


def test_attention_is_a_softmax_of_products():
    channels, heads = 12, 3
    attention = SelfAttention(channels, heads, rngs=nnx.Rngs(0), **FLOAT32)
    draw = lambda *shape: jnp.asarray(  # noqa: E731
        np.random.default_rng(len(shape)).normal(size=shape), jnp.float32
    )
    attention.output.kernel[...] = draw(channels, channels)
    attention.inputs.bias[...] = draw(3 * channels)
    x = draw(2, 4, 2, channels)
    pixels = reference_norm(x, group_count(channels)).reshape(2, 8, channels)
    weights = {
        name: np.asarray(value[...], np.float64)
        for name, value in (("in", attention.inputs.kernel), ("out", attention.output.kernel))
    }
    qkv = pixels @ weights["in"] + np.asarray(attention.inputs.bias[...])
    q, k, v = (part.reshape(2, 8, heads, -1).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
    logits = q @ k.swapaxes(-1, -2) / np.sqrt(channels // heads)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    mixed = (shares @ v).swapaxes(1, 2).reshape(2, 8, channels) @ weights["out"]
    out = jax.jit(attention)(x)
    np.testing.assert_allclose(out, x + mixed.reshape(x.shape), rtol=1e-3, atol=1e-3)


def test_normalization_is_that_of_flax():
    """Flax's own, of the same groups: to a few roundings, from bfloat16 too."""
    for dtype in (jnp.float32, jnp.bfloat16):
        x = draw(2, 5, 3, 16).astype(dtype)
        flax = nnx.GroupNorm(16, 4, epsilon=1e-5, dtype=jnp.float32, rngs=nnx.Rngs(0))
        expected = flax(x).astype(dtype).astype(jnp.float32)
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
        np.testing.assert_allclose(GroupNorm(16)(x).astype(jnp.float32), expected, atol=tolerance)


def draw(*shape: int):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


def some_block(rate, heads=0):
    """A residual block whose update is not zero."""
    block = ResidualBlock(8, 8, 5, rate, heads, rngs=nnx.Rngs(0), **FLOAT32)
    block.second.kernel[...] = draw(3, 3, 8, 8)
    return block


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean_and_drops_its_share(rate):
    """Over 4,000 keys the update's mean is that without dropout: 6 deviations of 128 means.

    False alarm 3e-7. The variance tells the share: zero at rate 0, and it grows with rate / (1 -
    rate); of 4,000 squares of near-normal updates within 30 %, 13 deviations.
    """
    block, other = some_block(rate), some_block(0.5)
    x, time, num = draw(1, 4, 4, 8), jnp.ones((1, 5)), 4000
    keys = jax.random.split(jax.random.key(3), num)

    def moments(block):
        outs = jax.jit(jax.vmap(lambda key: block(x, time, key)))(keys)
        return np.mean(outs, axis=0), np.std(outs, axis=0)

    (mean, deviation), (_, half) = moments(block), moments(other)
    expected = block(x, time)
    assert np.all(np.abs(mean - expected) < 6 * deviation / np.sqrt(num))
    np.testing.assert_allclose(
        np.mean(deviation**2) / np.mean(half**2), rate / (1 - rate), rtol=0.3
    )


def test_without_key_or_rate_nothing_is_dropped():
    x, time = draw(2, 4, 4, 8), jnp.ones((2, 5))
    block, key = some_block(0.0), jax.random.key(1)
    np.testing.assert_array_equal(block(x, time, key), block(x, time))
    np.testing.assert_array_equal(some_block(0.5)(x, time), block(x, time))
    assert jnp.any(some_block(0.5)(x, time, key) != block(x, time))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_changes_of_resolution(dtype):
    """At the start a block only repeats pixels, or takes the means of 2x2."""
    options = {"rngs": nnx.Rngs(0), "dtype": jnp.dtype(dtype)}
    up, down = Resample(3, up=True, **options), Resample(3, up=False, **options)
    x = draw(2, 4, 6, 3).astype(dtype)
    assert up(x).shape == (2, 8, 12, 3)
    assert up(x).dtype == down(x).dtype == x.dtype
    np.testing.assert_array_equal(up(x)[:, 1::2, ::2], x)
    np.testing.assert_array_equal(up(x)[:, ::2, 1::2], x)
    mean = jnp.mean(x[0, 2:4, 4:6].astype(jnp.float32), axis=(0, 1))
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    np.testing.assert_allclose(down(x)[0, 1, 2].astype(jnp.float32), mean, tolerance, tolerance)


def test_blocks_start_as_the_identity():
    x, time = draw(2, 4, 4, 8), jnp.ones((2, 5))

    @jax.jit
    def start():
        keys = nnx.Rngs(jax.random.key(0, impl="rbg"))
        block = ResidualBlock(8, 8, 5, 0.5, 2, rngs=keys, **FLOAT32)
        return block(x, time, keys.params())

    np.testing.assert_allclose(start(), x, atol=1e-6)


def test_time_scales_and_shifts():
    """A modulation of scale -1 leaves the shift alone: the block no longer sees its input."""
    block = some_block(0.0)
    block.modulation.kernel[...] = jnp.zeros((5, 16))
    x, time = draw(2, 4, 4, 8), jnp.ones((2, 5))
    other = x[:, ::-1] + 1
    update = lambda x: block(x, time) - x  # noqa: E731
    assert jnp.max(jnp.abs(update(x) - update(other))) > 0.1
    block.modulation.bias[...] = jnp.concatenate([-jnp.ones(8), jnp.arange(8.0)])
    np.testing.assert_allclose(update(x), update(other), atol=1e-4)
    assert jnp.max(jnp.abs(update(x))) > 0.1
