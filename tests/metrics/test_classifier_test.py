"""The classifier two-sample test against scikit-learn by hand, and its level at equal laws."""

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from kacjax import metrics
from tests.metrics.points import RNG, X, Y


def test_accuracy_and_tail_equal_folds_by_hand():
    x, y = X[:300], Y[:300]
    pooled, labels = np.concatenate([x, y]), np.repeat([0, 1], 300)
    hits = 0
    for train, held_out in StratifiedKFold(4, shuffle=True, random_state=3).split(pooled, labels):
        # 21 is the largest odd number below the root of 450.
        fitted = KNeighborsClassifier(21).fit(pooled[train], labels[train])
        hits += np.sum(fitted.predict(pooled[held_out]) == labels[held_out])
    accuracy, p_value = metrics.classifier_two_sample_test(x, y, folds=4, seed=3)
    assert accuracy == pytest.approx(hits / 600)
    tail = scipy.stats.binomtest(int(hits), 600, 0.5, alternative="greater").pvalue
    assert p_value == pytest.approx(tail, rel=1e-9)


def test_level_at_equal_laws():
    # 100 pairs of 100 normal points in the plane. At level 5% five rejections are expected, and
    # more than 20 have probability 3e-9.
    pairs = RNG.normal(size=(100, 2, 100, 2))
    results = [metrics.classifier_two_sample_test(x, y) for x, y in pairs]
    assert sum(result.p_value < 0.05 for result in results) <= 20
    # The mean accuracy is a little below 1/2, since a point is missing from its own class.
    assert np.mean([result.accuracy for result in results]) == pytest.approx(0.5, abs=0.02)


def test_power_where_laws_differ_and_with_a_given_classifier():
    x, y = RNG.normal(size=(2, 300, 3))
    assert metrics.classifier_two_sample_test(x, y + 0.5).p_value < 1e-3
    result = metrics.classifier_two_sample_test(x, y + 0.5, classifier=LogisticRegression())
    assert result.p_value < 1e-6
    assert metrics.classifier_two_sample_test(x, y + 9) == pytest.approx((1, 0), abs=1e-12)


def test_permutation_p_value():
    x, y = RNG.normal(size=(2, 40, 2))
    test = metrics.classifier_two_sample_test
    # The smallest value that 19 permutations can give; at equal laws each of 20 is as probable.
    assert test(x, y + 5, permutations=19).p_value == pytest.approx(1 / 20)
    equal = test(x, y, permutations=19).p_value * 20
    assert equal == pytest.approx(round(equal))
    assert 1 <= equal <= 20


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.classifier_two_sample_test(X, Y), "one shape"),
        (lambda: metrics.classifier_two_sample_test(X, X, folds=1), "folds must be an integer"),
        (lambda: metrics.classifier_two_sample_test(X[:3], X[:3]), "at least 5 points"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
