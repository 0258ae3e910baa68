"""What training reports: the loss, apart by time too, and whether it was finite."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kacjax._typing import ArrayLike
from kacjax.training.state import TrainState

TIME_BINS = 8
"""The loss is reported apart for this many equal intervals of time."""

AnyArray = Array | np.ndarray


class StepMetrics(NamedTuple):
    """What a step reports; a run stacks them along a first axis.

    Attributes:
        loss: The weighted loss, a mean over the batch.
        gradient_norm: Global norm of the gradient before clipping.
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
        what, value = "loss", metrics.loss[-1]
        if np.isfinite(value):
            what, value = "gradient's norm", metrics.gradient_norm[-1]
        super().__init__(
            f"The {what} became {value} at step {int(state.step)}; "
            "try a lower learning_rate or clip."
        )
        self.state = state
        self.metrics = metrics


def join_metrics(parts: Sequence[StepMetrics]) -> StepMetrics:
    """Joins the metrics of runs of steps, one after the other, on the host."""
    if not parts:
        none, bins = np.zeros(0, np.float32), np.zeros((0, TIME_BINS), np.float32)
        return StepMetrics(none, none, bins, bins, np.zeros(0, bool))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def time_bins(
    t: Float[Array, " batch"], losses: Float[Array, " batch"], T: ArrayLike
) -> tuple[Float[Array, " bins"], Float[Array, " bins"]]:
    """Sums of the losses, and counts of the data, with times in each of the equal intervals."""
    place = jnp.floor(t * (TIME_BINS / jnp.asarray(T, t.dtype)))
    place = jnp.clip(place, 0, TIME_BINS - 1)
    inside = place[None, :] == jnp.arange(TIME_BINS, dtype=t.dtype)[:, None]
    sums = jnp.sum(jnp.where(inside, losses[None, :], 0), axis=1)
    return sums, jnp.sum(inside, axis=1, dtype=t.dtype)
