"""Distances between two sets of points, a block at a time: memory stays linear in their number."""

from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kacjax._validation import check_count, is_concrete

Points: TypeAlias = Float[Array, "..."] | Float[np.ndarray, "..."]
"""Points as rows `(num, dim)`, in JAX or NumPy; see `check_points`."""

# Rows of a matrix over all pairs that are held at once.
BLOCK = 256

# Up to this dimension squares of distances are sums over the components; above it they come from
# inner products, some ten times as fast.
_NARROW = 32

# Inner products round: the nearest are chosen among so many more, by their true distances.
_SPARE = 4


def check_points(name: str, x: Points) -> None:
    """Raises a `ValueError` unless `x` has points as rows."""
    if x.ndim != 2:
        raise ValueError(f"{name} must hold points as rows, (num, dim); got shape {x.shape}.")


def as_points(name: str, x: Points) -> Float[Array, "num dim"]:
    """Converts to the working precision.

    Raises:
        ValueError: If `x` is no matrix, is empty, or concrete and not finite.
    """
    check_points(name, x)
    if not x.size:
        raise ValueError(f"{name} must hold at least one point, got shape {x.shape}.")
    if is_concrete(x) and not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite, got NaN or infinite values.")
    return jnp.asarray(x, jnp.result_type(float))


def as_same_space(
    x: Points, y: Points, names: tuple[str, str] = ("x", "y"), minimum: int = 1
) -> tuple[Float[Array, "num dim"], Float[Array, "others dim"]]:
    """Converts both sets.

    Raises:
        ValueError: If a set is no matrix, the dimensions differ, a set has fewer points than
            `minimum`, or is concrete and not finite.
    """
    for name, points in zip(names, (x, y), strict=True):
        check_points(name, points)
    if x.shape[1] != y.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must be of one dimension, got the shapes {x.shape} and "
            f"{y.shape}."
        )
    for name, points in zip(names, (x, y), strict=True):
        if points.size and len(points) < minimum:
            raise ValueError(f"{name} must hold at least {minimum} points, got {len(points)}.")
    return as_points(names[0], x), as_points(names[1], y)


def mean_distance(x: Points, y: Points) -> Float[Array, ""]:
    r"""The mean of $|x_i - y_j|$ over all pairs."""
    return _mean(*as_same_space(x, y))


def nearest(
    x: Points, y: Points, names: tuple[str, str] = ("x", "y")
) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """For each point of `x`, the distance to the nearest point of `y`, and the index of that."""
    distance, index = k_nearest(x, y, 1, names)
    return distance[:, 0], index[:, 0]


def nearest_other(x: Points) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """For each point of `x`, the distance to the nearest other point of `x`, and its index."""
    distance, index = k_nearest_other(x, 1)
    return distance[:, 0], index[:, 0]


def k_nearest(
    x: Points, y: Points, neighbours: int, names: tuple[str, str] = ("x", "y")
) -> tuple[Float[Array, "num k"], Int[Array, "num k"]]:
    """For each point of `x`, distances to the nearest points of `y`, rising, and their indices."""
    x, y = as_same_space(x, y, names)
    _check_neighbours(neighbours, len(y))
    return _nearest(x, y, neighbours=neighbours, skip_own=False)


def k_nearest_other(
    x: Points, neighbours: int
) -> tuple[Float[Array, "num k"], Int[Array, "num k"]]:
    """For each point of `x`, distances to the nearest other points of `x`, and their indices."""
    x = as_points("x", x)
    _check_neighbours(neighbours, len(x) - 1)
    return _nearest(x, x, neighbours=neighbours, skip_own=True)


def squares(point: Float[Array, " dim"], y: Float[Array, "num dim"]) -> Float[Array, " num"]:
    """Squared distances of one point to many, inside a map over blocks.

    In more than 32 dimensions they come from inner products, so that their error is relative to
    the squared norms: `centred` keeps these small.
    """
    if y.shape[1] <= _NARROW:
        return _sum_of_squares(point[None, :] - y)
    product = jnp.matmul(y, point, precision=jax.lax.Precision.HIGHEST)
    return jnp.maximum(_sum_of_squares(point) + _sum_of_squares(y) - 2 * product, 0)


def centred(x: Array, y: Array) -> tuple[Array, Array]:
    """Moves both sets so that the mean of `y` is the origin; distances stay."""
    centre = jnp.mean(y, axis=0, keepdims=True)
    return x - centre, y - centre


@jax.jit
def _mean(x: Array, y: Array) -> Array:
    def one(point):
        # From differences in any dimension, and without the root's derivative at 0: equal points
        # have gradient 0 and not NaN.
        square = _sum_of_squares(point[None, :] - y)
        apart = square > 0
        return jnp.mean(jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0))

    return jnp.mean(jax.lax.map(one, x, batch_size=BLOCK))


@jax.jit(static_argnames=("neighbours", "skip_own"))
def _nearest(x: Array, y: Array, *, neighbours: int, skip_own: bool) -> tuple[Array, Array]:
    spare = _SPARE if y.shape[1] > _NARROW else 0
    x, y = centred(x, y) if spare else (x, y)

    def one(index_and_point):
        index, point = index_and_point
        hidden = index if skip_own else -1
        square = jnp.where(jnp.arange(len(y)) == hidden, jnp.inf, squares(point, y))
        _, chosen = jax.lax.top_k(-square, min(neighbours + spare, len(y)))
        square = _sum_of_squares(point[None, :] - y[chosen])
        # Kept out of the derivative of the root, as above.
        apart = square > 0
        distance = jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)
        distance = jnp.where(chosen == hidden, jnp.inf, distance)
        order = jnp.argsort(distance)[:neighbours]
        return distance[order], chosen[order]

    return jax.lax.map(one, (jnp.arange(len(x)), x), batch_size=BLOCK)


def _sum_of_squares(x: Array) -> Array:
    return jnp.sum(x**2, axis=-1)


def _check_neighbours(neighbours: int, available: int) -> None:
    check_count("neighbours", neighbours)
    if neighbours > available:
        raise ValueError(f"neighbours must be at most {available} here, got {neighbours}.")
