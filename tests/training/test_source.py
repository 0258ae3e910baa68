"""What feeds a run: checks, and batches moved ahead of their use."""

import numpy as np
import pytest

from kacjax.training.source import AHEAD, check_batch, check_resident, prefetch

DATA = np.zeros((4, 2))


def test_types_of_training():
    source = check_resident(DATA, np.arange(4) % 3, classes=3)
    assert source.data.dtype == np.float32
    assert source.labels.dtype == np.int32
    assert check_resident(np.zeros((4, 2), np.uint8)).data.dtype == np.uint8
    data, labels = check_batch((DATA, np.arange(4)), 4)
    assert (data.dtype, labels.dtype) == (np.float32, np.int32)
    assert check_batch(DATA, 4)[1] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 2)),), "data must have shape .* and not be empty"),
        ((np.zeros(5),), "data must have shape"),
        ((np.array([[1.0, np.nan]]),), "data must be finite, got 1 NaN"),
        ((np.array([["a", "b"]]),), "data must be real numbers, got <U1"),
        ((DATA, np.zeros(3, int)), r"labels must be integers of shape \(4,\), got .* \(3,\)"),
        ((DATA, np.zeros(4)), "labels must be integers of shape .* got float64"),
        ((DATA, np.arange(4), 3), "labels must not be negative and below 3, got 0 to 3"),
        ((DATA, np.arange(4) - 1), "labels must not be negative, got -1 to 2"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_resident(*arguments)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (DATA, r"a batch must hold 3 data, got shape \(4, 2\)"),
        (np.zeros(3), r"data must have shape \(num, \*event\) .* got shape \(3,\)"),
        (np.zeros((3, 2), complex), "data must be real numbers, got complex128"),
        ((DATA[:3], np.arange(4)), r"labels must be integers of shape \(3,\), got .* \(4,\)"),
        ((DATA[:3], np.zeros(3)), "labels must be integers of shape .* got float64"),
        ((DATA[:3], np.arange(3) - 1), "labels must not be negative and below 3, got -1 to 1"),
        ((DATA[:3], np.arange(3) + 1), "labels must not be negative and below 3, got 1 to 3"),
        ((DATA[:3], np.arange(3), 0), "a batch must be data, or data and labels, got 3 parts"),
    ],
)
def test_bad_batches(batch, message):
    with pytest.raises(ValueError, match=message):
        check_batch(batch, 3, classes=3)


def test_prefetch_is_ahead_in_order_and_never_beyond():
    taken, used = [], []

    def batches():
        for i in range(6):
            taken.append(i)
            yield i

    for batch in prefetch(batches(), lambda i: 10 * i):
        used.append(batch)
        assert len(taken) == min(len(used) - 1 + AHEAD, 6)
    assert used == [0, 10, 20, 30, 40, 50]
    assert list(prefetch([], lambda i: i)) == []
