"""The stream of rows: permutations, evenly distributed, the same however they are drawn."""

import math
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from kacjax.data import draw_batch, epoch_rows, to_float
from kacjax.data.batches import LARGEST_SET, _halves, _locate

KEY = jax.random.key(4)
FALSE_ALARM = 1e-7


def rows_of(steps, batch_size, num, key=KEY):
    """The rows of many steps, one after the other."""
    steps = jnp.asarray(steps, jnp.int32)
    return np.asarray(
        jax.lax.map(lambda step: epoch_rows(key, step, batch_size, num), steps)
    ).ravel()


def is_even(counts):
    """A chi-square test of equal frequencies, with the stated rate of false alarms."""
    return scipy.stats.chisquare(counts).pvalue > FALSE_ALARM


@pytest.mark.parametrize(
    ("num", "batch_size"), [(1, 5), (2, 3), (3, 8), (1437, 128), (60_000, 512)]
)
def test_every_epoch_is_a_new_permutation(num, batch_size):
    epochs = 5
    steps = -(-epochs * num // batch_size)
    rows = rows_of(np.arange(steps), batch_size, num)[: epochs * num].reshape(epochs, num)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(num), (epochs, 1)))
    if num > 8:
        # Two permutations agree in one place on average; in 20, with probability 1e-19.
        for one, other in ((0, 1), (1, 2), (0, 4)):
            assert np.sum(rows[one] == rows[other]) < 20
        assert np.sum(rows_of([0], num, num, jax.random.key(5)) == rows[0]) < 20


def test_batches_do_not_depend_on_their_cut():
    whole = rows_of(np.arange(20), 128, 1437)
    np.testing.assert_array_equal(rows_of(np.arange(10), 256, 1437), whole)
    np.testing.assert_array_equal(rows_of(np.arange(2560), 1, 1437), whole)


def test_eager_and_traced_steps_agree():
    eager = [epoch_rows(KEY, step, 100, 1437) for step in (14, np.int64(15), jnp.int32(16))]
    assert eager[0].dtype == jnp.int32

    def body(step, _):
        return step + 1, epoch_rows(KEY, step, 100, 1437)

    _, scanned = jax.lax.scan(body, jnp.uint32(14), length=3)
    np.testing.assert_array_equal(np.stack(eager), scanned)


@pytest.mark.parametrize("batch", [1, 7, 128, 4096, LARGEST_SET])
@pytest.mark.parametrize("num", [1, 3, 50_000, 60_000, 2**28 + 1, LARGEST_SET])
def test_place_in_the_stream_is_exact(batch, num):
    steps = [0, 1, 469, 10_000_000, 2**31 - 1, 2**32 - 1]
    epoch, row = _locate(jnp.array(steps, jnp.uint32), batch, num)
    expected = [divmod(step * batch, num) for step in steps]
    assert row.tolist() == [row for _, row in expected]
    assert epoch.tolist() == [epoch % 2**32 for epoch, _ in expected]


def test_epochs_are_whole_after_ten_million_steps():
    batch, num, step = 4096, 60_000, 10_000_000
    behind = -(step * batch) % num
    rows = rows_of(step + np.arange(30), batch, num)[behind : behind + num]
    np.testing.assert_array_equal(np.sort(rows), np.arange(num))


@pytest.mark.parametrize("num", [3, 5, 6])
def test_all_orders_of_a_small_set_are_equally_frequent(num):
    # 100,000 epochs, 6 to 720 orders; false alarms 1e-7 each.
    orders = rows_of(np.arange(100_000), num, num).reshape(-1, num)
    counts = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(counts) == math.factorial(num)
    assert is_even(counts)


@pytest.mark.parametrize("num", [7, 25])
def test_places_and_pairs_are_evenly_distributed(num):
    # 100,000 epochs; pairs in the same half, or in neighbouring halves, of the pair (l, r).
    epochs = rows_of(np.arange(100_000), num, num).reshape(-1, num)
    across = _halves(num)[1]
    for place in (0, 1, num - 1):
        assert is_even(np.bincount(epochs[:, place], minlength=num))
    for place in (1, across, across + 1, num - 1):
        pairs = np.bincount(epochs[:, 0] * num + epochs[:, place], minlength=num * num)
        unequal = np.flatnonzero(~np.eye(num, dtype=bool))
        assert is_even(pairs[unequal])


