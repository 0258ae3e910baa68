"""How well samples hit the modes of a mixture, and how evenly."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kacjax._typing import Scalar
from kacjax._validation import check_positive
from kacjax.metrics.neighbors import Points, as_same_space, nearest_squares


class ModeStatistics(NamedTuple):
    r"""How samples hit the modes of a mixture.

    Attributes:
        median_distance: Median distance to the nearest mode.
        within_radius: Fraction of hits, the samples within the radius of their nearest mode.
        total_variation: Distance $\frac12 \sum_m |w_m - p_m|$ of shares from weights.
        covered: Number of modes with a hit.
        kl_divergence: Divergence $\sum_m p_m \log(p_m / w_m)$ of shares from weights.
        within_std: Standard deviation of the hits about the mean of their mode, NaN without two.
    """

    median_distance: Float[Array, ""]
    within_radius: Float[Array, ""]
    total_variation: Float[Array, ""]
    covered: Int[Array, ""]
    kl_divergence: Float[Array, ""]
    within_std: Float[Array, ""]


def mode_statistics(
    x: Points, modes: Points, radius: float = 0.01, *, weights: Any = None
) -> ModeStatistics:
    r"""Distances to the nearest mode, the width of the modes, and their balance.

    For $n$ samples of the mixture of $M$ modes itself the total variation is about
    $\sum_m \sqrt{p_m (1 - p_m) / 2 \pi n}$, and the divergence about $(M - 1) / 2n$. Errors are
    those of `energy_distance`, and numbers that must be positive.

    Source: A. Srivastava et al., *VEEGAN*, NeurIPS 2017; Z. Lin et al., *PacGAN*, NeurIPS 2018.

    Args:
        x: Samples, of shape `(num, *event)`.
        modes: Centers of the modes.
        radius: What counts as a hit.
        weights: Of the modes, as many positive numbers; equal by default.

    Example:
        >>> modes = np.array([[0.0, 0.0], [1.0, 0.0]])
        >>> kacjax.metrics.mode_statistics(modes[:1], modes).total_variation.item()
        0.5
    """
    check_positive("radius", radius)
    x, modes = as_same_space(x, modes, ("x", "modes"))
    weights = jnp.asarray(np.ones(len(modes)) if weights is None else weights, x.dtype)
    if weights.shape != (len(modes),):
        raise ValueError(f"weights must have shape ({len(modes)},), got {weights.shape}.")
    check_positive("weights", weights)
    return _statistics(x, modes, weights / jnp.sum(weights), radius)


@jax.jit
def _statistics(x: Array, modes: Array, expected: Array, radius: Scalar) -> ModeStatistics:
    square, index = (found[:, 0] for found in nearest_squares(x, modes, k=1))
    distance, num = jnp.sqrt(square), len(modes)
    hit = distance <= radius
    shares = jnp.bincount(index, length=num) / len(x)
    hits = jnp.bincount(index, weights=hit.astype(x.dtype), length=num)
    # One degree of freedom of each mode's hits goes to their mean.
    sums = jax.ops.segment_sum(jnp.where(hit[:, None], x, 0), index, num_segments=num)
    means = sums / jnp.maximum(hits, 1)[:, None]
    squares = jnp.sum(jnp.where(hit[:, None], x - means[index], 0) ** 2)
    freedom = jnp.sum(jnp.maximum(hits - 1, 0)) * x.shape[1]
    return ModeStatistics(
        median_distance=jnp.median(distance),
        within_radius=jnp.mean(hit),
        total_variation=jnp.sum(jnp.abs(shares - expected)) / 2,
        covered=jnp.sum(hits > 0),
        kl_divergence=jnp.sum(shares * jnp.log(jnp.where(shares > 0, shares, 1) / expected)),
        within_std=jnp.where(freedom > 0, jnp.sqrt(squares / jnp.maximum(freedom, 1)), jnp.nan),
    )
