"""What nearest neighbours tell: whether samples look like data, and whether they are copies."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax.metrics.distances import Points, as_points, nearest, nearest_other


def two_sample_accuracy(x: Points, y: Points) -> Float[Array, ""]:
    """Leave-one-out accuracy of the 1-nearest-neighbour classifier that tells `x` from `y`.

    1/2 for samples of one law, 1 where they separate, below 1/2 where one set copies the other.
    The sets must be of one size, or the value at equal laws would not be 1/2.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017.

    Raises:
        ValueError: If the shapes differ, or a set is empty or not finite.
    """
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}.")
    pooled = jnp.concatenate([as_points("x", x), as_points("y", y)])
    own = jnp.arange(len(pooled)) < len(x)
    _, neighbour = nearest_other(pooled)
    return jnp.mean(own[neighbour] == own)


def memorisation_ratio(x: Points, train: Points, held_out: Points) -> Float[Array, ""]:
    """Mean distance of samples to the nearest training datum, over that of held-out data.

    About 1 for samples as new as unseen data; towards 0 for copies of the training data.

    Source: the data-copying test of C. Meehan, K. Chaudhuri, S. Dasgupta, *A non-parametric test to
    detect data-copying in generative models*, AISTATS 2020, with means in place of ranks.

    Raises:
        ValueError: If the dimensions differ, or a set is empty or not finite.
    """
    return jnp.mean(nearest(x, train)[0]) / jnp.mean(nearest(held_out, train)[0])
