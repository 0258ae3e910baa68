"""What a run of training carries from step to step."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from kacjax._typing import Key


class TrainState(NamedTuple):
    """Everything that a training step reads and writes: one pytree.

    Attributes:
        parameters: The network's parameters.
        ema: Their exponential moving average, which generates.
        optimiser: Optax's state.
        step: Number of steps taken, those that were skipped included.
        key: Random key of the run. It stays; what a step draws is a function of it and of `step`,
            so that a step depends on nothing but the state and its batch.
        skipped: Number of steps whose update was not applied, for it was not finite.
    """

    parameters: Any
    ema: Any
    optimiser: optax.OptState
    step: Int[Array, ""]
    key: Key
    skipped: Int[Array, ""]


def init_state(parameters: Any, optimiser: optax.GradientTransformation, key: Key) -> TrainState:
    """The state before the first step; it owns its buffers."""
    copy = partial(jax.tree.map, jnp.copy)
    first = copy(parameters)
    none = jnp.zeros((), jnp.int32)
    return TrainState(first, copy(parameters), optimiser.init(first), none, jnp.copy(key), none + 0)
