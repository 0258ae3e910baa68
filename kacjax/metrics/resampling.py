"""Confidence intervals of any metric by resampling: with replacement, or halves without."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from kacjax._typing import Key
from kacjax._validation import check_count

Metric: TypeAlias = Callable[..., Any]


class Interval(NamedTuple):
    """A value with its confidence interval.

    Attributes:
        value: The metric of all points.
        low: Lower end.
        high: Upper end.

    Example:
        >>> value, low, high = kacjax.metrics.Interval(0.5, 0.4, 0.6)
    """

    value: float
    low: float
    high: float


def bootstrap(
    metric: Metric, *samples: Any, key: Key, resamples: int = 200, level: float = 0.95
) -> Interval:
    """The percentile interval of the bootstrap, which draws points with replacement.

    For metrics that are means, shares or quantiles over points. Not for metrics between points,
    such as energy, Fréchet and Wasserstein distances and nearest neighbors: a resample holds
    points twice, at distance 0 of each other. Use `subsampling` for these. There is a warning if
    the interval does not hold the value.

    Source: B. Efron, R. J. Tibshirani, *An introduction to the bootstrap*, Chapman & Hall 1993,
    chapter 13.

    Args:
        metric: A function of as many NumPy arrays to a number.
        samples: Arrays whose first axis counts points; each is resampled on its own.
        key: Random key of the draws.
        resamples: How many times.
        level: Of confidence.

    Raises:
        ValueError: If a sample has fewer than two points, or a number is out of its range.

    Example:
        >>> hits = np.arange(100) < 90
        >>> interval = kacjax.metrics.bootstrap(np.mean, hits, key=jax.random.key(0))
        >>> interval.value, interval.low < 0.9 < interval.high
        (0.9, True)
    """
    value, replicates = _replicate(metric, samples, key, resamples, level, replace=True)
    low, high = map(float, np.quantile(replicates, _tails(level)))
    if not low <= value <= high:
        warnings.warn(
            f"The bootstrap's interval, {low} to {high}, does not hold the value {value} itself: "
            "the metric seems to compare points with each other; use subsampling.",
            RuntimeWarning,
            stacklevel=2,
        )
    return Interval(value, low, high)


def subsampling(
    metric: Metric, *samples: Any, key: Key, resamples: int = 200, level: float = 0.95
) -> Interval:
    """The interval from random halves without replacement, in which no point occurs twice.

    The spread of the metric over halves about their mean, mirrored at the value: to first order
    the error of the metric of all points has that law (the jackknife that deletes half). The
    interval is for the metric's mean at this number of points: compare equal numbers. Where two
    laws are equal, distances between them are not of first order, and the interval is too wide.

    Source: J. Shao, C. F. J. Wu, *A general theory for jackknife variance estimation*, Annals of
    Statistics 17 (1989); D. N. Politis, J. P. Romano, M. Wolf, *Subsampling*, Springer 1999.

    Args:
        metric: As the other arguments, those of `bootstrap`.
        samples: Arrays whose first axis counts points; each is halved on its own.
        key: Random key of the draws.
        resamples: How many times.
        level: Of confidence.

    Raises:
        ValueError: As `bootstrap`.

    Example:
        >>> energy, x = kacjax.metrics.energy_distance, np.zeros((20, 1))
        >>> kacjax.metrics.subsampling(energy, x, x + 1, key=jax.random.key(0), resamples=9)
        Interval(value=2.0, low=2.0, high=2.0)
    """
    value, replicates = _replicate(metric, samples, key, resamples, level, replace=False)
    # An odd number has no halves: what the deletion of n - b points asks for.
    kept = np.mean([(len(sample) // 2) / len(sample) for sample in samples])
    spread = (replicates - replicates.mean()) * np.sqrt(kept / (1 - kept))
    low, high = np.quantile(spread, _tails(level))
    return Interval(value, value - float(high), value - float(low))


def numpy_generator(key: Key) -> np.random.Generator:
    """NumPy's generator of a key, for what runs outside of JAX."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _replicate(
    metric: Metric, samples: tuple, key: Key, resamples: int, level: float, *, replace: bool
) -> tuple[float, np.ndarray]:
    """The metric of all points, and of every resample."""
    check_count("resamples", resamples, 2)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
    if not samples or min(map(len, samples)) < 2:
        raise ValueError(
            f"samples must have at least two points each, got {[len(s) for s in samples]}."
        )
    arrays = [np.asarray(sample) for sample in samples]
    rng = numpy_generator(key)

    def draw(sample: np.ndarray) -> np.ndarray:
        num = len(sample)
        return sample[rng.choice(num, num if replace else num // 2, replace=replace)]

    replicates = [float(metric(*map(draw, arrays))) for _ in range(resamples)]
    return float(metric(*arrays)), np.asarray(replicates)


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
