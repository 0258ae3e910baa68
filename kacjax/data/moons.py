"""Two interleaved half circles."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key


@partial(jax.jit, static_argnames="num")
def moons(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Draws from two half circles of radius 1, blurred by a Gaussian of deviation 0.05.

    The upper arc is $(\cos\theta - \frac12, \sin\theta - \frac14)$ with $\theta$ uniform on
    $[0, \pi]$, the lower one its reflection through the origin.
    """
    angle_key, side_key, noise_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, (num,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], axis=-1)
    side = jax.random.rademacher(side_key, (num, 1), upper.dtype)
    return side * upper + 0.05 * jax.random.normal(noise_key, (num, 2))
