"""The dark squares of a four by four checkerboard."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key

CELLS = 4
SIDE = 3.0 / CELLS


@partial(jax.jit, static_argnames="num")
def checkerboard(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Draws uniformly from the eight squares of $[-1.5, 1.5]^2$ whose indices have an even sum."""
    inside_key, cell_key = jax.random.split(key)
    dark = jnp.asarray([(i, j) for i in range(CELLS) for j in range(CELLS) if (i + j) % 2 == 0])
    corner = jax.random.choice(cell_key, dark, (num,)).astype(float)
    return SIDE * (corner + jax.random.uniform(inside_key, (num, 2)) - CELLS / 2)
