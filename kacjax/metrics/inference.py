"""What is due to chance: intervals of any metric by resampling, and the classifier two-sample test."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy.special

from kacjax._optional import require
from kacjax._typing import Key
from kacjax._validation import check_count
from kacjax.metrics.neighbors import Points, as_same_space


class Interval(NamedTuple):
    """The metric of all points, and the ends of its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    metric: Callable, *samples: Any, key: Key, resamples: int = 200, level: float = 0.95
) -> Interval:
    """The percentile interval of the bootstrap, which draws points with replacement.

    For means, shares or quantiles over points. Distances and nearest neighbors are for
    `subsampling`: a resample holds points twice, at distance 0 of each other. There is a warning
    if the interval does not hold the value, and a `ValueError` for `kacjax.metrics` or one point.

    Source: B. Efron, R. J. Tibshirani, *An introduction to the bootstrap*, 1993, chapter 13.

    Args:
        metric: A function of as many NumPy arrays to a number.
        samples: Arrays whose first axis counts points; each is resampled on its own.
        key: Random key of the draws.
        resamples: How many times.
        level: Of confidence.

    Example:
        >>> hits = np.arange(100) < 90
        >>> interval = kacjax.metrics.bootstrap(np.mean, hits, key=jax.random.key(0))
        >>> interval.value, interval.low < 0.9 < interval.high
        (0.9, True)
    """
    own = getattr(metric, "func", metric)  # Of a partial.
    if getattr(own, "__module__", "").startswith("kacjax.metrics"):
        raise ValueError(f"metric must not be one of distances, got {own!r:.60}: use subsampling.")
    value, replicates, tails = _replicate(metric, samples, key, resamples, level, replace=True)
    low, high = map(float, np.quantile(replicates, tails))
    if not low <= value <= high:
        text = f"The interval {low} to {high} does not hold the value {value}: use subsampling."
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return Interval(value, low, high)


def subsampling(
    metric: Callable, *samples: Any, key: Key, resamples: int = 200, level: float = 0.95
) -> Interval:
    """The interval from random halves without replacement, in which no point occurs twice.

    The spread of the metric over halves about their mean, mirrored at the value: to first order
    the error of the metric of all points has that law (the jackknife that deletes half). The
    interval is for the metric's mean at this number of points, and too wide for distances between
    equal laws. Arguments and errors are those of `bootstrap`.

    Source: J. Shao, C. F. J. Wu, *A general theory for jackknife variance estimation*, 1989.

    Example:
        >>> energy, x = kacjax.metrics.energy_distance, np.zeros((20, 1))
        >>> kacjax.metrics.subsampling(energy, x, x + 1, key=jax.random.key(0), resamples=9)
        Interval(value=2.0, low=2.0, high=2.0)
    """
    value, replicates, tails = _replicate(metric, samples, key, resamples, level, replace=False)
    # An odd number has no halves: what the deletion of n - b points asks for.
    kept = np.mean([(len(sample) // 2) / len(sample) for sample in samples])
    spread = (replicates - replicates.mean()) * np.sqrt(kept / (1 - kept))
    low, high = np.quantile(spread, tails)
    return Interval(value, value - float(high), value - float(low))


def _replicate(
    metric: Callable, samples: tuple, key: Key, resamples: int, level: float, *, replace: bool
) -> tuple[float, np.ndarray, list[float]]:
    """The metric of all points, that of every resample, and the levels of the interval's ends."""
    check_count("resamples", resamples, 2)
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, got {level}.")
    if not samples or min(map(len, samples)) < 2:
        raise ValueError(f"samples must have two points or more, got {list(map(len, samples))}.")
    arrays = [np.asarray(sample) for sample in samples]
    choice = numpy_generator(key).choice

    def draw(sample: np.ndarray) -> np.ndarray:
        num = len(sample)
        return sample[choice(num, num if replace else num // 2, replace=replace)]

    replicates = [float(metric(*map(draw, arrays))) for _ in range(resamples)]
    return float(metric(*arrays)), np.asarray(replicates), [(1 - level) / 2, (1 + level) / 2]


class ClassifierTest(NamedTuple):
    """The cross-validated accuracy of a classifier, 1/2 for samples of one law, and its p-value."""

    accuracy: float
    p_value: float


def classifier_two_sample_test(
    x: Points, y: Points, *, key: Key, classifier: Any = None, folds: int = 5
) -> ClassifierTest:
    r"""Tests whether two samples have one law by how well a classifier tells them apart.

    Each point is classified by a classifier that was trained on the other folds; of the larger set
    as many count as the other holds. The p-value is a binomial tail, as if hits were independent.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017.

    Args:
        x: Samples, of shape `(num, *event)`.
        y: Samples to compare with; as many or not.
        key: Random key of that part, of the folds, and of the choice among equal distances.
        classifier: Of scikit-learn; by default that of $\sqrt n$ nearest of $n$ training points.
        folds: Of the cross-validation.

    Raises:
        ImportError: If scikit-learn is missing: `pip install "kacjax[metrics]"`.
        ValueError: As in `energy_distance`.

    Example:
        >>> x = np.arange(20.0)[:, None]
        >>> kacjax.metrics.classifier_two_sample_test(x, x + 50, key=jax.random.key(0)).accuracy
        1.0
    """
    selection = require("sklearn.model_selection", "metrics")
    check_count("folds", folds, 2)
    rng, sets = numpy_generator(key), [np.asarray(a) for a in as_same_space(x, y, minimum=folds)]
    size = min(map(len, sets))
    sets = [a if len(a) == size else a[rng.choice(len(a), size, replace=False)] for a in sets]
    # Among points at equal distances a classifier may choose by their order.
    order = rng.permutation(2 * size)
    pooled, labels = np.concatenate(sets)[order], np.repeat([0, 1], size)[order]
    if classifier is None:
        nearest = int(np.sqrt(len(pooled) * (folds - 1) / folds))
        neighbors = require("sklearn.neighbors", "metrics")
        # An odd number has no ties.
        classifier = neighbors.KNeighborsClassifier(nearest - (nearest + 1) % 2)
    split = selection.StratifiedKFold(folds)
    predicted = selection.cross_val_predict(classifier, pooled, labels, cv=split)
    hits = int(np.sum(predicted == labels))
    # The probability of at least so many hits.
    tail = scipy.special.bdtrc(hits - 1, len(pooled), 0.5)
    return ClassifierTest(hits / len(pooled), float(tail))


def numpy_generator(key: Key) -> np.random.Generator:
    """NumPy's generator of a key, for what runs outside of JAX."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())
