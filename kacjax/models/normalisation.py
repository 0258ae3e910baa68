"""Group normalisation of feature maps, in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

_EPSILON = 1e-5
_MOST_GROUPS = 32
_FEWEST_CHANNELS = 4


def group_count(channels: int) -> int:
    """The most groups, a power of two up to 32, of equal size and at least 4 channels.

    Groups of one channel would take its mean away from each, and with it what it means.
    """
    groups = _MOST_GROUPS
    while groups > 1 and (channels % groups or channels // groups < _FEWEST_CHANNELS):
        groups //= 2
    return groups


class GroupNorm(nnx.Module):
    r"""Normalises groups of channels, then scales and shifts each channel.

    $$ y_c = \bigl(\gamma_c \, (x_c - \mu) / \sqrt{\sigma^2 + \epsilon} + \beta_c\bigr)
       (1 + s_c) + b_c, $$

    with mean and variance over the pixels and the group's channels, and `s`, `b` from outside, say
    from a time embedding. All of it in float32, for any type of `x`; the moments are combined
    from those of single channels, and all factors into one, so that what touches every pixel is
    two sums and one multiplication with addition.

    Source: Wu and He, *Group Normalization*, arXiv 1803.08494.
    """

    def __init__(self, channels: int):
        self.groups = group_count(channels)
        self.scale = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        scale: Float[Array, "batch channels"] | None = None,
        shift: Float[Array, "batch channels"] | None = None,
    ) -> Float[Array, "batch height width channels"]:
        """Normalises; the output has the type of `x`."""
        batch, channels = x.shape[0], x.shape[-1]
        single = x.astype(jnp.float32)
        grouped = lambda moment: jnp.mean(  # noqa: E731
            moment.reshape(batch, self.groups, -1), axis=-1, keepdims=True
        )
        mean = grouped(jnp.mean(single, axis=(1, 2)))
        square = grouped(jnp.mean(jnp.square(single), axis=(1, 2)))
        # Rounding can take the difference of the moments below zero.
        spread = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + _EPSILON)
        gain = spread * self.scale[...].reshape(1, self.groups, -1)
        offset = (self.bias[...].reshape(1, self.groups, -1) - mean * gain).reshape(batch, channels)
        gain = gain.reshape(batch, channels)
        if scale is not None:
            gain, offset = gain * (1 + scale), offset * (1 + scale)
        if shift is not None:
            offset = offset + shift
        result = single * gain[:, None, None] + offset[:, None, None]
        return result.astype(x.dtype)
