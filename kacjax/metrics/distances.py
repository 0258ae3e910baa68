"""Points as rows, and the distances between them, a block of rows at a time.

A distance comes from the differences of the components, in any dimension: from inner products it
would cost less, but nearby points far from the origin would lose all digits.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from kacjax._validation import check_count, is_concrete

Points: TypeAlias = Num[Array, "..."] | Num[np.ndarray, "..."] | Sequence[Any]
"""Points along the first axis, in JAX, NumPy or as lists; events of any shape are flattened."""

# Rows of a matrix over all pairs that are held at once.
_BLOCK = 256


def as_points(name: str, x: Points, minimum: int = 1) -> Float[Array, "num dim"]:
    """The points as rows, in the working precision.

    Raises:
        ValueError: If there are fewer than `minimum`, `x` is a vector or a number, or its values
            are concrete and not finite.
    """
    x = x if isinstance(x, jax.Array) else np.asarray(x)
    if x.ndim < 2:
        raise ValueError(
            f"{name} must hold points along its first axis, (num, *event); got shape {x.shape}."
        )
    if not x.size:
        raise ValueError(f"{name} must hold at least one point, got shape {x.shape}.")
    if len(x) < minimum:
        raise ValueError(f"{name} must hold at least {minimum} points, got {len(x)}.")
    x = jnp.asarray(x, jnp.result_type(float)).reshape(len(x), -1)
    if is_concrete(x) and not np.all(np.isfinite(x)):
        raise ValueError(f"{name} must be finite, got NaN or infinite values.")
    return x


def as_same_space(
    x: Points, y: Points, names: tuple[str, str] = ("x", "y"), minimum: int = 1
) -> tuple[Float[Array, "num dim"], Float[Array, "others dim"]]:
    """Both sets by `as_points`; raises a `ValueError` if their dimensions differ."""
    first, second = as_points(names[0], x, minimum), as_points(names[1], y, minimum)
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"{names[0]} and {names[1]} must be of one dimension, got {first.shape[1]} and "
            f"{second.shape[1]}."
        )
    return first, second


def over_rows(function: Callable[..., Any], *rows: Array) -> Any:
    """`jax.vmap(function)(*rows)`, a block of rows at a time: memory stays linear."""
    return jax.lax.map(lambda row: function(*row), rows, batch_size=_BLOCK)


def squares(point: Float[Array, " dim"], y: Float[Array, "num dim"]) -> Float[Array, " num"]:
    """Squared distances of one point to many."""
    return jnp.sum((point[None, :] - y) ** 2, axis=-1)


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with derivative 0 at 0."""
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def rounded_up(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A bound that equal squares keep, however their sums were rounded; 0 stays 0."""
    return square * (1 + 8 * jnp.finfo(square.dtype).eps)


@jax.jit(static_argnames=("k", "skip_own"))
def nearest_squares(
    x: Float[Array, "num dim"], y: Float[Array, "others dim"], *, k: int, skip_own: bool = False
) -> tuple[Float[Array, "num k"], Int[Array, "num k"]]:
    """Squared distances to the `k` nearest points of `y`, rising, and their rows.

    With `skip_own`, where `y` is `x`, a point is not its own neighbor.
    """

    def one(row, point):
        square = squares(point, y)
        if skip_own:
            square = jnp.where(jnp.arange(len(y)) == row, jnp.inf, square)
        least, index = jax.lax.top_k(-square, k)
        return -least, index

    return over_rows(one, jnp.arange(len(x)), x)


def check_neighbors(k: int, available: int) -> None:
    """Raises a `ValueError` unless `k` is a count of at most `available`."""
    check_count("k", k)
    if k > available:
        raise ValueError(f"k must be at most {available} here, got {k}.")
