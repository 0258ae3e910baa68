"""Confidence intervals of any metric by resampling: with replacement, or halves without."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from kacjax._validation import check_count

Metric = Callable[..., Any]


class Interval(NamedTuple):
    """A value with its confidence interval.

    Attributes:
        value: The metric of all points.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float


def bootstrap(
    metric: Metric,
    *samples: np.ndarray | Any,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The percentile interval of the bootstrap, which draws points with replacement.

    For metrics that are means, shares or quantiles over points: the share of hits, the mean
    confidence, the median distance. Not for metrics between the points of two sets: a resample
    holds points twice, at distance 0 of each other, and all its distances to other points are
    those of a smaller sample, so that energy, Fréchet and Wasserstein distances and nearest
    neighbours come out wrong: use `subsampling`.

    Source: B. Efron, R. J. Tibshirani, *An introduction to the bootstrap*, Chapman & Hall 1993,
    chapter 13.

    Args:
        metric: A function of as many arrays to a number.
        samples: Arrays whose first axis counts points; each is resampled on its own.
        resamples: How many times.
        level: Of confidence.
        seed: Of the draws.

    Raises:
        ValueError: If a sample has fewer than two points, or a number is out of its range.
    """
    value, replicates = _replicate(metric, samples, resamples, level, seed, replace=True)
    low, high = np.quantile(replicates, _tails(level))
    return Interval(value, float(low), float(high))


def subsampling(
    metric: Metric,
    *samples: np.ndarray | Any,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    r"""The interval from random halves without replacement, in which no point occurs twice.

    The difference between a mean over half of the points and that over all of them has the law that
    the error of the latter has, to first order (the jackknife that deletes half): no rescaling. The
    spread of the metric over halves, mirrored at the value, is the interval. The error of a metric
    that depends on the number of points (a Fréchet or an energy distance) has a mean too, larger
    for halves; it is taken out: the interval is for the metric's mean at this number of points, not
    for that of infinitely many. Compare intervals of equal numbers.

    At equal laws these distances are not of first order, and the interval is too wide there: it
    errs on the safe side.

    Source: J. Shao, C. F. J. Wu, *A general theory for jackknife variance estimation*, Annals of
    Statistics 17 (1989); D. N. Politis, J. P. Romano, M. Wolf, *Subsampling*, Springer 1999.

    Args:
        metric: A function of as many arrays to a number.
        samples: Arrays whose first axis counts points; each is halved on its own.
        resamples: How many times.
        level: Of confidence.
        seed: Of the draws.

    Raises:
        ValueError: If a sample has fewer than two points, or a number is out of its range.
    """
    value, replicates = _replicate(metric, samples, resamples, level, seed, replace=False)
    # An odd number has no halves: what the deletion of n - b points asks for.
    kept = np.mean([(len(sample) // 2) / len(sample) for sample in samples])
    spread = (replicates - replicates.mean()) * np.sqrt(kept / (1 - kept))
    low, high = np.quantile(spread, _tails(level))
    return Interval(value, value - float(high), value - float(low))


def _replicate(
    metric: Metric,
    samples: tuple[Any, ...],
    resamples: int,
    level: float,
    seed: int,
    *,
    replace: bool,
) -> tuple[float, np.ndarray]:
    """The metric of all points, and of every resample."""
    check_count("resamples", resamples, 2)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
    if not samples or min(map(len, samples)) < 2:
        raise ValueError(
            f"samples must have at least two points each, got {[len(s) for s in samples]}."
        )
    rng = np.random.default_rng(seed)

    def draw(sample: Any) -> Any:
        num = len(sample)
        return sample[rng.choice(num, num if replace else num // 2, replace=replace)]

    replicates = [float(metric(*map(draw, samples))) for _ in range(resamples)]
    return float(metric(*samples)), np.asarray(replicates)


def _tails(level: float) -> list[float]:
    return [(1 - level) / 2, (1 + level) / 2]
