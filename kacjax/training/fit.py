"""Training in one call."""

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm.auto import tqdm

from kacjax._typing import ArrayLike, Key
from kacjax.paths import ProbabilityPath
from kacjax.training.metrics import StepMetrics
from kacjax.training.state import TrainState
from kacjax.training.trainer import Callback, Trainer
from kacjax.training.velocity import NetworkVelocity


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        velocity: The velocity function of the averaged parameters.
        state: The final state.
        losses: Loss of every step taken, of shape `(taken,)`. These are all `steps`, but for those
            that a given `state` had behind it, and those for which an iterator had no batch.
        steps_per_second: Speed, compilation not included.
        compile_seconds: Time spent compiling.
        metrics: Of every step: losses, those by time, norms of gradients.
    """

    velocity: NetworkVelocity
    state: TrainState
    losses: np.ndarray
    steps_per_second: float
    compile_seconds: float
    metrics: StepMetrics


def fit(
    model: nnx.Module,
    path: ProbabilityPath,
    data: ArrayLike | Iterator[Any],
    key: Key,
    steps: int = 20_000,
    batch_size: int = 256,
    *,
    labels: ArrayLike | None = None,
    state: TrainState | None = None,
    callback: Callback | None = None,
    progress: bool = True,
    **options: Any,
) -> FitResult:
    """Trains a network on data by flow matching: a short way over `Trainer`.

    Args:
        model: Flax NNX module called as `model(t, x)`, with an output of the shape of `x`. It is
            read, not changed.
        path: Path from data to noise.
        data: Data of shape `(num, *event)`, floats or bytes, moved to the device once; each epoch
            is a new permutation of them. Or an iterator over host batches, see `Trainer.run`; if
            it ends early, so does the training.
        key: Random key.
        steps: Optimiser steps.
        batch_size: Data in one step.
        labels: The class of each datum, of shape `(num,)`; the network is then called as
            `model(t, x, label)`. An iterator has them in its batches instead.
        state: A state to go on from, with fewer than `steps` steps; it is read, not used up.
        callback: Called as `callback(step, metrics)` after every call of the device.
        progress: Whether to show a progress bar.
        **options: Attributes of `Trainer`: `learning_rate`, `warmup`, `schedule`, `b2`, `clip`,
            `ema_decay`, `time_power`, `parameterisation`, `label_dropout`, `classes`, `flip`,
            `accumulate`, `on_nonfinite`, `steps_per_call`, `mesh`.

    Returns:
        The averaged velocity function, and a record of the training.

    Raises:
        ValueError: If data are empty, not finite or not of the model's shape, labels do not fit
            them or come beside an iterator, an iterator has no batch, or a number is out of its
            range.
        NonFiniteError: A `FloatingPointError`, if loss or gradient stop being finite.
    """
    if labels is not None and isinstance(data, Iterator):
        raise ValueError(
            "labels must be None if data are an iterator, whose batches are pairs of data and "
            f"labels; got labels of shape {np.shape(labels)}."
        )
    trainer = Trainer(model, path, steps=steps, batch_size=batch_size, **options)
    source = data if isinstance(data, Iterator) else trainer.resident(data, labels)
    # A copy, because a run uses its state up.
    current = trainer.init(key) if state is None else jax.tree.map(jnp.copy, state)
    first = int(current.step)
    if first >= steps:
        raise ValueError(f"state must have fewer than steps={steps} steps, got {first}.")
    skipped = 0
    begin = time.perf_counter()
    show = progress and jax.process_index() == 0
    with tqdm(total=steps, initial=first, disable=not show, unit="step", dynamic_ncols=True) as bar:

        def report(step: int, metrics: StepMetrics) -> None:
            nonlocal skipped
            good = metrics.loss[metrics.finite]
            skipped += len(metrics.loss) - len(good)
            shown = {"loss": f"{good.mean():.4g}"} if len(good) else {}
            bar.set_postfix(shown | ({"skipped": skipped} if skipped else {}), refresh=False)
            bar.update(step - bar.n)
            if callback is not None:
                callback(step, metrics)

        current, metrics = trainer.run(current, source, steps, report)
    elapsed = time.perf_counter() - begin - trainer.compile_seconds
    return FitResult(
        trainer.velocity(current),
        current,
        np.asarray(metrics.loss),
        len(metrics.loss) / elapsed,
        trainer.compile_seconds,
        metrics,
    )
