"""What feeds a run: data on the device, or batches of the host, moved there ahead.

Data on the device form an endless stream of permutations of them, a function of the run's key.
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num, UInt32

from kacjax._typing import Key
from kacjax._validation import check_labels

AHEAD = 2  # Host batches, and steps, that are under way while the host prepares the next.
_NAMES = (("x", "image"), ("y", "label"))


class DeviceData(NamedTuple):
    """Data that lie on the devices for the whole run, and their labels; see `Trainer`."""

    data: Num[Array | np.ndarray, "num *event"]
    labels: Any = None


class Cursor(NamedTuple):
    """A position in the stream of epochs: row `row` of epoch `epoch` modulo 2^32.

    `orders` are the permutations of this epoch and of those that a batch may reach into. Rows that
    are to be mirrored are raised by `num`.
    """

    orders: Int[Array, "epochs num"]
    epoch: UInt32[Array, ""]
    row: Int[Array, ""]


def cursor_at(key: Key, step: int, batch_size: int, num: int, flip: bool = False) -> Cursor:
    """The position before batch `step`, with Python's integers, which do not overflow."""
    if max(num, batch_size) >= 2**30:
        raise ValueError(f"data and batch_size must lie below 2^30, got {num} and {batch_size}.")
    epoch, row = divmod(step * batch_size, num)
    # Batches begin at multiples of the common divisor, which bounds the epochs that one meets.
    count = 1 + (num - math.gcd(num, batch_size) + batch_size - 1) // num
    epoch = jnp.asarray(np.uint32(epoch % 2**32))
    return Cursor(_orders(key, epoch, count, num, flip), epoch, jnp.asarray(row, jnp.int32))


def next_batch(
    source: DeviceData, key: Key, cursor: Cursor, batch_size: int, flip: bool = False
) -> tuple[tuple[Array, Any], Cursor]:
    """The batch at a position, as a pair of data and labels or None, and the position after it."""
    count, num = cursor.orders.shape
    picked = cursor.orders.reshape(-1)[cursor.row + jnp.arange(batch_size, dtype=jnp.int32)]
    data, labels = jax.tree.map(lambda leaf: leaf[picked % num], source)
    if flip:
        data = jnp.where((picked >= num)[:, None, None, None], data[:, :, ::-1], data)
    row = cursor.row + batch_size
    epoch = cursor.epoch + (row // num).astype(jnp.uint32)

    def advance() -> Array:
        if batch_size > num:
            return _orders(key, epoch, count, num, flip)
        last = _orders(key, epoch + jnp.uint32(count - 1), 1, num, flip)
        return jnp.concatenate([cursor.orders[1:], last])

    orders = jax.lax.cond(row >= num, advance, lambda: cursor.orders)
    return (data, labels), Cursor(orders, epoch, row % num)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _orders(key: Key, epoch: Array, count: int, num: int, flip: bool) -> Array:
    """The permutations of `count` epochs; whether a row is mirrored depends on epoch and row."""

    def order(i: int) -> Array:
        own = jax.random.fold_in(key, epoch + jnp.uint32(i))
        rows = jax.random.permutation(own, num)
        if not flip:
            return rows
        coins = jax.random.bernoulli(jax.random.fold_in(own, 0), shape=(num,))
        return rows + num * coins[rows].astype(rows.dtype)

    # One after the other: together, their sorts are slower.
    return jnp.stack([order(i) for i in range(count)])


def check_data(
    data: Any, labels: Any = None, classes: int | None = None, flip: bool = False
) -> DeviceData:
    """Checks that data are finite and labels fit them, and gives them the types of training."""
    array = _as_trained("data", data if isinstance(data, jax.Array) else np.asarray(data))
    if array.dtype != np.uint8 and not np.all(good := np.isfinite(array)):
        raise ValueError(f"data must be finite, got {np.sum(~good)} NaN or infinite values.")
    if flip and array.ndim != 4:
        raise ValueError(f"flip needs images (num, height, width, channels), got {array.shape}.")
    return DeviceData(array, check_labels(labels, len(array), classes, null=False))


def check_batch(batch: Any, size: int, classes: int | None = None) -> DeviceData:
    """A host batch with the types of training, whose numbers need not be finite."""
    if isinstance(batch, Mapping):
        parts = [next((batch[n] for n in names if n in batch), None) for names in _NAMES]
        unknown = set(batch) - set(itertools.chain(*_NAMES))
    else:
        parts, unknown = (list(batch) if isinstance(batch, tuple | list) else [batch]), set()
    data, labels = [*parts, None, None][:2]
    data = np.asarray(data)
    if unknown or len(parts) > 2 or data.shape[:1] != (size,):
        found = f"a {type(batch).__name__} of {len(parts)} parts, the first of shape {data.shape}"
        if isinstance(batch, Mapping):
            found = f"a mapping with {', '.join(map(repr, batch))}"
        raise ValueError(
            f"a batch must be data of shape ({size}, *event), a pair of them and labels, or a "
            f"mapping with 'x' or 'image', and 'y' or 'label'; got {found}. Data in memory are "
            "one array, not a list."
        )
    labels = check_labels(labels, size, classes, null=False)
    return DeviceData(_as_trained("a batch", data), labels)


def prefetch(batches: Iterator[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Moves host batches to the devices ahead of their use; takes no more than are used."""
    queue = collections.deque(place(batch) for batch in itertools.islice(batches, AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(place(batch) for batch in itertools.islice(batches, 1))


def _as_trained(name: str, data: Array | np.ndarray) -> Array | np.ndarray:
    if data.ndim < 2 or data.size == 0:
        asked = "have shape (num, *event) and not be empty"
        raise ValueError(f"{name} must {asked}, got shape {data.shape}.")
    if data.dtype == np.uint8:
        return data
    if not jnp.issubdtype(data.dtype, jnp.floating):
        raise ValueError(
            f"{name} must hold floats, or bytes (uint8), which are scaled to [-1, 1]; got "
            f"{data.dtype}: scale them to floats yourself, or use astype(np.uint8) for bytes."
        )
    widest = jnp.result_type(float)
    if data.dtype.itemsize <= widest.itemsize:
        return data
    with np.errstate(over="ignore"):
        cast = data.astype(widest)
    if np.any(np.isinf(cast) & np.isfinite(data)):
        raise ValueError(
            f"{name} must lie in the range of {widest}, got values up to "
            f"{np.max(np.abs(data), initial=0, where=np.isfinite(data)):.3g}: scale them."
        )
    return cast
