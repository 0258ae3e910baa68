"""Self-attention and group normalisation against their formulas in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kacjax.models.attention import SelfAttention
from kacjax.models.normalisation import GroupNorm, group_count


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
def test_normalisation_scales_and_shifts(dtype, tolerance):
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


def test_normalisation_of_constants_is_finite():
    x = jnp.full((1, 4, 4, 8), 1e3)
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(GroupNorm(8)(x)))(x)
    assert jnp.isfinite(value)
    assert jnp.all(jnp.isfinite(gradient))


def test_attention_is_a_softmax_of_products():
    channels, heads = 12, 3
    attention = SelfAttention(channels, channels // heads, dtype="float32", rngs=nnx.Rngs(0))
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
