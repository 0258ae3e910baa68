"""How well samples hit the modes of a mixture, and how evenly."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kacjax._typing import Scalar
from kacjax._validation import check_count, check_positive, is_concrete
from kacjax.metrics.distances import Points, as_points, check_points, nearest

Weights: TypeAlias = Sequence[float | int] | Float[Array, "..."] | Float[np.ndarray, "..."]


class ModeStatistics(NamedTuple):
    """Precision and coverage of samples from a mixture of narrow modes.

    Every sample is counted for the nearest mode; within the radius of it, it is a hit.

    Attributes:
        median_distance: Median distance to the nearest mode.
        within_radius: Fraction of hits, also called the share of high-quality samples.
        total_variation: Total variation distance of the share of each mode from its weight.
        covered: Number of modes with enough hits.
        kl_divergence: Kullback-Leibler divergence of the shares from the weights, in nats.
        within_std: Standard deviation of a component of the hits about the mean of their mode: the
            width of the modes. NaN where no mode has two hits.
    """

    median_distance: Float[Array, ""]
    within_radius: Float[Array, ""]
    total_variation: Float[Array, ""]
    covered: Int[Array, ""]
    kl_divergence: Float[Array, ""]
    within_std: Float[Array, ""]


def mode_statistics(
    x: Points,
    modes: Points,
    radius: float = 0.01,
    *,
    weights: Weights | None = None,
    min_hits: int = 1,
) -> ModeStatistics:
    r"""Distances to the nearest mode, the width of the modes, and their balance.

    A mode without samples shows in the total variation $\frac12 \sum_m |w_m - p_m|$ and in
    $\sum_m w_m \log(w_m / p_m)$, where a likelihood would not see it. For samples of the mixture
    itself the first is about $\sum_m \sqrt{p_m (1 - p_m) / 2 \pi n}$, the second $(M - 1) / 2n$.

    Source: the high-quality fraction and mode counts of A. Srivastava et al., *VEEGAN*, NeurIPS
    2017, and the divergence of Z. Lin et al., *PacGAN*, NeurIPS 2018.

    Args:
        x: Samples.
        modes: Centres of the modes.
        radius: What counts as a hit.
        weights: Of the modes, as many numbers, positive with sum 1; equal by default.
        min_hits: Hits that cover a mode.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, the radius or a weight
            is not positive, or the weights do not fit.
    """
    check_positive("radius", radius)
    check_count("min_hits", min_hits)
    check_points("modes", modes)
    expected = _check_weights(weights, len(modes))
    distance, index = nearest(x, modes, ("x", "modes"))
    return _statistics(as_points("x", x), distance, index, expected, radius, min_hits)


@jax.jit
def _statistics(
    x: Array, distance: Array, index: Array, expected: Array, radius: Scalar, min_hits: Scalar
) -> ModeStatistics:
    num = len(expected)
    shares = jnp.bincount(index, length=num) / len(x)
    hit = distance <= radius
    hits = jnp.bincount(index, weights=hit.astype(x.dtype), length=num)
    safe = jnp.where(shares > 0, shares, 1)
    return ModeStatistics(
        median_distance=jnp.median(distance),
        within_radius=jnp.mean(hit),
        total_variation=jnp.sum(jnp.abs(shares - expected)) / 2,
        covered=jnp.sum(hits >= min_hits),
        kl_divergence=jnp.sum(shares * jnp.log(safe / expected)),
        within_std=_within_std(x, index, hit, hits),
    )


def _within_std(x: Array, index: Array, hit: Array, hits: Array) -> Array:
    """Pooled over the modes; one degree of freedom of each goes to its mean."""
    kept = jnp.where(hit[:, None], x, 0)
    sums = jax.ops.segment_sum(kept, index, num_segments=len(hits))
    means = sums / jnp.maximum(hits, 1)[:, None]
    # Deviations first: squares of narrow modes far from the origin would cancel.
    squares = jnp.sum(jnp.where(hit[:, None], x - means[index], 0) ** 2)
    freedom = jnp.sum(jnp.maximum(hits - 1, 0)) * x.shape[1]
    return jnp.where(freedom > 0, jnp.sqrt(squares / jnp.maximum(freedom, 1)), jnp.nan)


def _check_weights(weights: Weights | None, num: int) -> Array:
    if weights is None:
        return jnp.full(num, 1 / num, jnp.result_type(float))
    if not isinstance(weights, jax.Array):
        weights = np.asarray(weights, float)
    if weights.shape != (num,):
        raise ValueError(f"weights must have shape ({num},), got {weights.shape}.")
    check_positive("weights", weights)
    if is_concrete(weights) and abs(float(np.sum(weights)) - 1) > 1e-4:
        raise ValueError(f"weights must have the sum 1, got {float(np.sum(weights))}.")
    return jnp.asarray(weights, jnp.result_type(float))
