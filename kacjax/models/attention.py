"""Self-attention between the pixels of a feature map."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kacjax.models.normalisation import GroupNorm


class SelfAttention(nnx.Module):
    r"""Attention of every pixel to every pixel, added to the input.

    $$ x + W \, \mathrm{softmax}\bigl(q k^\top / \sqrt{d}\bigr) \, v, \qquad
       (q, k, v) = V \, \mathrm{norm}(x) $$

    in heads of `d = head_channels`. `W` starts at zero, so that the block starts as the identity.
    The softmax is computed in float32 whatever the compute type.

    Args:
        channels: Channels of the feature map, a multiple of `head_channels`.
        head_channels: Channels of a head.
        dtype: Compute type of the matrix products.
        rngs: Random streams for initialisation.
    """

    def __init__(self, channels: int, head_channels: int, *, dtype: str, rngs: nnx.Rngs):
        self.heads = channels // head_channels
        self.norm = GroupNorm(channels)
        self.inputs = nnx.Linear(channels, 3 * channels, dtype=jnp.dtype(dtype), rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.output = nnx.Linear(
            channels, channels, kernel_init=zeros, dtype=jnp.dtype(dtype), rngs=rngs
        )

    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Applies the block."""
        batch, height, width, channels = x.shape
        qkv = self.inputs(self.norm(x))
        qkv = qkv.reshape(batch, height * width, 3, self.heads, channels // self.heads)
        # The function itself mixes types, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.output(mixed.reshape(x.shape))
