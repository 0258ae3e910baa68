"""Several processes as one run, and signals as a wish to stop, which the run grants in time."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.command import UserError

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def tell(line: str) -> None:
    """A line for the person who watches, once and not from every process."""
    if is_first():
        print(line, file=sys.stderr)


def on_first(action: Callable[[], Any]) -> None:
    """Does something on the first process while the others wait; its `UserError` is everyone's."""
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


class StopSignals:
    """A context in which the first signal sets `asked`, and a second one interrupts at once.

    The signals are SIGTERM, Ctrl-C, the end of the terminal (SIGHUP), and SIGUSR1, by which Slurm
    says that the time is nearly over.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        # Python lets only the main thread catch signals.
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._handle) for each in _SIGNALS}
        return self

    def __exit__(self, *details: object) -> None:
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A terminal that ends may say so twice.
        if self.asked and number != signal.SIGHUP:
            raise KeyboardInterrupt
        self.asked = True
        with contextlib.suppress(OSError):
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nstopping after this call of the device; once more stops at once.\n")
