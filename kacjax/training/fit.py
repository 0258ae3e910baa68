"""Training in one call."""

import dataclasses
import time
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm.auto import tqdm

from kacjax._typing import Key
from kacjax.losses import Weight
from kacjax.paths import ProbabilityPath
from kacjax.training.step import StepMetrics, TrainState
from kacjax.training.trainer import Callback, Trainer
from kacjax.velocity import Velocity


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        velocity: The velocity of the averaged parameters.
        state: The final state.
        losses: Loss of every step taken, of shape `(taken,)`. These are all `steps`, but for those
            that a given `state` had behind it, and those for which there was no batch.
        steps_per_second: Speed, compilation not included.
        compile_seconds: Time spent compiling.
        metrics: Of every step: losses, those by time, norms of gradients.
    """

    velocity: Velocity
    state: TrainState
    losses: np.ndarray
    steps_per_second: float
    compile_seconds: float
    metrics: StepMetrics

    def __repr__(self) -> str:
        last = f"{self.losses[-1]:.4g}" if len(self.losses) else "none"
        return (
            f"FitResult(step={int(self.state.step)}, last loss={last}, "
            f"steps_per_second={self.steps_per_second:.0f}, "
            f"compile_seconds={self.compile_seconds:.1f})"
        )


def fit(
    network: Any,
    path: ProbabilityPath,
    data: Any,
    key: Key,
    steps: int = 20_000,
    batch_size: int = 256,
    *,
    optimizer: optax.GradientTransformation | None = None,
    prediction: str = "x0",
    weight: Weight = "balanced",
    time_power: float = 2.0,
    labels: Any = None,
    label_dropout: float = 0.0,
    classes: int | None = None,
    ema_decay: float = 0.999,
    flip: bool = False,
    accumulate: int = 1,
    on_nonfinite: str = "stop",
    steps_per_call: int | None = None,
    mesh: Mesh | None = None,
    trainable: Any = None,
    state: TrainState | None = None,
    callback: Callback | None = None,
    progress: bool = True,
) -> FitResult:
    """Trains a network on data by minimizing `flow_matching_loss`.

    Args:
        network: An Equinox module, any other callable pytree, a Flax NNX module or a bound Linen
            module, see `kacjax.Velocity` for how it is called; it is read, not changed.
        path: Path from data to noise.
        data: An array `(num, *event)` of floats or bytes (uint8, which stand for `[-1, 1]`), moved
            to the device once; each epoch is a new permutation of it. Or an iterable of batches of
            the host, gone through once; if it ends early, so does the training. A batch is an
            array `(batch_size, *event)`, a pair of it and labels, or a mapping with `x` or `image`
            and `y` or `label`.
        key: Random key, `jax.random.key(seed)`.
        steps: Optimizer steps.
        batch_size: Data in one step, over all devices.
        optimizer: Any Optax optimizer; `default_optimizer(steps)` if missing.
        prediction: What the network outputs, the data `x0` or the `velocity`.
        weight: Weight of the loss at each time, see `flow_matching_loss`.
        time_power: Exponent of the times' distribution. 2 draws more times near the data, where
            detail is decided, than the uniform 1.
        labels: The class of each datum, integers `(num,)`; batches of the host have their own.
        label_dropout: Probability that a label is replaced by the null label, `classes`, for
            classifier-free guidance.
        classes: Number of classes; if missing, that of the network's `config`.
        ema_decay: Decay of the averaged parameters, in [0, 1).
        flip: Whether images are mirrored left to right with probability one half.
        accumulate: Micro-batches to a step: the batch's own gradient, in less memory.
        on_nonfinite: A loss or gradient that is not finite raises `NonFiniteError` (`stop`), or its
            update is not applied and counted in `state.skipped` (`skip`).
        steps_per_call: Most steps in one call of the device; chosen for device and network if
            missing.
        mesh: Devices over which batch and state are spread, see `kacjax.sharding.make_mesh`.
        trainable: What of the network is trained: a pytree of bools, or a function of a leaf, as
            in `equinox.partition`; for an NNX module a filter such as `nnx.LoRAParam`. By default
            `kacjax.velocity.trainable(network)`.
        state: A state to go on from, with fewer than `steps` steps; it is read, not used up.
        callback: Called as `callback(step, metrics)` after every call of the device.
        progress: Whether to show a progress bar.

    Returns:
        The averaged velocity, and a record of the training.

    Raises:
        ValueError: If data or labels do not fit each other or the network, or an argument is out
            of its range.
        NonFiniteError: A `FloatingPointError`, if loss or gradient stop being finite.

    Example:
        >>> network, path = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8), kacjax.kac_path()
        >>> data = np.random.default_rng(0).normal(size=(100, 2))
        >>> run = kacjax.fit(network, path, data, jax.random.key(0), 5, 16, progress=False)
        >>> run.losses.shape
        (5,)
    """
    arguments = locals()
    trainer = Trainer(**{f.name: arguments[f.name] for f in dataclasses.fields(Trainer)})
    if hasattr(data, "__array__"):
        source = trainer.device_data(data, labels)
    elif labels is not None:
        raise ValueError("labels must be None if data are batches, which have their own.")
    elif isinstance(data, Iterable):
        source = iter(data)
    else:
        raise ValueError(f"data must be an array or an iterable of batches, got {data!r:.100}.")
    # A copy, because a run uses its state up.
    current = trainer.init(key) if state is None else jax.tree.map(jnp.copy, state)
    first = int(current.step)
    if first >= steps:
        raise ValueError(f"state must have fewer than steps={steps} steps, got {first}.")
    begin = time.perf_counter()
    show = progress and jax.process_index() == 0
    with tqdm(total=steps, initial=first, disable=not show, unit="step", dynamic_ncols=True) as bar:

        def report(step: int, metrics: StepMetrics) -> None:
            good = metrics.loss[metrics.finite]
            bar.set_postfix({"loss": f"{good.mean():.4g}"} if len(good) else {}, refresh=False)
            bar.update(step - bar.n)
            if callback is not None:
                callback(step, metrics)

        current, metrics = trainer.run(current, source, steps, report)
    elapsed = time.perf_counter() - begin - trainer.compile_seconds
    velocity, taken = trainer.velocity(current), np.asarray(metrics.loss)
    speed = len(taken) / elapsed
    return FitResult(velocity, current, taken, speed, trainer.compile_seconds, metrics)
