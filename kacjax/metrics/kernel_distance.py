"""The kernel distance of features, known with Inception's features as KID."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import check_count
from kacjax.metrics.distances import BLOCK, Points, as_same_space


class KernelDistance(NamedTuple):
    """The kernel distance over random subsets.

    Attributes:
        mean: The estimate; it has no bias, and is negative about every other time at equal laws.
        standard_deviation: Of one subset. Subsets overlap, so that the error of the mean is not
            this over the root of their number.
    """

    mean: Float[Array, ""]
    standard_deviation: Float[Array, ""]


def kernel_distance(
    x_features: Points,
    y_features: Points,
    key: Key,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    r"""The squared maximum mean discrepancy with the kernel $(x \cdot y / d + 1)^3$, unbiased.

    It compares means, covariances and third moments of the features, and unlike the Fréchet
    distance has no bias that depends on the number of samples. It is estimated on random subsets
    without replacement, and averaged.

    Source: M. Bińkowski, D. J. Sutherland, M. Arbel, A. Gretton, *Demystifying MMD GANs*, ICLR
    2018.

    Args:
        x_features: Features of samples, by any function.
        y_features: Features of data, by the same function.
        key: Random key of the subsets.
        subsets: How many.
        subset_size: Points of each set in a subset.

    Raises:
        ValueError: If the dimensions differ, a set has fewer points than a subset or is not finite,
            or a number is out of its range.
    """
    check_count("subsets", subsets)
    check_count("subset_size", subset_size, 2)
    x, y = as_same_space(x_features, y_features, ("x_features", "y_features"), minimum=subset_size)
    values = _on_subsets(x, y, jax.random.split(key, subsets), subset_size)
    return KernelDistance(jnp.mean(values), jnp.std(values))


def polynomial_discrepancy(x: Points, y: Points) -> Float[Array, ""]:
    """The unbiased estimate from all pairs of all points at once.

    Raises:
        ValueError: If the dimensions differ, or a set is not finite or has one point only.
    """
    return _discrepancy(*as_same_space(x, y, minimum=2))


@jax.jit(static_argnames="size")
def _on_subsets(x: Array, y: Array, keys: Array, size: int) -> Array:
    def one(key):
        rows = (
            jax.random.choice(k, len(points), (size,), replace=False)
            for k, points in zip(jax.random.split(key), (x, y), strict=True)
        )
        return _discrepancy(*(points[r] for points, r in zip((x, y), rows, strict=True)))

    return jax.lax.map(one, keys)


@jax.jit
def _discrepancy(x: Array, y: Array) -> Array:
    within = (
        (len(a) * _mean_kernel(a, a) - jnp.mean(_kernel(jnp.sum(a * a, axis=-1), a))) / (len(a) - 1)
        for a in (x, y)
    )
    return sum(within) - 2 * _mean_kernel(x, y)


def _mean_kernel(x: Array, y: Array) -> Array:
    def one(point):
        return jnp.mean(_kernel(jnp.matmul(y, point, precision=jax.lax.Precision.HIGHEST), y))

    return jnp.mean(jax.lax.map(one, x, batch_size=BLOCK))


def _kernel(product: Array, points: Array) -> Array:
    return (product / points.shape[1] + 1) ** 3
