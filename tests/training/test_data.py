"""What feeds a run: the stream of epochs, checks, and batches moved ahead of their use."""

import math

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import scipy.stats

from kacjax.training.data import AHEAD, check_batch, check_data, cursor_at, next_batch, prefetch

KEY = jax.random.key(4)
DATA = np.zeros((4, 2))
FALSE_ALARM = 1e-7


def stream(first, steps, batch_size, num, key=KEY, flip=False):
    """The rows of many steps, one after the other; those that are mirrored are negative."""
    # Both halves of an image know its row.
    images = np.arange(1, num + 1)[:, None, None, None] * np.array([1, -1])[:, None]
    source = check_data(images.astype(np.float32), flip=flip)
    source = jax.tree.map(jnp.asarray, source)

    def step(cursor, _):
        (data, _), cursor = next_batch(source, key, cursor, batch_size, flip)
        return cursor, data[:, 0, 0, 0]

    cursor = cursor_at(key, first, batch_size, num, flip)
    rows = jax.jit(lambda c: jax.lax.scan(step, c, length=steps)[1])(cursor)
    rows = np.asarray(rows).ravel()
    return (rows - np.sign(rows)).astype(int) if not flip else rows


def is_even(counts):
    """A chi-square test of equal frequencies, with the stated rate of false alarms."""
    return scipy.stats.chisquare(counts).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("num", "batch_size"), [(1, 5), (2, 3), (3, 8), (6, 6), (12, 4), (1437, 128), (6000, 512)]
)
def test_every_epoch_is_a_new_permutation(num, batch_size):
    epochs = 5
    steps = -(-epochs * num // batch_size)
    rows = stream(0, steps, batch_size, num)[: epochs * num].reshape(epochs, num)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(num), (epochs, 1)))
    if num > 12:
        # Two permutations agree in one place on average; in 20, with probability 1e-19.
        for one, other in ((0, 1), (1, 2), (0, 4)):
            assert np.sum(rows[one] == rows[other]) < 20
        assert np.sum(stream(0, 1, num, num, jax.random.key(5)) == rows[0]) < 20


@pytest.mark.long
@pytest.mark.parametrize(("num", "batch_size"), [(1437, 128), (7, 5), (5, 13), (8, 4)])
def test_batches_depend_on_the_step_alone(num, batch_size):
    """A stream that begins later is the rest of the one that began before, also in other cuts."""
    whole = stream(0, 40, batch_size, num)
    for first in (1, 11, 23):
        np.testing.assert_array_equal(
            stream(first, 40 - first, batch_size, num), whole[first * batch_size :]
        )
    np.testing.assert_array_equal(stream(0, 20, 2 * batch_size, num), whole)


def test_position_is_exact_after_billions_of_steps():
    step, batch_size, num = 2**31 - 20, 4096, 60_000
    cursor = cursor_at(KEY, step, batch_size, num)
    epoch, row = divmod(step * batch_size, num)
    assert (int(cursor.epoch), int(cursor.row)) == (epoch % 2**32, row)
    behind = -(step * batch_size) % num
    rows = stream(step, 31, batch_size, num)[behind : behind + num]
    np.testing.assert_array_equal(np.sort(rows), np.arange(num))


def test_all_orders_of_a_small_set_are_equally_frequent():
    # 20,000 epochs of 4 rows, 24 orders.
    orders = stream(0, 20_000, 4, 4).reshape(-1, 4)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(4)
    assert is_even(counts)


def test_half_of_the_images_are_mirrored_whole_and_the_same_in_every_cut():
    # 50,000 coins, 1,000 for each of 50 images and 50 for each epoch: each beyond 6.5 deviations
    # with probability 8e-11.
    rows = stream(0, 1000, 50, 50, flip=True)
    np.testing.assert_array_equal(stream(0, 2500, 20, 50, flip=True), rows)
    rows = rows.reshape(1000, 50)
    sign = np.take_along_axis(np.sign(rows), np.argsort(np.abs(rows), axis=1), axis=1)
    np.testing.assert_array_equal(np.sort(np.abs(rows)), np.tile(np.arange(50) + 1, (1000, 1)))
    assert abs(sign.sum()) < 6.5 * np.sqrt(sign.size)
    assert np.all(np.abs(sign.sum(axis=0)) < 6.5 * np.sqrt(1000))
    assert np.all(np.abs(sign.sum(axis=1)) < 6.5 * np.sqrt(50))
    assert np.all(np.abs(np.sum(sign[1:] * sign[:-1], axis=0)) < 6.5 * np.sqrt(1000))


