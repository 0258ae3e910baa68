"""Compiled programs of many steps.

One program serves any number of steps: the count is an argument, and the metrics go to a buffer of
fixed size. A run that stops between two calls and goes on later executes the same program, and
gives the same numbers to the last bit.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int

from kacjax import sharding
from kacjax._typing import Key
from kacjax.data.batches import draw_batch
from kacjax.training.metrics import StepMetrics
from kacjax.training.source import ResidentData
from kacjax.training.state import TrainState
from kacjax.training.step import Batch

Step = Callable[[TrainState, Batch, Key], tuple[TrainState, StepMetrics]]


def resident_program(step: Step, batch_size: int, capacity: int, flip: bool, mesh: Mesh | None):
    """A function `(state, source, count) -> (state, metrics, done)` of up to `capacity` steps.

    `done` counts the steps that ran. It falls short of `count` only where a step left the state as
    it was, because the loss was not finite; the last entry of the metrics is then that step's.
    """

    def one(state: TrainState, source: ResidentData) -> tuple[TrainState, StepMetrics]:
        data_key, noise_key = jax.random.split(state.key)
        batch = draw_batch(
            source.data, data_key, state.step, batch_size, flip=flip, labels=source.labels
        )
        batch = sharding.constrain_batch(batch, mesh)
        return step(state, batch, jax.random.fold_in(noise_key, state.step))

    def single(state: TrainState, source: ResidentData, count: Int[Array, ""]):
        state, metrics = one(state, source)
        return state, jax.tree.map(lambda row: row[None], metrics), count

    if capacity == 1:
        # On the CPU XLA compiles the gradient of a convolution within a loop to code ten times
        # slower than outside.
        return single

    def program(state: TrainState, source: ResidentData, count: Int[Array, ""]):
        shapes = jax.eval_shape(one, state, source)[1]
        buffer = jax.tree.map(lambda s: jnp.zeros((capacity, *s.shape), s.dtype), shapes)

        def body(carry):
            i, state, buffer, _ = carry
            before = state.step
            state, metrics = one(state, source)
            buffer = jax.tree.map(lambda rows, row: rows.at[i].set(row), buffer, metrics)
            return i + 1, state, buffer, state.step > before

        carry = jnp.zeros_like(count), state, buffer, jnp.asarray(True)
        done, state, buffer, _ = jax.lax.while_loop(
            lambda carry: (carry[0] < count) & carry[3], body, carry
        )
        return state, buffer, done

    return program


def stream_program(step: Step):
    """A function `(state, moving, batch) -> (state, moving, metrics)` of one step.

    Once a step has left the state as it was, `moving` is false and later calls do nothing: the
    host, which hears of it late, finds the state as it was.
    """

    def program(state: TrainState, moving: Bool[Array, ""], batch: Batch):
        noise_key = jax.random.split(state.key)[1]
        new, metrics = step(state, batch, jax.random.fold_in(noise_key, state.step))
        moved = jax.tree.map(lambda new, old: jnp.where(moving, new, old), new, state)
        return moved, moving & (new.step > state.step), metrics

    return program


class Programs:
    """Compiles a function once for every shape of its arguments, and says how long that took."""

    def __init__(self, function: Callable, where: Any = None):
        self._jitted = jax.jit(function, donate_argnums=(0,), out_shardings=where)
        self._compiled: dict[Any, Callable] = {}
        self.seconds = 0.0

    def compile(self, *arguments: Any) -> Callable:
        """The compiled function for arguments of these shapes."""
        leaves, structure = jax.tree.flatten(arguments)
        signature = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if signature not in self._compiled:
            begin = time.perf_counter()
            with warnings.catch_warnings():
                # Backends without donation say so once for every buffer.
                warnings.filterwarnings("ignore", message="Some donated buffers")
                self._compiled[signature] = self._jitted.lower(*arguments).compile()
            self.seconds += time.perf_counter() - begin
        return self._compiled[signature]

    def __call__(self, *arguments: Any) -> Any:
        """Runs the function; the first argument's buffers are used up."""
        return self.compile(*arguments)(*arguments)
