"""Distances between two sets of points, a block at a time: memory stays linear in their number."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kacjax._validation import is_concrete

Points: TypeAlias = Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
"""Points as rows, in JAX or NumPy."""

# Rows of the distance matrix that are held at once.
_BLOCK = 256


def as_points(name: str, x: Points) -> Float[Array, "num dim"]:
    """Converts to the working precision.

    Raises:
        ValueError: If `x` is empty, or concrete and not finite.
    """
    if not x.size:
        raise ValueError(f"{name} must hold at least one point, got shape {x.shape}.")
    if is_concrete(x) and not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite, got NaN or infinite values.")
    return jnp.asarray(x, jnp.result_type(float))


def mean_distance(x: Points, y: Points) -> Float[Array, ""]:
    r"""The mean of $|x_i - y_j|$ over all pairs."""
    return _mean(*_same_space(x, y))


def nearest(x: Points, y: Points) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """For each point of `x`, the distance to the nearest point of `y`, and the index of that."""
    return _nearest(*_same_space(x, y), skip_own=False)


def nearest_other(x: Points) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """For each point of `x`, the distance to the nearest other point of `x`, and its index."""
    x = as_points("x", x)
    return _nearest(x, x, skip_own=True)


@jax.jit
def _mean(x: Array, y: Array) -> Array:
    return jnp.mean(jax.lax.map(lambda point: jnp.mean(_row(point, y)), x, batch_size=_BLOCK))


@jax.jit(static_argnames="skip_own")
def _nearest(x: Array, y: Array, *, skip_own: bool) -> tuple[Array, Array]:
    def one(index_and_point):
        index, point = index_and_point
        distances = _row(point, y)
        if skip_own:
            distances = distances.at[index].set(jnp.inf)
        return jnp.min(distances), jnp.argmin(distances)

    return jax.lax.map(one, (jnp.arange(len(x)), x), batch_size=_BLOCK)


def _row(point: Array, y: Array) -> Array:
    # From differences: the expanded square cancels for points that lie close. The root of 0 is
    # kept out of the derivative, so that equal points have gradient 0 and not NaN.
    square = jnp.sum((point[None, :] - y) ** 2, axis=-1)
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def _same_space(x: Points, y: Points) -> tuple[Array, Array]:
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"x and y must be of one dimension, got the shapes {x.shape} and {y.shape}."
        )
    return as_points("x", x), as_points("y", y)
