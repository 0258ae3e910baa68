"""The inverse of a process's map, where no formula is known: bisection, with derivatives."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax

from kacjax._typing import Array

# |N| beyond this has probability below the smallest positive float64 normal.
MAX_NORMAL = 38.0


@eqx.filter_custom_jvp
def inverse(process: Any, s: Array, y: Array) -> Array:
    """The `n` with `process.from_normal(s, n) = y`; derivatives of all orders are exact."""
    n = _bisect(process, s, y)
    return n + _newton(process, s, n, y - process.from_normal(s, n))


@inverse.def_jvp
def _inverse_jvp(primals, tangents):
    # By the inverse itself, which is differentiated once more for the next order.
    (process, s, y), (*others, y_dot) = primals, tangents
    n = inverse(process, s, y)
    _, moved = eqx.filter_jvp(lambda p, s: p.from_normal(s, n), (process, s), tuple(others))
    change = (0 if y_dot is None else y_dot) - (0 if moved is None else moved)
    return n, _newton(process, s, n, jnp.broadcast_to(change, n.shape))


def _newton(process: Any, s: Array, n: Array, change: Array) -> Array:
    """How `n` moves with the map; not outside the support and on an atom, where that is flat."""
    slope = jax.jvp(lambda n: process.from_normal(s, n), (n,), (jnp.ones_like(n),))[1]
    return jnp.where(slope > 0, change / jnp.where(slope > 0, slope, 1), 0)


@eqx.filter_jit
def _bisect(process: Any, s: Array, y: Array) -> Array:
    """The `n` to the precision of its type."""
    low = jnp.full_like(process.from_normal(s, jnp.zeros_like(s + y)), -MAX_NORMAL)

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        below = process.from_normal(s, middle) < y
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = lax.fori_loop(0, 6 + jnp.finfo(y.dtype).nmant, halve, (low, -low))
    return (low + high) / 2
