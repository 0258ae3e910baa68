"""How well samples hit the modes of a mixture, and how evenly."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._validation import check_positive
from kacjax.metrics.distances import Points, nearest


class ModeStatistics(NamedTuple):
    """Precision and coverage of samples from a mixture of narrow modes.

    Attributes:
        median_distance: Median distance to the nearest mode.
        within_radius: Fraction of the samples within the radius of a mode.
        total_variation: Total variation distance of the share of each mode, every sample counted
            for the nearest, from the uniform weights.
    """

    median_distance: Float[Array, ""]
    within_radius: Float[Array, ""]
    total_variation: Float[Array, ""]


def mode_statistics(x: Points, modes: Points, radius: float = 0.01) -> ModeStatistics:
    r"""Distances to the nearest mode and the balance of the modes.

    A mode without samples shows in the total variation $\frac12 \sum_m |w_m - 1/M|$, where a
    likelihood would not see it.

    Source: the high-quality fraction and mode counts of A. Srivastava et al., *VEEGAN*, NeurIPS
    2017, with weights in place of a count.

    Args:
        x: Samples.
        modes: Centres of the modes, equally likely.
        radius: What counts as a hit.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or the radius is not
            positive.
    """
    check_positive("radius", radius)
    distance, index = nearest(x, modes)
    weights = jnp.bincount(index, length=len(modes)) / len(x)
    return ModeStatistics(
        median_distance=jnp.median(distance),
        within_radius=jnp.mean(distance <= radius),
        total_variation=jnp.sum(jnp.abs(weights - 1 / len(modes))) / 2,
    )