def test_neighbours_of_a_large_set_are_unrelated():
    num = 60_000
    rows = rows_of([3], num, num)
    uniform = (rows + 0.5) / num - 0.5
    for distance in (1, 2, 128, 240, 250):
        # The product of 60,000 pairs of uniform variables, in units of its deviation: a normal
        # variable, beyond 5.5 with probability 4e-8.
        product = uniform[distance:] * uniform[:-distance]
        assert abs(product.sum()) < 5.5 * np.sqrt(len(product)) / 12
        # The differences, modulo the size, are uniform too.
        ahead = (rows[distance:] - rows[:-distance]) % num
        assert is_even(np.bincount(ahead * 100 // num, minlength=100))
    # The first batches of an epoch hold images of all parts of the set.
    assert is_even(np.bincount(rows[:6000] * 100 // num, minlength=100))


IMAGES = np.random.default_rng(0).integers(0, 256, (50, 4, 6, 3), np.uint8)
LABELS = np.arange(50, dtype=np.int32) % 7
draw = jax.jit(draw_batch, static_argnames=("batch_size", "flip"))


def test_batches_are_the_rows_scaled_and_labelled():
    batch, labels = draw(IMAGES, KEY, 3, batch_size=20, labels=LABELS)
    rows = epoch_rows(KEY, 3, 20, 50)
    np.testing.assert_array_equal(batch, to_float(IMAGES[rows]))
    np.testing.assert_array_equal(labels, LABELS[rows])
    eager, nothing = draw_batch(IMAGES, KEY, 3, 20)
    np.testing.assert_array_equal(eager, batch)
    assert nothing is None


def test_vectors_pass_unscaled():
    points = np.random.default_rng(1).normal(size=(50, 2)).astype(np.float32)
    batch, _ = draw_batch(points, KEY, 1, 20)
    np.testing.assert_array_equal(batch, points[epoch_rows(KEY, 1, 20, 50)])


@pytest.fixture(scope="module")
def mirrored():
    """Whether image `i` is mirrored in epoch `e`, for 2,000 epochs of 50 images."""
    images = np.zeros((50, 1, 2, 1), np.uint8)
    images[:, 0, 0, 0] = np.arange(50)
    images[:, 0, 1, 0] = 255

    def coins(step):
        batch, labels = draw_batch(images, KEY, step, 50, flip=True, labels=np.arange(50))
        return labels, batch[:, 0, 0, 0] == 1

    rows, mirrored = jax.lax.map(coins, jnp.arange(2000))
    return np.take_along_axis(np.asarray(mirrored), np.argsort(rows, axis=1), axis=1)


def test_images_are_mirrored_whole_and_the_same_in_every_cut():
    quarters = [
        np.asarray(draw(IMAGES, KEY, step, batch_size=20, flip=True)[0]) for step in range(4)
    ]
    whole = np.asarray(draw(IMAGES, KEY, 0, batch_size=80, flip=True)[0])
    np.testing.assert_array_equal(np.concatenate(quarters), whole)
    rows = np.concatenate([epoch_rows(KEY, step, 20, 50) for step in range(4)])
    for image, original in zip(whole, to_float(IMAGES[rows]), strict=True):
        assert np.array_equal(image, original) or np.array_equal(image, original[:, ::-1])


def test_half_of_the_images_are_mirrored_independently(mirrored):
    # 100,000 coins, then 2,000 for each of 50 images and 50 for each epoch, then pairs of images
    # and of epochs: each beyond 6.5 deviations with probability 8e-11, 4,150 in all.
    sign = 2.0 * mirrored - 1
    assert abs(sign.sum()) < 6.5 * np.sqrt(sign.size)
    assert np.all(np.abs(sign.sum(axis=0)) < 6.5 * np.sqrt(2000))
    assert np.all(np.abs(sign.sum(axis=1)) < 6.5 * np.sqrt(50))
    assert np.all(np.abs(np.sum(sign[:, 1:] * sign[:, :-1], axis=0)) < 6.5 * np.sqrt(2000))
    assert np.all(np.abs(np.sum(sign[1:] * sign[:-1], axis=1)) < 6.5 * np.sqrt(50))


@pytest.mark.slow
def test_devices_do_not_matter():
    program = """
        import jax, numpy as np
        from jax.sharding import NamedSharding, PartitionSpec
        from kacjax.data import draw_batch
        assert jax.device_count() == 8
        images = np.random.default_rng(0).integers(0, 256, (101, 4, 4, 1), np.uint8)
        draw = lambda step: draw_batch(images, jax.random.key(0), step, 32, flip=True)[0]
        alone = jax.jit(draw)(7)
        mesh = jax.make_mesh((8,), ("data",))
        shared = jax.jit(draw, out_shardings=NamedSharding(mesh, PartitionSpec("data")))(7)
        assert len(shared.sharding.device_set) == 8
        assert np.array_equal(alone, shared)
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"},
        check=True,
    )


@pytest.mark.parametrize("step", [2**31, np.int64(2**32 - 1)])
def test_large_steps_need_no_64_bits(step):
    traced = jax.jit(lambda step: epoch_rows(KEY, step, 8, 50))(jnp.uint32(int(step)))
    np.testing.assert_array_equal(epoch_rows(KEY, step, 8, 50), traced)


def test_refusals_name_what_is_wrong():
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got 0"):
        epoch_rows(KEY, 0, 0, 10)
    with pytest.raises(ValueError, match=r"below 2\^30, got 1073741824"):
        epoch_rows(KEY, 0, 1, 2**30)
    with pytest.raises(ValueError, match="step must be an integer of at least 0, got -1"):
        epoch_rows(KEY, -1, 1, 10)
    with pytest.raises(ValueError, match=r"step must be at most 2\^32 - 1, got 4294967296"):
        epoch_rows(KEY, 2**32, 1, 10)
    with pytest.raises(ValueError, match="uint8 or floats"):
        draw_batch(IMAGES.astype(np.int32), KEY, 0, 4)
    with pytest.raises(ValueError, match=r"flip needs images .* got \(50, 12\)"):
        draw_batch(IMAGES.reshape(50, -1)[:, :12], KEY, 0, 4, flip=True)
    with pytest.raises(ValueError, match=r"labels must have the shape \(50,\)"):
        draw_batch(IMAGES, KEY, 0, 4, labels=LABELS[:4])
