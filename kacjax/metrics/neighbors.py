"""Nearest neighbors: whether samples look like data, and whether they are copies."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from kacjax._validation import check_count, check_positive, is_concrete

Points: TypeAlias = Num[Array, "..."] | Num[np.ndarray, "..."] | Sequence[Any]
"""Points along the first axis, in JAX, NumPy or as lists; events of any shape are flattened."""


def as_same_space(
    x: Points, y: Points, names: tuple[str, str] = ("x", "y"), minimum: int = 1
) -> tuple[Float[Array, "num dim"], Float[Array, "others dim"]]:
    """Both sets as rows, in the working precision; raises a `ValueError` unless that can be."""

    def rows(name: str, x: Points) -> Array:
        x = x if isinstance(x, jax.Array) else np.asarray(x)
        if x.ndim < 2:
            raise ValueError(f"{name} must hold points along its first axis, got shape {x.shape}.")
        if not x.size or len(x) < minimum:
            raise ValueError(f"{name} must hold at least {minimum} point(s), got shape {x.shape}.")
        x = jnp.asarray(x, jnp.result_type(float)).reshape(len(x), -1)
        if is_concrete(x) and not np.all(np.isfinite(x)):
            raise ValueError(f"{name} must be finite, got NaN or infinite values.")
        return x

    first, second = rows(names[0], x), rows(names[1], y)
    if first.shape[1] != second.shape[1]:
        dims = f"{first.shape[1]} and {second.shape[1]}"
        raise ValueError(f"{names[0]} and {names[1]} must be of one dimension, got {dims}.")
    return first, second


def over_rows(function: Callable[..., Any], *rows: Array) -> Any:
    """`jax.vmap(function)(*rows)`, 256 rows at a time: memory stays linear."""
    return jax.lax.map(lambda row: function(*row), rows, batch_size=256)


def squares(point: Float[Array, " dim"], y: Float[Array, "num dim"]) -> Float[Array, " num"]:
    """Squared distances of one point to many."""
    # Not from inner products: nearby points far from the origin would lose all digits.
    return jnp.sum((point[None, :] - y) ** 2, axis=-1)


def root(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The square root, with derivative 0 at 0."""
    apart = square > 0
    return jnp.where(apart, jnp.sqrt(jnp.where(apart, square, 1)), 0)


