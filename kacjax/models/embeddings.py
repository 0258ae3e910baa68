"""Embeddings of times and of vectors."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from kacjax._validation import check_count, check_positive, is_concrete

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


class ConditionEmbedding(nnx.Module):
    r"""What a network is told beside its input: the time, and a class where there are any.

    $$ \mathrm{silu}\bigl(W_2 \, \mathrm{silu}(W_1 \, \mathrm{features}(t)) + E_y\bigr) $$

    `E` has one row more than there are classes, the null label's: it stands for no class.

    Args:
        sinusoids: Sinusoids of the time, even; see `time_features`.
        width: Width of the embedding.
        T: Final time, the unit of `t`.
        classes: Number of classes; none if missing.
        rngs: Random streams for initialisation.

    Raises:
        ValueError: If `T` is not positive or `classes` not a positive integer.
    """

    def __init__(
        self, sinusoids: int, width: int, *, T: float, classes: int | None, rngs: nnx.Rngs
    ):
        check_positive("T", T)
        self.T, self.sinusoids, self.classes = float(T), sinusoids, classes
        self.first = nnx.Linear(time_feature_count(sinusoids), width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        if classes is not None:
            check_count("classes", classes)
        self.labels = nnx.Embed(classes + 1, width, rngs=rngs) if classes is not None else None

    def __call__(
        self, t: Float[Array, " batch"], label: Int[Array, " batch"] | None = None
    ) -> Float[Array, "batch width"]:
        """The embedding of times and labels; without labels, of the null label.

        Raises:
            ValueError: If there are labels but no classes, or a label is not in `0..classes`.
                Traced labels cannot be looked at: those out of range give NaN.
        """
        h = self.second(jax.nn.silu(self.first(time_features(t, self.T, self.sinusoids))))
        if self.labels is not None and self.classes is not None:
            if label is None:
                label = jnp.full(t.shape, self.classes, jnp.int32)
            elif is_concrete(label):
                self._check(np.asarray(label))
            h = h + self.labels(label)
        elif label is not None:
            raise ValueError("label must be None for a network without classes.")
        return jax.nn.silu(h)

    def _check(self, label: np.ndarray) -> None:
        if label.size and (label.min() < 0 or label.max() > self.classes):
            raise ValueError(
                f"label must lie in 0..{self.classes} ({self.classes}: no class), got values from "
                f"{label.min()} to {label.max()}."
            )


class FourierFeatures(nnx.Module):
    r"""The input beside $\sin(Bx)$ and $\cos(Bx)$ with fixed random frequencies `B`.

    Directions are random and lengths log-uniform, so that no grid of points is special.

    Source: Tancik et al., *Fourier Features Let Networks Learn High Frequency Functions in Low
    Dimensional Domains*, arXiv 2006.10739.
    """

    def __init__(self, dim: int, count: int, lowest: float, highest: float, *, rngs: nnx.Rngs):
        # As the weights are, also where JAX's default is float64.
        directions = nnx.initializers.normal(1.0)(rngs.params(), (dim, count), jnp.float32)
        directions = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
        lengths = np.geomspace(lowest, highest, count) if count else np.zeros(0)
        self.frequencies = nnx.Variable(directions * jnp.asarray(lengths, directions.dtype)[None])
        self.features = dim + 2 * count

    def __call__(self, x: Float[Array, "batch dim"]) -> Float[Array, "batch features"]:
        """The features of a batch of vectors."""
        # Fixed, though stored with the parameters: their gradient is zero.
        angles = x @ jax.lax.stop_gradient(self.frequencies[...]).astype(x.dtype)
        return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)
