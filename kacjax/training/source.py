"""What feeds a run: data that lie on the devices, or batches of the host, moved there ahead."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Num

from kacjax._typing import ArrayLike, Shape
from kacjax._validation import is_concrete

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
        ValueError: If data are empty, not real or not finite, or labels are not one class for
            each datum.
    """
    array = data if isinstance(data, jax.Array) else np.asarray(data)
    _check_data(array)
    if array.dtype != np.uint8:
        if not np.all(np.isfinite(array)):
            bad = int(np.sum(~np.isfinite(array)))
            raise ValueError(f"data must be finite, got {bad} NaN or infinite values.")
        array = array.astype(jnp.result_type(float))
    return ResidentData(array, _host_labels(labels, array.shape[:1], classes))


def check_batch(
    batch: Any, size: int, classes: int | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    """A host batch as a pair of data and labels, with the types of training.

    Numbers that are not finite pass: what follows them is the choice of the run.

    Args:
        batch: Data of shape `(size, *event)`, or a pair of them and labels of shape `(size,)`.
        size: Data in a batch.
        classes: If given, what the labels must stay below.

    Raises:
        ValueError: If it does not hold `size` real data, or labels are not one class for each.
    """
    parts = batch if isinstance(batch, tuple) else (batch, None)
    if len(parts) != 2:
        raise ValueError(f"a batch must be data, or data and labels, got {len(parts)} parts.")
    data = np.asarray(parts[0])
    if data.shape[:1] != (size,):
        raise ValueError(f"a batch must hold {size} data, got shape {data.shape}.")
    _check_data(data)
    if data.dtype != np.uint8:
        data = data.astype(jnp.result_type(float))
    return data, _host_labels(parts[1], data.shape[:1], classes)


def check_labels(labels: Array | np.ndarray, shape: Shape, classes: int | None = None) -> None:
    """Refuses labels that are not one class for each datum; of traced ones, values are unknown.

    Args:
        labels: The labels.
        shape: The shape `(num,)` that they must have.
        classes: If given, what they must stay below.

    Raises:
        ValueError: If they have another shape, are not integers, or out of range.
    """
    if labels.shape != shape or not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers of shape {shape}, got {labels.dtype} of shape {labels.shape}."
        )
    if not labels.size or not is_concrete(labels):
        return
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or (classes is not None and highest >= classes):
        bound = "" if classes is None else f" and below {classes}"
        raise ValueError(f"labels must not be negative{bound}, got {lowest} to {highest}.")


def _host_labels(labels: Any, shape: Shape, classes: int | None) -> np.ndarray | None:
    if labels is None:
        return None
    labels = np.asarray(labels)
    check_labels(labels, shape, classes)
    return labels.astype(np.int32)


def _check_data(data: Array | np.ndarray) -> None:
    if data.ndim < 2 or data.size == 0:
        raise ValueError(
            f"data must have shape (num, *event) and not be empty, got shape {data.shape}."
        )
    if not (jnp.issubdtype(data.dtype, jnp.floating) or data.dtype.kind in "biu"):
        raise ValueError(f"data must be real numbers, got {data.dtype}.")


def prefetch(batches: Iterable[Any], place: Callable[[Any], Any]) -> Iterator[Any]:
    """Moves host batches to the devices ahead of their use; takes no more than are used."""
    queue: collections.deque[Any] = collections.deque()
    source = iter(batches)
    queue.extend(place(batch) for batch in itertools.islice(source, AHEAD))
    while queue:
        yield queue.popleft()
        queue.extend(place(batch) for batch in itertools.islice(source, 1))
