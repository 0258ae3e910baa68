"""Precision, recall, density and coverage: fidelity and diversity, told apart."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax.metrics.distances import (
    BLOCK,
    Points,
    as_same_space,
    centred,
    k_nearest_other,
    squares,
)


class ManifoldStatistics(NamedTuple):
    """What balls around data and around samples tell, each up to its k-th neighbour.

    Attributes:
        precision: Share of the samples in some ball of the data.
        recall: Share of the data in some ball of the samples.
        density: Mean number of balls of the data that a sample lies in, over k; 1 for equal laws,
            more where samples crowd.
        coverage: Share of the balls of the data that hold a sample.
    """

    precision: Float[Array, ""]
    recall: Float[Array, ""]
    density: Float[Array, ""]
    coverage: Float[Array, ""]


def manifold_statistics(x: Points, data: Points, neighbours: int = 5) -> ManifoldStatistics:
    r"""Whether samples look like data, and whether all data are met with.

    A ball around a point reaches to its k-th nearest neighbour in its own set. For equal laws and
    numbers $n$ the expected density is 1, and the expected coverage
    $1 - \prod_{i=1}^k \frac{n - i}{2n - i}$, about $1 - 2^{-k}$; precision and recall
    depend on the law. Precision rises with a few far outliers in the data, which have large balls;
    density and coverage do not. The values depend on the numbers of points: compare equal ones.

    Source: T. Kynkäänniemi et al., *Improved precision and recall metric for assessing generative
    models*, NeurIPS 2019 (with $k = 3$); M. F. Naeem et al., *Reliable fidelity and diversity
    metrics for generative models*, ICML 2020 (with $k = 5$).

    Args:
        x: Samples, or features of them.
        data: Real data, or their features.
        neighbours: The number $k$.

    Raises:
        ValueError: If the dimensions differ, or a set is not finite or has not more than
            `neighbours` points.
    """
    x, data = as_same_space(x, data, ("x", "data"), minimum=neighbours + 1)
    radius_x = k_nearest_other(x, neighbours)[0][:, -1]
    radius_data = k_nearest_other(data, neighbours)[0][:, -1]
    balls, closest = _count(x, data, radius_data)
    recalled, _ = _count(data, x, radius_x)
    return ManifoldStatistics(
        precision=jnp.mean(balls > 0),
        recall=jnp.mean(recalled > 0),
        density=jnp.mean(balls) / neighbours,
        coverage=jnp.mean(closest),
    )


@jax.jit
def _count(points: Array, centres: Array, radius: Array) -> tuple[Array, Array]:
    """For each point the number of balls that hold it; for each ball, whether it holds a point."""
    points, centres = centred(points, centres)

    def one(point):
        return squares(point, centres) <= radius**2

    # Blocks by hand: the second result is reduced over all points.
    def block(met, some):
        inside = jax.vmap(one)(some[0]) & some[1][:, None]
        return met | jnp.any(inside, axis=0), jnp.sum(inside, axis=1)

    missing = -len(points) % BLOCK
    blocks = jnp.pad(points, ((0, missing), (0, 0))).reshape(-1, BLOCK, points.shape[1])
    real = (jnp.arange(len(points) + missing) < len(points)).reshape(-1, BLOCK)
    met, balls = jax.lax.scan(block, jnp.zeros(len(centres), bool), (blocks, real))
    return balls.reshape(-1)[: len(points)], met
