"""The classifier two-sample test."""

from typing import Any, NamedTuple

import numpy as np
import scipy.stats
from sklearn.base import ClassifierMixin, clone
from sklearn.model_selection import StratifiedKFold, cross_val_predict, permutation_test_score
from sklearn.neighbors import KNeighborsClassifier

from kacjax._validation import check_count
from kacjax.metrics.distances import Points, as_same_space


class ClassifierTest(NamedTuple):
    """Whether a classifier can tell two samples apart.

    Attributes:
        accuracy: Its cross-validated accuracy, 1/2 for samples of one law.
        p_value: Probability of such an accuracy, or a higher one, at equal laws.
    """

    accuracy: float
    p_value: float


def classifier_two_sample_test(
    x: Points,
    y: Points,
    *,
    classifier: ClassifierMixin | Any | None = None,
    folds: int = 5,
    permutations: int = 0,
    seed: int = 0,
) -> ClassifierTest:
    r"""Tests whether two samples have one law by how well a classifier tells them apart.

    Each point is classified by a classifier that was trained on the other folds. Were the hits
    independent, their number would be binomial at equal laws; by default the p-value is that tail.
    Predictions of one fold share a classifier and folds share training data, so that the value is
    approximate: in the tests of this library, which use the default classifier, a test of level 5%
    rejects equal laws no more often than that. With `permutations` the labels are permuted so many
    times, each at the price of a cross-validation, and the p-value is valid for any classifier.

    Source: D. Lopez-Paz, M. Oquab, *Revisiting classifier two-sample tests*, ICLR 2017; M. Ojala,
    G. Garriga, *Permutation tests for studying classifier performance*, JMLR 11 (2010).

    Args:
        x: Samples.
        y: As many samples to compare with.
        classifier: Any scikit-learn classifier, which is cloned; by default that of
            $\sqrt n$ nearest neighbours, $n$ being the number of training points.
        folds: Of the cross-validation.
        permutations: Of the labels; 0 for the binomial tail.
        seed: Of the folds and permutations.

    Raises:
        ValueError: If the shapes differ, there are fewer points than folds, or a set is not finite.
    """
    check_count("folds", folds, 2)
    check_count("permutations", permutations, 0)
    if x.shape != y.shape:
        raise ValueError(f"x and y must have one shape, got {x.shape} and {y.shape}.")
    pooled = np.concatenate([np.asarray(a) for a in as_same_space(x, y, minimum=folds)])
    labels = np.repeat([0, 1], len(x))
    if classifier is None:
        # An odd number has no ties.
        root = int(np.sqrt(len(pooled) * (folds - 1) / folds))
        classifier = KNeighborsClassifier(root - (root + 1) % 2)
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    if permutations:
        accuracy, _, p_value = permutation_test_score(
            clone(classifier),
            pooled,
            labels,
            cv=split,
            n_permutations=permutations,
            random_state=seed,
        )
        return ClassifierTest(float(accuracy), float(p_value))
    predicted = cross_val_predict(clone(classifier), pooled, labels, cv=split)
    hits = int(np.sum(predicted == labels))
    tail = scipy.stats.binom.sf(hits - 1, len(pooled), 0.5)
    return ClassifierTest(hits / len(pooled), float(tail))