def test_types_of_training():
    source = check_data(DATA, [0, 1, 2, 0], classes=3)
    assert source.data.dtype == np.float32
    assert source.labels.dtype == np.int32
    for kept in (np.uint8, np.float16, ml_dtypes.bfloat16):
        assert check_data(DATA.astype(kept)).data.dtype == kept


LABELS = np.arange(4)
PAIRS = [
    (DATA, LABELS),
    [DATA, LABELS],
    {"x": DATA, "y": LABELS},
    {"image": DATA, "label": LABELS.tolist()},
]


@pytest.mark.parametrize("pair", PAIRS)
def test_batches_in_the_forms_of_loaders(pair):
    data, labels = check_batch(pair, 4)
    np.testing.assert_array_equal(data, DATA)
    np.testing.assert_array_equal(labels, LABELS)
    assert (data.dtype, labels.dtype) == (np.float32, np.int32)


@pytest.mark.parametrize("batch", [DATA, (DATA,), (DATA, None), [DATA], {"image": DATA}])
def test_batches_without_labels(batch):
    assert check_batch(batch, 4).labels is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros((0, 2)),), "data must have shape .* and not be empty"),
        ((np.zeros(5),), "data must have shape"),
        ((np.array([[1.0, np.nan]]),), "data must be finite, got 1 NaN"),
        ((np.array([["a", "b"]]),), "data must hold floats, or bytes .* got <U1"),
        ((DATA.astype(complex),), "data must hold floats, or bytes .* got complex128"),
        ((DATA.astype(np.int64),), "got int64: scale them to floats yourself, or use astype"),
        ((DATA.astype(bool),), "got bool: scale them"),
        ((DATA + 1e300,), r"range of float32, got values up to 1e\+300"),
        ((DATA, np.zeros(3, int)), r"labels must be integers of shape \(4,\), got .* \(3,\)"),
        ((DATA, 1), r"labels must be integers of shape \(4,\), got .* \(\)"),
        ((DATA, np.zeros(4), 3), "labels must be integers of shape .* got float64"),
        ((DATA, np.arange(4), 3), r"labels must lie in 0\.\.2, got values from 0 to 3"),
        ((DATA, np.arange(4) - 1), "labels must not be negative, got values from -1 to 2"),
        ((DATA, None, None, True), "flip needs images"),
    ],
)
def test_bad_data(arguments, message):
    with pytest.raises(ValueError, match=message):
        check_data(*arguments)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (DATA, r"a batch must be data of shape \(3, \*event\), a pair .* or a mapping"),
        ([0.0, 1.0], "one array, not a list"),
        ({"pixels": DATA[:3]}, "got a mapping with 'pixels'"),
        ({"label": np.arange(3)}, "got a mapping with 'label'"),
        ((DATA[:3], np.arange(3), 0), "got a tuple of 3 parts"),
        (np.zeros(3), r"a batch must have shape \(num, \*event\) .* got shape \(3,\)"),
        (DATA[:3].astype(np.int32), "a batch must hold floats, or bytes .* got int32"),
        (DATA[:3] + 1e200, "a batch must lie in the range of float32"),
        ((DATA[:3], np.arange(4)), r"labels must be integers of shape \(3,\), got .* \(4,\)"),
        ((DATA[:3], np.arange(3) + 1), r"labels must lie in 0\.\.2, got values from 1 to 3"),
    ],
)
def test_bad_batches(batch, message):
    with pytest.raises(ValueError, match=message):
        check_batch(batch, 3, classes=3)


def test_sizes_beyond_32_bits():
    with pytest.raises(ValueError, match=r"must lie below 2\^30, got 10 and 1073741824"):
        cursor_at(KEY, 0, 2**30, 10)


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
    assert list(prefetch(iter([]), lambda i: i)) == []
