"""The energy distance."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax.metrics.distances import Points, as_same_space, mean_distance


def energy_distance(x: Points, y: Points, *, unbiased: bool = False) -> Float[Array, ""]:
    r"""The energy distance $2 E|X - Y| - E|X - X'| - E|Y - Y'|$ between two samples.

    It is zero only for equal distributions, and needs no bandwidth. The means run over all pairs,
    a point with itself among them: the value is never negative, and for two samples of one law its
    mean is $E|X - X'| (1/n + 1/m)$ rather than zero. With `unbiased` a point is not paired with
    itself: the mean is the distance of the laws, zero for one law, and a value can be negative.

    Source: G. J. Székely, M. L. Rizzo, *Energy statistics*, Journal of Statistical Planning and
    Inference 143 (2013).

    Args:
        x: Samples.
        y: Samples to compare with; the numbers may differ.
        unbiased: Whether to leave out the pairs of a point with itself.

    Raises:
        ValueError: If the dimensions differ, a set is empty (`unbiased`: has one point only), or
            not finite.
    """
    x, y = as_same_space(x, y, minimum=2 if unbiased else 1)
    within_x, within_y = mean_distance(x, x), mean_distance(y, y)
    if unbiased:
        # The distance of a point to itself is exactly 0.
        within_x, within_y = (
            within * (len(points) / (len(points) - 1))
            for within, points in ((within_x, x), (within_y, y))
        )
    distance = 2 * mean_distance(x, y) - within_x - within_y
    return distance if unbiased else jnp.maximum(distance, 0)
