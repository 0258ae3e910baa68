"""Residual blocks of feature maps: with a time embedding, and for a change of resolution."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax.models.attention import SelfAttention
from kacjax.models.normalisation import GroupNorm

Map = Float[Array, "batch height width channels"]

# Dropout compares random integers of 16 bits, half the random numbers of 32.
_LEVELS = 2**16


def convolution(
    inputs: int, outputs: int, size: int, *, dtype: str, rngs: nnx.Rngs, zero: bool = False
) -> nnx.Conv:
    """A convolution that keeps the resolution; with `zero`, its output starts at zero."""
    initial = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(
        inputs, outputs, (size, size), kernel_init=initial, dtype=jnp.dtype(dtype), rngs=rngs
    )


def dropout(x: Array, rate: float, key: Key | None) -> Array:
    """Sets a share `rate` of the numbers to zero and scales the others, to keep the mean.

    The share is rounded to a multiple of 2^-16, and the scale is that of the rounded one.

    Args:
        x: Numbers.
        rate: Share to drop, in [0, 1).
        key: Random key; without one nothing is dropped.
    """
    if key is None or rate == 0:
        return x
    dropped = min(round(rate * _LEVELS), _LEVELS - 1)
    keep = jax.random.bits(key, x.shape, jnp.uint16) >= dropped
    return jnp.where(keep, x * (_LEVELS / (_LEVELS - dropped)), 0)


class ResidualBlock(nnx.Module):
    r"""Two convolutions of normalised maps, the second scaled and shifted by the time, added.

    $$ x + C_2 \, \mathrm{drop} \, \mathrm{silu}\bigl(\mathrm{norm}(h) (1 + s) + b\bigr), \qquad
       h = C_1 \, \mathrm{silu}(\mathrm{norm}(x)), \quad (s, b) = W \, \mathrm{time} $$

    $C_2$ starts at zero. Where the number of channels changes, `x` passes a linear map. With
    `head_channels`, self-attention follows.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        embedding: Width of the time embedding.
        rate: Share of numbers dropped.
        head_channels: Channels of an attention head; no attention if missing.
        dtype: Compute type of the convolutions.
        rngs: Random streams for initialisation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        embedding: int,
        rate: float,
        head_channels: int | None,
        *,
        dtype: str,
        rngs: nnx.Rngs,
    ):
        self.rate = rate
        self.first_norm = GroupNorm(inputs)
        self.first = convolution(inputs, outputs, 3, dtype=dtype, rngs=rngs)
        self.modulation = nnx.Linear(embedding, 2 * outputs, rngs=rngs)
        self.second_norm = GroupNorm(outputs)
        self.second = convolution(outputs, outputs, 3, dtype=dtype, rngs=rngs, zero=True)
        self.skip = (
            nnx.Linear(inputs, outputs, dtype=jnp.dtype(dtype), rngs=rngs)
            if inputs != outputs
            else None
        )
        self.attention = (
            SelfAttention(outputs, head_channels, dtype=dtype, rngs=rngs)
            if head_channels is not None
            else None
        )

    def __call__(
        self, x: Map, time: Float[Array, "batch embedding"], key: Key | None = None
    ) -> Float[Array, "batch height width outputs"]:
        """Applies the block."""
        h = self.first(jax.nn.silu(self.first_norm(x)))
        scale, shift = jnp.split(self.modulation(time), 2, axis=-1)
        h = jax.nn.silu(self.second_norm(h, scale, shift))
        h = self.second(dropout(h, self.rate, key))
        h = h + (x if self.skip is None else self.skip(x))
        return h if self.attention is None else self.attention(h)


class Resample(nnx.Module):
    r"""Halves or doubles the resolution, in both branches of a residual block.

    $$ R x + C \, R \, \mathrm{silu}(\mathrm{norm}(x)) $$

    with `R` the mean of 2x2 pixels or their repetition, and a convolution $C$ that starts at zero.

    Source: Brock et al., *Large Scale GAN Training for High Fidelity Natural Image Synthesis*,
    arXiv 1809.11096; with one convolution in place of two.
    """

    def __init__(self, channels: int, *, up: bool, dtype: str, rngs: nnx.Rngs):
        self.up = up
        self.norm = GroupNorm(channels)
        self.conv = convolution(channels, channels, 3, dtype=dtype, rngs=rngs, zero=True)

    def __call__(self, x: Map) -> Float[Array, "batch new_height new_width channels"]:
        """Applies the block."""
        change = double if self.up else halve
        return change(x) + self.conv(change(jax.nn.silu(self.norm(x))))


def halve(x: Map) -> Float[Array, "batch new_height new_width channels"]:
    """Means of 2x2 pixels."""
    batch, height, width, channels = x.shape
    return jnp.mean(x.reshape(batch, height // 2, 2, width // 2, 2, channels), axis=(2, 4))


def double(x: Map) -> Float[Array, "batch new_height new_width channels"]:
    """Every pixel repeated 2x2 times."""
    batch, height, width, channels = x.shape
    shape = (batch, height, 2, width, 2, channels)
    return jnp.broadcast_to(x[:, :, None, :, None], shape).reshape(
        batch, 2 * height, 2 * width, channels
    )
