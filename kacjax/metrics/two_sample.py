"""The classifier two-sample test, by scikit-learn."""

from typing import Any, NamedTuple

import numpy as np
import scipy.special

from kacjax._optional import require
from kacjax._typing import Key
from kacjax._validation import check_count
from kacjax.metrics.distances import Points, as_same_space
from kacjax.metrics.resampling import numpy_generator


class ClassifierTest(NamedTuple):
    """Whether a classifier can tell two samples apart.

    Attributes:
        accuracy: Its cross-validated accuracy, 1/2 for samples of one law.
        p_value: Probability of such an accuracy, or a higher one, at equal laws.

    Example:
        >>> accuracy, p_value = kacjax.metrics.ClassifierTest(0.5, 0.5)
    """

    accuracy: float
    p_value: float


def classifier_two_sample_test(
    x: Points,
    y: Points,
    *,
    key: Key,
    classifier: Any | None = None,
    folds: int = 5,
) -> ClassifierTest:
    r"""Tests whether two samples have one law by how well a classifier tells them apart.

    Each point is classified by a classifier that was trained on the other folds. Were the hits
    independent, their number would be binomial at equal laws; the p-value is that tail. Folds share
    training data, so that it is approximate: in the tests of this library, with the default
    classifier, a test of level 5% rejects equal laws no more often than that.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017.

    Args:
        x: Samples, of shape `(num, *event)`.
        y: As many samples to compare with.
        key: Random key of the folds, and of the choice among points at equal distances.
        classifier: Any scikit-learn classifier, which is cloned; by default that of
            $\sqrt n$ nearest neighbors, $n$ being the number of training points.
        folds: Of the cross-validation.

    Raises:
        ImportError: If scikit-learn is missing: `pip install "kacjax[metrics]"`.
        ValueError: If the numbers or dimensions differ, there are fewer points than folds, or a set
            is not finite.

    Example:
        >>> x = np.arange(20.0)[:, None]
        >>> kacjax.metrics.classifier_two_sample_test(x, x + 50, key=jax.random.key(0)).accuracy
        1.0
    """
    selection = require("sklearn.model_selection", "metrics")
    check_count("folds", folds, 2)
    if len(x) != len(y):
        raise ValueError(f"x and y must have one number of points, got {len(x)} and {len(y)}.")
    rng = numpy_generator(key)
    # Among points at equal distances a classifier may choose by their order.
    order = rng.permutation(2 * len(x))
    pooled = np.concatenate([np.asarray(a) for a in as_same_space(x, y, minimum=folds)])[order]
    labels = np.repeat([0, 1], len(x))[order]
    if classifier is None:
        # An odd number has no ties.
        nearest = int(np.sqrt(len(pooled) * (folds - 1) / folds))
        neighbors = require("sklearn.neighbors", "metrics")
        classifier = neighbors.KNeighborsClassifier(nearest - (nearest + 1) % 2)
    split = selection.StratifiedKFold(folds)
    predicted = selection.cross_val_predict(classifier, pooled, labels, cv=split)
    hits = int(np.sum(predicted == labels))
    # The probability of at least so many hits.
    tail = scipy.special.bdtrc(hits - 1, len(pooled), 0.5)
    return ClassifierTest(hits / len(pooled), float(tail))
