"""A residual multilayer perceptron for vectors."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kacjax._validation import check_count, check_positive
from kacjax.models import layers
from kacjax.models.layers import Labels, Times, Vectors


class ResidualBlock(nnx.Module):
    """Normalization, scaled and shifted by the time embedding, and two layers, added."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.norm: nnx.LayerNorm = nnx.LayerNorm(width, use_bias=False, use_scale=False, rngs=rngs)
        self.modulation: nnx.Linear = nnx.Linear(width, 2 * width, rngs=rngs)
        self.first: nnx.Linear = nnx.Linear(width, width, rngs=rngs)
        self.second: nnx.Linear = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, h: Vectors, time: Vectors) -> Vectors:  # noqa: D102
        scale, shift = jnp.split(self.modulation(time), 2, axis=-1)
        update = self.first(self.norm(h) * (1 + scale) + shift)
        return h + self.second(jax.nn.silu(update))


class MLP(layers.Network):
    """Residual network `network(t, x, label=None)` for vectors; smooth, and zero at first.

    Args:
        dim: Dimension of the data.
        rngs: Random streams for initialization.
        width: Units of a hidden layer.
        depth: Residual blocks.
        fourier: Random Fourier features of the input, for fine structure in low dimension.
        highest_frequency: Of the Fourier features, in radians per unit of `x`.
        T: Final time of the path, the unit of `t`.
        classes: Number of classes; without it the network knows no labels.
        second_time: Whether calls may have a second time, `until`, as flow maps need.
        outputs: Numbers in the output for each of the last axis of `x`; 2 for the prediction `bounded`.

    Raises:
        ValueError: If a number is out of its range; in a call, if a shape or label does not fit.

    Example:
        >>> network = kacjax.models.MLP(dim=2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)
        >>> network(jnp.ones(4), jnp.ones((4, 2)), label=jnp.array([0, 1, 2, 3])).shape
        (4, 2)
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
        classes: int | None = None,
        second_time: bool = False,
        outputs: int = 1,
    ):
        for name, value in (("dim", dim), ("width", width), ("depth", depth)):
            check_count(name, value)
        check_count("fourier", fourier, 0)
        check_positive("highest_frequency", highest_frequency)
        check_count("outputs", outputs)
        self.remember(MLP.__init__, locals())
        self.dim = dim
        self.embedding: layers.FourierFeatures = layers.FourierFeatures(
            dim, fourier, 0.5, highest_frequency, rngs=rngs
        )
        self.condition: layers.ConditionEmbedding = layers.ConditionEmbedding(
            32, width, T, classes, second_time, rngs=rngs
        )
        self.first: nnx.Linear = nnx.Linear(dim + 2 * fourier, width, rngs=rngs)
        self.blocks: nnx.List[ResidualBlock] = nnx.List(
            [ResidualBlock(width, rngs=rngs) for _ in range(depth)]
        )
        self.norm: nnx.LayerNorm = nnx.LayerNorm(width, rngs=rngs)
        zeros = nnx.initializers.zeros
        self.last: nnx.Linear = nnx.Linear(width, dim * outputs, kernel_init=zeros, rngs=rngs)

    def __call__(
        self,
        t: Times,
        x: Vectors,
        label: Labels = None,
        *,
        until: Times | None = None,
        key: Any = None,
    ) -> Float[Array, "batch outputs"]:
        """What is learned, in the type of `x`, float32 at least; see `kacjax.models`."""
        t, x = layers.check_points(t, x, (self.dim,))
        time = self.condition(t, label, until)
        h = self.first(self.embedding(x))
        for block in self.blocks:
            h = block(h, time)
        return self.last(jax.nn.silu(self.norm(h))).astype(x.dtype)
