"""Several processes as one run: the first one writes, and all of them decide alike."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.command import UserError


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Any]) -> None:
    """Does something on the first process while the others wait.

    Raises:
        UserError: On all of them, if it was raised on the first.
    """
    failure = None
    if is_first():
        try:
            action()
        except UserError as error:
            failure = error
    if int(gather(np.asarray(failure is not None))[0]):
        raise failure or UserError("the first process has stopped, and says why.")


def gather(values: np.ndarray) -> np.ndarray:
    """The values of all processes, stacked."""
    if jax.process_count() == 1:
        return values[None]
    return np.asarray(multihost_utils.process_allgather(values)).reshape(-1, *values.shape)


def to_host(tree: Any) -> Any:
    """A pytree of arrays, however they lie on devices of all processes, in NumPy."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)
