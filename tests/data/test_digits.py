"""The digits are whole and split once."""

import sys

import numpy as np
import pytest
import sklearn.datasets

from kacjax import data


def test_digits_are_split_without_loss():
    digits = data.load_digits()
    assert digits.train.shape == (1437, 64)
    assert digits.held_out.shape == (360, 64)
    assert digits.train.dtype == np.float32
    assert digits.train.min() == -1
    assert digits.train.max() == 1
    together = np.concatenate([digits.train, digits.held_out])
    original = sklearn.datasets.load_digits().data / 8 - 1
    np.testing.assert_array_equal(np.unique(together, axis=0), np.unique(original, axis=0))
    shares = np.bincount(digits.held_out_labels) / 360 - np.bincount(digits.train_labels) / 1437
    assert np.abs(shares).max() < 0.002
    np.testing.assert_array_equal(data.load_digits().held_out, digits.held_out)


def test_missing_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"sklearn.datasets .*kacjax\[metrics\]"):
        data.load_digits()
