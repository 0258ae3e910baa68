r"""Two-dimensional targets as samplers `(key, num) -> points`, within about $[-1.5, 1.5]^2$."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import choose

Sampler: TypeAlias = Callable[[Key, int], Float[Array, "num 2"]]

GRID2D_MODES = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)], np.float32)
"""The centers of the modes of `grid2d`, of shape `(9, 2)`."""

GRID2D_STD = 1e-4
"""The standard deviation of each mode of `grid2d`."""


@jax.jit(static_argnames="num")
def grid2d(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Nine narrow modes: $\frac19 \sum_m \mathcal N(m, 10^{-8} I)$ with $m \in \{-1, 0, 1\}^2$.

    Source: R. Duong et al., *Telegrapher's Generative Model via Kac Flows*, arXiv 2506.20641.
    """
    choice_key, noise_key = jax.random.split(key)
    centers = jax.random.choice(choice_key, GRID2D_MODES, (num,))
    return centers + GRID2D_STD * jax.random.normal(noise_key, (num, 2))


@jax.jit(static_argnames="num")
def moons(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Two interleaved half circles of radius 1, blurred by a Gaussian of deviation 0.05.

    The upper is $(\cos\theta - \frac12, \sin\theta - \frac14)$, the lower its reflection at 0.
    """
    angle_key, side_key, noise_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, (num,), maxval=jnp.pi)
    upper = jnp.stack([jnp.cos(angle) - 0.5, jnp.sin(angle) - 0.25], axis=-1)
    side = jax.random.rademacher(side_key, (num, 1), upper.dtype)
    return side * upper + 0.05 * jax.random.normal(noise_key, (num, 2))


@jax.jit(static_argnames="num")
def checkerboard(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""The uniform law on the eight squares of a 4 by 4 board on $[-1.5, 1.5]^2$ of even index sum."""
    inside_key, cell_key = jax.random.split(key)
    dark = jnp.asarray([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0])
    corner = jax.random.choice(cell_key, dark, (num,)).astype(float)
    return 0.75 * (corner + jax.random.uniform(inside_key, (num, 2)) - 2)


@jax.jit(static_argnames="num")
def spirals(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Two spirals $\pm \theta (\cos\theta, \sin\theta) / 2\pi$, even along $0 \leq \theta \leq 3\pi$.

    They are blurred by a Gaussian of deviation 0.03.
    """
    radius_key, arm_key, noise_key = jax.random.split(key, 3)
    fraction = jnp.sqrt(jax.random.uniform(radius_key, (num,)))
    angle = 3 * jnp.pi * fraction
    arm = 1.5 * fraction[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=-1)
    side = jax.random.rademacher(arm_key, (num, 1), arm.dtype)
    return side * arm + 0.03 * jax.random.normal(noise_key, (num, 2))


@jax.jit(static_argnames="num")
def funnel(key: Key, num: int) -> Float[Array, "{num} 2"]:
    r"""Neal's funnel, scaled: $(V/2, 0.3 \, e^{3V/4} N)$ with standard normal $V$ and $N$.

    Source: R. M. Neal, *Slice sampling*, Annals of Statistics 31 (2003), section 8.
    """
    v, n = jax.random.normal(key, (2, num))
    return jnp.stack([v / 2, 0.3 * jnp.exp(0.75 * v) * n], axis=-1)


TARGETS: dict[str, Sampler] = {"grid2d": grid2d, "moons": moons, "checkerboard": checkerboard}
TARGETS |= {"spirals": spirals, "funnel": funnel}


def target(name: str) -> Sampler:
    """The sampler of a name in `TARGETS`; any other is a `ValueError` that lists them.

    Example:
        >>> kacjax.data.target("moons")(jax.random.key(0), 100).shape
        (100, 2)
    """
    return choose("target", name, TARGETS)
