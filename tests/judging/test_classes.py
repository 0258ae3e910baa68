"""The class judge on real, noisy and unbalanced digits."""

import numpy as np
import pytest

from experiments.judging.judge import ClassJudge
from kacjax import data
from tests.metrics.points import X


def test_class_judge_on_real_noisy_and_unbalanced_digits():
    digits = data.load_digits()
    judge = ClassJudge(digits.train, digits.train_labels)
    real = judge.statistics(digits.held_out)
    assert real.confidence > 0.9
    assert real.total_variation < 0.03
    predicted = judge.probabilities(digits.held_out).argmax(axis=1)
    assert np.mean(predicted == digits.held_out_labels) > 0.97
    counts = np.bincount(predicted, minlength=10) / 360
    shares = np.bincount(digits.train_labels) / len(digits.train_labels)
    assert real.total_variation == pytest.approx(np.abs(counts - shares).sum() / 2)

    noisy = digits.held_out + 0.5 * np.random.default_rng(0).normal(
        size=digits.held_out.shape
    ).astype(np.float32)
    assert judge.statistics(noisy).confidence < 0.85
    ones = digits.held_out[digits.held_out_labels == 1]
    assert judge.statistics(ones).total_variation == pytest.approx(0.9, abs=0.03)


def test_wrong_input_is_named():
    with pytest.raises(ValueError, match="NaN"):
        ClassJudge(X * np.float32(np.nan), np.arange(len(X)) % 2)
