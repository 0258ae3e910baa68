"""The classifier two-sample test against scikit-learn by hand, and its level at equal laws."""

from functools import partial

import jax
import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from kacjax import metrics
from kacjax.metrics.inference import numpy_generator
from tests.metrics.points import X, Y

KEY = jax.random.key(3)


def test_accuracy_and_tail_equal_folds_by_hand():
    x, y = X[:300], Y[:300]
    order = numpy_generator(KEY).permutation(600)
    pooled, labels = np.concatenate([x, y])[order], np.repeat([0, 1], 300)[order]
    hits = 0
    for train, held_out in StratifiedKFold(4).split(pooled, labels):
        # 21 is the largest odd number below the root of 450.
        fitted = KNeighborsClassifier(21).fit(pooled[train], labels[train])
        hits += np.sum(fitted.predict(pooled[held_out]) == labels[held_out])
    accuracy, p_value = metrics.classifier_two_sample_test(x, y, key=KEY, folds=4)
    assert accuracy == pytest.approx(hits / 600)
    tail = scipy.stats.binomtest(int(hits), 600, 0.5, alternative="greater").pvalue
    assert p_value == pytest.approx(tail, rel=1e-9)


@pytest.mark.long
def test_level_at_equal_laws():
    # 100 pairs of 100 normal points in the plane. At level 5% five rejections are expected, and
    # more than 20 have probability 3e-9.
    pairs = np.random.default_rng(0).normal(size=(100, 2, 100, 2))
    results = [metrics.classifier_two_sample_test(x, y, key=KEY) for x, y in pairs]
    assert sum(result.p_value < 0.05 for result in results) <= 20
    # The mean accuracy is a little below 1/2, since a point is missing from its own class.
    assert np.mean([result.accuracy for result in results]) == pytest.approx(0.5, abs=0.02)


def test_power_where_laws_differ_and_with_a_given_classifier():
    x, y = np.random.default_rng(1).normal(size=(2, 300, 3))
    test = partial(metrics.classifier_two_sample_test, key=KEY)
    assert test(x, y + 0.5).p_value < 1e-3
    assert test(x, y + 0.5, classifier=LogisticRegression()).p_value < 1e-6
    assert test(x, y + 9) == pytest.approx((1, 0), abs=1e-12)


def test_of_the_larger_set_as_many_count_as_the_other_holds():
    x, y = np.random.default_rng(2).normal(size=(2, 900, 2))
    chosen = numpy_generator(KEY).choice(900, 60, replace=False)
    for pair in ((x, y[:60]), (y[:60], x)):
        result = metrics.classifier_two_sample_test(*pair, key=KEY)
        # Of 120 points; all 960 would give 0.94 by guessing the larger set.
        assert result.accuracy == pytest.approx(0.5, abs=0.25)
        assert (120 * result.accuracy).is_integer()
    # It is a random part: that which the key draws is far away from the rest.
    moved = x.copy()
    moved[chosen] += 9
    result = metrics.classifier_two_sample_test(moved, y[:60], key=KEY)
    assert result == pytest.approx((1, 0), abs=1e-12)


def test_points_that_coincide_are_told_apart_by_their_numbers():
    """With ones of 10% and 90% the best accuracy is 0.9; the first in order would win: 1/2."""
    x, y = (np.arange(400)[:, None] % 10 < ones for ones in (1, 9))
    for pair in ((x, y), (y, x)):
        result = metrics.classifier_two_sample_test(*(a.astype(float) for a in pair), key=KEY)
        assert result.accuracy == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: metrics.classifier_two_sample_test(X, X, key=KEY, folds=1),
            "folds must be an integer",
        ),
        (lambda: metrics.classifier_two_sample_test(X[:3], X[:3], key=KEY), "at least 5 point"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
