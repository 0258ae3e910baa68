"""What nearest neighbors tell: whether samples look like data, and whether they are copies."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kacjax._validation import check_count, check_positive
from kacjax.metrics.distances import (
    Points,
    as_same_space,
    check_neighbors,
    nearest_squares,
    over_rows,
    root,
    rounded_up,
    squares,
)


class Neighbors(NamedTuple):
    """The nearest training data of samples, nearest first.

    Attributes:
        distance: Distances, rising.
        index: Rows of the training data.

    Example:
        >>> kacjax.metrics.Neighbors(jnp.zeros((5, 2)), jnp.zeros((5, 2), int)).distance.shape
        (5, 2)
    """

    distance: Float[Array, "num k"]
    index: Int[Array, "num k"]


def nearest_neighbors(x: Points, train: Points, k: int = 1) -> Neighbors:
    """The `k` training data nearest to each sample; `plots.neighbors_figure` shows them.

    Args:
        x: Samples, of shape `(num, *event)`.
        train: Training data.
        k: How many, at most all of them.

    Returns:
        Distances and rows of the training data, each of shape `(num, k)`.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or `k` is out of range.

    Example:
        >>> kacjax.metrics.nearest_neighbors([[0.9]], [[0.0], [1.0], [5.0]], k=2).index.tolist()
        [[1, 0]]
    """
    x, train = as_same_space(x, train, ("x", "train"))
    check_neighbors(k, len(train))
    square, index = nearest_squares(x, train, k=k)
    return Neighbors(root(square), index)


class PRDC(NamedTuple):
    """Precision, recall, density and coverage, by balls up to the k-th neighbor.

    Attributes:
        precision: Share of the samples in some ball of the data.
        recall: Share of the data in some ball of the samples.
        density: Mean number of balls of the data that a sample lies in, over k; 1 for equal laws,
            more where samples crowd.
        coverage: Share of the balls of the data that hold a sample.

    Example:
        >>> kacjax.metrics.PRDC(jnp.ones(()), jnp.ones(()), jnp.ones(()), jnp.ones(()))._fields
        ('precision', 'recall', 'density', 'coverage')
    """

    precision: Float[Array, ""]
    recall: Float[Array, ""]
    density: Float[Array, ""]
    coverage: Float[Array, ""]


def prdc(x: Points, data: Points, k: int = 5) -> PRDC:
    r"""Precision, recall, density and coverage: fidelity and diversity, told apart.

    A ball around a point reaches to its k-th nearest neighbor in its own set. For equal laws and
    numbers $n$ the expected density is 1, and the expected coverage
    $1 - \prod_{i=1}^k \frac{n - i}{2n - i}$, about $1 - 2^{-k}$; precision and recall
    depend on the law. Precision rises with a few far outliers in the data, which have large balls;
    density and coverage do not. The values depend on the numbers of points: compare equal ones.

    Source: T. Kynkäänniemi et al., *Improved precision and recall metric for assessing generative
    models*, NeurIPS 2019 (with $k = 3$); M. F. Naeem et al., *Reliable fidelity and diversity
    metrics for generative models*, ICML 2020 (with $k = 5$).

    Args:
        x: Samples, or features of them, of shape `(num, *event)`.
        data: Real data, or their features.
        k: Which neighbor a ball reaches to.

    Raises:
        ValueError: If the dimensions differ, or a set is not finite or has not more than `k`
            points.

    Example:
        >>> data = jax.random.normal(jax.random.key(0), (50, 2))
        >>> kacjax.metrics.prdc(data, data).coverage.item()
        1.0
    """
    check_count("k", k)
    return _prdc(*as_same_space(x, data, ("x", "data"), minimum=k + 1), k=k)


@jax.jit(static_argnames="k")
def _prdc(x: Array, data: Array, *, k: int) -> PRDC:
    radius_x, radius_data = (
        rounded_up(nearest_squares(points, points, k=k, skip_own=True)[0][:, -1])
        for points in (x, data)
    )

    def met(point, radius):
        square = squares(point, x)
        return jnp.any(square <= radius_x), jnp.any(square <= radius)

    balls = over_rows(lambda point: jnp.sum(squares(point, data) <= radius_data), x)
    recalled, covered = over_rows(met, data, radius_data)
    return PRDC(
        precision=jnp.mean(balls > 0),
        recall=jnp.mean(recalled),
        density=jnp.mean(balls) / k,
        coverage=jnp.mean(covered),
    )


def two_sample_accuracy(x: Points, y: Points) -> Float[Array, ""]:
    """Leave-one-out accuracy of the 1-nearest-neighbor classifier that tells `x` from `y`.

    1/2 for samples of one law, 1 where they separate, below 1/2 where one set copies the other.
    The accuracy is the mean of those on `x` and on `y`, whose numbers may differ. Of several
    nearest points at one distance each has an equal vote.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017.

    Args:
        x: Samples, of shape `(num, *event)`.
        y: Samples to compare with.

    Raises:
        ValueError: If the dimensions differ, or a set is empty or not finite.

    Example:
        >>> kacjax.metrics.two_sample_accuracy([[0.0], [1.0]], [[8.0], [9.0]]).item()
        1.0
    """
    return _two_sample_accuracy(*as_same_space(x, y))


@jax.jit
def _two_sample_accuracy(x: Array, y: Array) -> Array:
    pooled = jnp.concatenate([x, y])
    rows = jnp.arange(len(pooled))

    def share_of_x(row, point):
        square = jnp.where(rows == row, jnp.inf, squares(point, pooled))
        return jnp.mean(rows < len(x), where=square <= rounded_up(jnp.min(square)))

    share = over_rows(share_of_x, rows, pooled)
    return (jnp.mean(share[: len(x)]) + 1 - jnp.mean(share[len(x) :])) / 2


def memorization_ratio(x: Points, train: Points, held_out: Points) -> Float[Array, ""]:
    """Mean distance of samples to the nearest training datum, over that of held-out data.

    About 1 for samples as new as unseen data; towards 0 for copies of the training data.

    Source: the data-copying test of C. Meehan, K. Chaudhuri, S. Dasgupta, *A non-parametric test to
    detect data-copying in generative models*, AISTATS 2020, with means in place of ranks.

    Args:
        x: Samples, of shape `(num, *event)`.
        train: Training data.
        held_out: Data of the same law that were not trained on.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or all held-out data
            are in the training data.

    Example:
        >>> train, held_out = [[0.0], [1.0]], [[0.5], [1.5]]
        >>> kacjax.metrics.memorization_ratio([[0.25], [1.25]], train, held_out).item()
        0.5
    """
    expected = jnp.mean(_to_train("held_out", held_out, train))
    check_positive("the mean distance of held_out to train", expected)
    return jnp.mean(_to_train("x", x, train)) / expected


def memorized_share(
    x: Points, train: Points, held_out: Points, quantile: float = 0.05
) -> Float[Array, ""]:
    r"""Share of the samples that lie closer to the training data than held-out data hardly ever do.

    A sample counts if its distance to the nearest training datum is below the `quantile` of those
    of held-out data. About `quantile` for samples as new as unseen data; the share of copies where
    some are, which a mean would hide.

    Source: as `memorization_ratio`, with one quantile in place of ranks.

    Args:
        x: Samples, of shape `(num, *event)`.
        train: Training data.
        held_out: Data of the same law that were not trained on.
        quantile: Between 0 and 1.

    Raises:
        ValueError: If the sets do not fit as in `memorization_ratio`, or the quantile not into (0, 1).

    Example:
        >>> train, held_out = [[0.0], [1.0]], [[0.5], [1.5]]
        >>> kacjax.metrics.memorized_share([[0.0], [3.0]], train, held_out).item()
        0.5
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile}.")
    threshold = jnp.quantile(_to_train("held_out", held_out, train), quantile)
    return jnp.mean(_to_train("x", x, train) < threshold)


def _to_train(name: str, x: Points, train: Points) -> Float[Array, " num"]:
    x, train = as_same_space(x, train, (name, "train"))
    return root(nearest_squares(x, train, k=1)[0][:, 0])
