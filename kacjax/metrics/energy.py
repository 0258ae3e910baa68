"""The energy distance."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax.metrics.distances import Points, mean_distance


def energy_distance(x: Points, y: Points) -> Float[Array, ""]:
    r"""The energy distance $2 E|X - Y| - E|X - X'| - E|Y - Y'|$ between two samples.

    It is zero only for equal distributions, and needs no bandwidth. The means run over all pairs,
    a point with itself among them: the value is never negative, and for two samples of one law it
    is about $E|X - X'| (1/n + 1/m)$ rather than zero.

    Source: G. J. Székely, M. L. Rizzo, *Energy statistics*, Journal of Statistical Planning and
    Inference 143 (2013).

    Raises:
        ValueError: If the dimensions differ, or a set is empty or not finite.
    """
    distance = 2 * mean_distance(x, y) - mean_distance(x, x) - mean_distance(y, y)
    return jnp.maximum(distance, 0)
