"""What a run of training carries from step to step, and what it reports."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int

from kacjax._typing import Key

TIME_BINS = 8
"""The loss is reported apart for this many equal intervals of time."""

AnyArray = Array | np.ndarray


class TrainState(NamedTuple):
    """Everything that a training step reads and writes: one pytree of arrays.

    Attributes:
        params: The arrays of the network: those that are trained, and the others, which stay.
        ema: Exponential moving average of those that are trained, at least in float32.
        opt_state: Optax's state.
        step: Number of steps taken, those that were skipped included.
        key: Random key of the run. It stays; what a step draws is a function of it and of `step`.
        skipped: Number of steps whose update was not applied, for it was not finite.
    """

    params: Any
    ema: Any
    opt_state: optax.OptState
    step: Int[Array, ""]
    key: Key
    skipped: Int[Array, ""]


class StepMetrics(NamedTuple):
    """What a step reports; a run stacks them along a first axis.

    Attributes:
        loss: The weighted loss, a mean over the batch.
        gradient_norm: Global norm of the gradient, before the optimizer's clipping.
        bin_sums: Sum of the weighted loss over those of the batch whose time lies in each of
            `TIME_BINS` equal intervals of `[0, T]`.
        bin_counts: How many these are.
        finite: Whether loss and gradient were finite; if not, there was no update.
    """

    loss: Float[AnyArray, "*steps"]
    gradient_norm: Float[AnyArray, "*steps"]
    bin_sums: Float[AnyArray, "*steps bins"]
    bin_counts: Float[AnyArray, "*steps bins"]
    finite: Bool[AnyArray, "*steps"]

    def bin_losses(self) -> Float[np.ndarray, " bins"]:
        """The mean loss in each interval of time, over all steps that were finite; NaN if none."""
        good = np.asarray(self.finite)[..., None]
        sums, counts = (
            np.where(good, rows, 0).reshape(-1, TIME_BINS).sum(0, dtype=np.float64)
            for rows in (self.bin_sums, self.bin_counts)
        )
        return np.divide(sums, counts, out=np.full(TIME_BINS, np.nan), where=counts > 0)


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is not finite.

    Attributes:
        state: The last good state, from before that step.
        metrics: Those of the steps of this run, that step the last.
    """

    def __init__(self, state: TrainState, metrics: StepMetrics):
        what, value, step = "loss", metrics.loss[-1], int(state.step)
        if np.isfinite(value):
            what, value = "gradient's norm", metrics.gradient_norm[-1]
        advice = "try a lower learning rate, gradient clipping or on_nonfinite='skip'."
        if step == 0:
            advice = "at the first step it is the data, the path or the untrained network."
        super().__init__(f"The {what} became {value} at step {step}; {advice}")
        self.state = state
        self.metrics = metrics


def join_metrics(parts: Sequence[StepMetrics]) -> StepMetrics:
    """Joins the metrics of runs of steps, one after the other, on the host."""
    if not parts:
        none, bins = np.zeros(0, np.float32), np.zeros((0, TIME_BINS), np.float32)
        return StepMetrics(none, none, bins, bins, np.zeros(0, bool))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
