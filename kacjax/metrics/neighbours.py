"""What nearest neighbours tell: whether samples look like data, and whether they are copies."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kacjax.metrics.distances import Points, as_points, k_nearest, nearest, nearest_other


class Neighbours(NamedTuple):
    """The nearest training data of samples, nearest first.

    Attributes:
        distance: Distances, rising.
        index: Rows of the training data.
    """

    distance: Float[Array, "num k"]
    index: Int[Array, "num k"]


def nearest_neighbours(x: Points, train: Points, k: int = 1) -> Neighbours:
    """The `k` training data nearest to each sample; `plots.neighbours_figure` shows them.

    Args:
        x: Samples.
        train: Training data.
        k: How many, at most all of them.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or `k` is out of range.
    """
    return Neighbours(*k_nearest(x, train, k, ("x", "train")))


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
    return jnp.mean(_to_train("x", x, train)) / jnp.mean(_to_train("held_out", held_out, train))


def memorised_share(
    x: Points, train: Points, held_out: Points, quantile: float = 0.05
) -> Float[Array, ""]:
    r"""Share of the samples that lie closer to the training data than held-out data hardly ever do.

    A sample counts if its distance to the nearest training datum is below the `quantile` of those
    of held-out data. About `quantile` for samples as new as unseen data; the share of copies where
    some are, which a mean would hide.

    Source: the data-copying test of C. Meehan, K. Chaudhuri, S. Dasgupta, *A non-parametric test to
    detect data-copying in generative models*, AISTATS 2020, with one quantile in place of ranks.

    Args:
        x: Samples.
        train: Training data.
        held_out: Data of the same law that were not trained on.
        quantile: Between 0 and 1.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or the quantile is not
            between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile}.")
    threshold = jnp.quantile(_to_train("held_out", held_out, train), quantile)
    return jnp.mean(_to_train("x", x, train) < threshold)


def _to_train(name: str, x: Points, train: Points) -> Float[Array, " num"]:
    return nearest(x, train, (name, "train"))[0]
