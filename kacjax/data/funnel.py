"""A funnel: one coordinate sets the scale of the other.

Source: R. M. Neal, *Slice sampling*, Annals of Statistics 31 (2003), section 8.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key


@partial(jax.jit, static_argnames="num")
def funnel(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Draws $(V/2, 0.3 \, e^{3V/4} N)$ with standard normal $V$ and $N$: Neal's funnel, scaled."""
    v, n = jax.random.normal(key, (2, num))
    return jnp.stack([v / 2, 0.3 * jnp.exp(0.75 * v) * n], axis=-1)
