"""A residual multilayer perceptron for vectors."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kacjax._validation import check_count, check_nonnegative, check_positive
from kacjax.models.embeddings import FourierFeatures, time_feature_count, time_features


class ResidualBlock(nnx.Module):
    """Normalisation, scaled and shifted by the time embedding, and two layers, added."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.modulation = nnx.Linear(width, 2 * width, rngs=rngs)
        self.first = nnx.Linear(width, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)

    def __call__(
        self, h: Float[Array, "batch width"], time: Float[Array, "batch width"]
    ) -> Float[Array, "batch width"]:
        """Applies the block."""
        scale, shift = jnp.split(self.modulation(time), 2, axis=-1)
        update = self.first(self.norm(h) * (1 + scale) + shift)
        return h + self.second(jax.nn.silu(update))


class MLP(nnx.Module):
    """Residual network `model(t, x)` for vectors, with smooth activations.

    Args:
        dim: Dimension of the data.
        rngs: Random streams for initialisation.
        width: Units of a hidden layer.
        depth: Residual blocks.
        fourier: Random Fourier features of the input; 0 for none. They let the network resolve
            fine structure in low dimension.
        highest_frequency: Of the Fourier features, in radians per unit of `x`.
        T: Final time of the path, the unit of `t`.

    Raises:
        ValueError: If a size is not a positive integer or `T` is not positive.
    """

    def __init__(
        self,
        dim: int,
        *,
        rngs: nnx.Rngs,
        width: int = 128,
        depth: int = 3,
        fourier: int = 0,
        highest_frequency: float = 30.0,
        T: float = 1.0,
    ):
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            check_count(name, value)
        check_nonnegative("fourier", fourier)
        check_positive("highest_frequency", highest_frequency)
        check_positive("T", T)
        self.T = float(T)
        self.time_dim = 32
        self.embedding = FourierFeatures(dim, fourier, 0.5, highest_frequency, rngs=rngs)
        self.time_in = nnx.Linear(time_feature_count(self.time_dim), width, rngs=rngs)
        self.time_out = nnx.Linear(width, width, rngs=rngs)
        self.first = nnx.Linear(self.embedding.features, width, rngs=rngs)
        self.blocks = nnx.List([ResidualBlock(width, rngs=rngs) for _ in range(depth)])
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        self.last = nnx.Linear(width, dim, kernel_init=zeros, rngs=rngs)

    def __call__(
        self, t: Float[Array, " batch"], x: Float[Array, "batch dim"]
    ) -> Float[Array, "batch dim"]:
        """The velocity at points `x` and times `t`; zero at initialisation."""
        time = self.time_out(jax.nn.silu(self.time_in(time_features(t, self.T, self.time_dim))))
        time = jax.nn.silu(time)
        h = self.first(self.embedding(x))
        for block in self.blocks:
            h = block(h, time)
        return self.last(jax.nn.silu(self.norm(h)))