def rounded_up(square: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """A bound that equal squares keep, however their sums were rounded; 0 stays 0."""
    return square * (1 + 8 * jnp.finfo(square.dtype).eps)


@jax.jit(static_argnames=("k", "skip_own"))
def nearest_squares(
    x: Float[Array, "num dim"], y: Float[Array, "others dim"], *, k: int, skip_own: bool = False
) -> tuple[Float[Array, "num k"], Int[Array, "num k"]]:
    """Squared distances to the nearest points of `y`, rising, and their rows (not one's own)."""

    def one(row, point):
        square = squares(point, y)
        if skip_own:
            square = jnp.where(jnp.arange(len(y)) == row, jnp.inf, square)
        least, index = jax.lax.top_k(-square, k)
        return -least, index

    return over_rows(one, jnp.arange(len(x)), x)


class Neighbors(NamedTuple):
    """The nearest training data of samples, nearest first: distances, and rows of the data."""

    distance: Float[Array, "num k"]
    index: Int[Array, "num k"]


def nearest_neighbors(x: Points, train: Points, k: int = 1) -> Neighbors:
    """The `k` training data nearest to each sample.

    Errors are those of `energy_distance`, and a `k` out of range.

    Example:
        >>> kacjax.metrics.nearest_neighbors([[0.9]], [[0.0], [1.0], [5.0]], k=2).index.tolist()
        [[1, 0]]
    """
    x, train = as_same_space(x, train, ("x", "train"))
    check_count("k", k)
    if k > len(train):
        raise ValueError(f"k must be at most {len(train)}, the number of training data, got {k}.")
    square, index = nearest_squares(x, train, k=k)
    return Neighbors(root(square), index)


class PRDC(NamedTuple):
    """Precision, recall, density and coverage, by balls up to the k-th neighbor.

    Attributes:
        precision: Share of the samples in some ball of the data.
        recall: Share of the data in some ball of the samples.
        density: Mean number of balls of the data that a sample lies in, over k.
        coverage: Share of the balls of the data that hold a sample.
    """

    precision: Float[Array, ""]
    recall: Float[Array, ""]
    density: Float[Array, ""]
    coverage: Float[Array, ""]


def prdc(x: Points, data: Points, k: int = 5) -> PRDC:
    r"""Precision, recall, density and coverage: fidelity and diversity, told apart.

    A ball around a point reaches to its k-th nearest neighbor in its own set. For equal laws and
    numbers $n$ the expected density is 1, and the expected coverage
    $1 - \prod_{i=1}^k \frac{n - i}{2n - i}$, about $1 - 2^{-k}$. Far outliers in the data raise
    precision, not coverage. Compare equal numbers of points. Errors are as in `energy_distance`.

    Source: T. Kynkäänniemi et al., *Improved precision and recall metric*, NeurIPS 2019 (k = 3);
    M. F. Naeem et al., *Reliable fidelity and diversity metrics*, ICML 2020 (k = 5).

    Args:
        x: Samples, or features of them, of shape `(num, *event)`.
        data: Real data, or their features.
        k: Which neighbor a ball reaches to; fewer than there are points in each set.

    Example:
        >>> data = jax.random.normal(jax.random.key(0), (50, 2))
        >>> kacjax.metrics.prdc(data, data).coverage.item()
        1.0
    """
    check_count("k", k)
    return _prdc(*as_same_space(x, data, ("x", "data"), minimum=k + 1), k=k)


@jax.jit(static_argnames="k")
def _prdc(x: Array, data: Array, *, k: int) -> PRDC:
    within = (nearest_squares(points, points, k=k, skip_own=True)[0] for points in (x, data))
    radius_x, radius_data = (rounded_up(square[:, -1]) for square in within)

    def met(point, radius):
        square = squares(point, x)
        return jnp.any(square <= radius_x), jnp.any(square <= radius)

    balls = over_rows(lambda point: jnp.sum(squares(point, data) <= radius_data), x)
    recalled, covered = map(jnp.mean, over_rows(met, data, radius_data))
    return PRDC(jnp.mean(balls > 0), recalled, jnp.mean(balls) / k, covered)


def two_sample_accuracy(x: Points, y: Points) -> Float[Array, ""]:
    """Leave-one-out accuracy of the 1-nearest-neighbor classifier that tells `x` from `y`.

    1/2 for samples of one law, 1 where they separate, below 1/2 where one set copies the other.
    It is the mean of the accuracies on `x` and on `y`. Nearest points at one distance share a vote.
    Arguments and errors are those of `energy_distance`.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017.

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

    About 1 for samples as new as unseen data; towards 0 for copies of the training data. Errors are
    those of `energy_distance`, and `held_out` data that are in `train`.

    Source: C. Meehan, K. Chaudhuri, S. Dasgupta, *A non-parametric test to detect data-copying in
    generative models*, AISTATS 2020, with means in place of ranks.

    Args:
        x: Samples, of shape `(num, *event)`.
        train: Training data.
        held_out: Data of the same law that were not trained on.

    Example:
        >>> train, held_out = [[0.0], [1.0]], [[0.5], [1.5]]
        >>> kacjax.metrics.memorization_ratio([[0.25], [1.25]], train, held_out).item()
        0.5
    """
    expected = jnp.mean(_to_train("held_out", held_out, train))
    check_positive("held_out must not lie in train: its mean distance", expected)
    return jnp.mean(_to_train("x", x, train)) / expected


def memorized_share(
    x: Points, train: Points, held_out: Points, quantile: float = 0.05
) -> Float[Array, ""]:
    """Share of the samples that lie closer to the training data than held-out data hardly ever do.

    A sample counts if its distance to the nearest training datum is below the `quantile` of those
    of held-out data. About `quantile` for samples as new as unseen data; the share of copies where
    some are, which a mean would hide. Source and arguments are those of `memorization_ratio`.

    Example:
        >>> train, held_out = [[0.0], [1.0]], [[0.5], [1.5]]
        >>> kacjax.metrics.memorized_share([[0.0], [3.0]], train, held_out).item()
        0.5
    """
    if not 0 < quantile < 1:
        raise ValueError(f"quantile must lie between 0 and 1, got {quantile}.")
    threshold = jnp.quantile(_to_train("held_out", held_out, train), quantile)
    check_positive("held_out must not lie in train: the quantile of its distances", threshold)
    return jnp.mean(_to_train("x", x, train) < threshold)


def _to_train(name: str, x: Points, train: Points) -> Float[Array, " num"]:
    x, train = as_same_space(x, train, (name, "train"))
    return root(nearest_squares(x, train, k=1)[0][:, 0])
