"""Embeddings of times and of vectors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

# Times below this fraction of T look alike to the network: too few of them are ever drawn for
# it to learn a difference, and to extrapolate one would blur the samples.
_SMALLEST = 1e-3
# Sinusoids of the logarithm; few, because the velocity changes smoothly with it.
_LOG_SINUSOIDS = 4


def time_features(t: Float[Array, " batch"], T: float, dim: int) -> Float[Array, "batch features"]:
    r"""Sinusoids of $1000 \, t / T$, and of $\log(t / T)$ with that logarithm itself.

    Without the factor 1000 most sinusoids would be constant on [0, 1]; without the logarithm,
    times near the data, where the velocity changes scale, would look alike.

    Args:
        t: Times in `[0, T]`.
        T: Final time.
        dim: Number of sinusoids of the time itself, even.

    Returns:
        Features of shape `(batch, time_feature_count(dim))`.
    """
    half = dim // 2
    frequencies = jnp.asarray(np.exp(-math.log(10_000) * np.arange(half) / half), t.dtype)
    relative = jnp.maximum(t / T, _SMALLEST)
    log = jnp.log(relative) / -math.log(_SMALLEST)
    scales = jnp.asarray(np.pi * np.arange(1, _LOG_SINUSOIDS + 1), t.dtype)
    angles = 1000 * relative[:, None] * frequencies[None], log[:, None] * scales[None]
    parts = [function(angle) for angle in angles for function in (jnp.sin, jnp.cos)]
    return jnp.concatenate([*parts, log[:, None]], axis=-1)


def time_feature_count(dim: int) -> int:
    """Number of features that `time_features` makes of `dim` sinusoids."""
    return dim + 2 * _LOG_SINUSOIDS + 1


class FourierFeatures(nnx.Module):
    r"""The input beside $\sin(Bx)$ and $\cos(Bx)$ with fixed random frequencies `B`.

    Directions are random and lengths log-uniform, so that no grid of points is special.

    Source: Tancik et al., *Fourier Features Let Networks Learn High Frequency Functions in Low
    Dimensional Domains*, arXiv 2006.10739.
    """

    def __init__(self, dim: int, count: int, lowest: float, highest: float, *, rngs: nnx.Rngs):
        directions = np.asarray(nnx.initializers.normal(1.0)(rngs.params(), (dim, count)))
        directions = directions / np.linalg.norm(directions, axis=0, keepdims=True)
        lengths = np.geomspace(lowest, highest, count) if count else np.zeros(0)
        self.frequencies = nnx.Variable(jnp.asarray(directions * lengths))
        self.features = dim + 2 * count

    def __call__(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch features"]:
        """The features of a batch of vectors."""
        # Fixed, though stored with the parameters: their gradient is zero.
        angles = x @ jax.lax.stop_gradient(self.frequencies[...]).astype(x.dtype)
        return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)
