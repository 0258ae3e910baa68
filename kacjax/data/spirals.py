"""Two interleaved spirals."""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key

RADIUS = 1.5
TURNS = 1.5


@partial(jax.jit, static_argnames="num")
def spirals(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Draws from the arms $\pm r (\cos\theta, \sin\theta)$ with $r = 1.5 \theta / 3\pi$, blurred.

    The radius is the root of a uniform variable, so that the density along an arm is even; the
    Gaussian blur has the deviation 0.03.
    """
    radius_key, arm_key, noise_key = jax.random.split(key, 3)
    fraction = jnp.sqrt(jax.random.uniform(radius_key, (num,)))
    angle = 2 * jnp.pi * TURNS * fraction
    arm = RADIUS * fraction[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    side = jax.random.rademacher(arm_key, (num, 1), arm.dtype)
    return side * arm + 0.03 * jax.random.normal(noise_key, (num, 2))
