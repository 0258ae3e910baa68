"""What feeds a run: data that lie on the devices, or batches of the host, moved there ahead."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from kacjax._typing import ArrayLike

AHEAD = 2
"""Host batches, and steps, that are under way while the host prepares the next."""


class ResidentData(NamedTuple):
    """Data that lie on the devices for the whole run; made by `Trainer.resident`.

    Attributes:
        data: Floats, or bytes that are scaled to `[-1, 1]` as they are drawn.
        labels: The class of each datum, or None.
    """

    data: Num[Array | np.ndarray, "num *event"]
    labels: Int[Array | np.ndarray, " num"] | None = None


def check_resident(
    data: ArrayLike, labels: ArrayLike | None = None, classes: int | None = None
) -> ResidentData:
    """Checks data and labels, and gives them the types of training.

    Args:
        data: Of shape `(num, *event)`: floats, or bytes that stand for numbers in `[-1, 1]`.
        labels: Integers of shape `(num,)`.
        classes: If given, what the labels must stay below.

    Raises:
        ValueError: If data are empty or not finite, or labels are not one class for each datum.
    """
    array = data if isinstance(data, jax.Array) else np.asarray(data)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"data must have shape (num, *event) and not be empty, got shape {array.shape}."
        )
    if array.dtype != np.uint8:
        if not np.all(np.isfinite(array)):
            bad = int(np.sum(~np.isfinite(array)))
            raise ValueError(f"data must be finite, got {bad} NaN or infinite values.")
        array = array.astype(jnp.result_type(float))
    if labels is None:
        return ResidentData(array)
    names = np.asarray(labels)
    if names.shape != array.shape[:1] or not np.issubdtype(names.dtype, np.integer):
        raise ValueError(
            f"labels must be integers of shape ({len(array)},), "
            f"got {names.dtype} of shape {names.shape}."
        )
    if names.min() < 0 or (classes is not None and names.max() >= classes):
        bound = "" if classes is None else f" and below {classes}"
        raise ValueError(f"labels must not be negative{bound}, got {names.min()} to {names.max()}.")
    return ResidentData(array, names.astype(np.int32))


def check_batch(batch: Any, size: int) -> tuple[np.ndarray, np.ndarray | None]:
    """A host batch as a pair of data and labels, with the types of training.

    Raises:
        ValueError: If it does not hold `size` data, or not one label for each.
    """
    data, labels = batch if isinstance(batch, tuple) else (batch, None)
    data = np.asarray(data)
    if data.dtype != np.uint8:
        data = data.astype(jnp.result_type(float))
    if labels is not None:
        labels = np.asarray(labels, np.int32)
    for name, array in (("data", data), ("labels", labels)):
        if array is not None and array.shape[:1] != (size,):
            raise ValueError(f"a batch must hold {size} {name}, got shape {array.shape}.")
    return data, labels


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Moves host batches to the devices ahead of their use; takes no more than are used."""
    queue: collections.deque[Any] = collections.deque()
    source = iter(batches)
    queue.extend(place(batch) for batch in itertools.islice(source, AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(place(batch) for batch in itertools.islice(source, 1))
