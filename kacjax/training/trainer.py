"""The loop that serves every experiment, in pieces between which a run can stop and go on."""

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from kacjax import sharding
from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_choice, check_count, check_positive, is_concrete
from kacjax.paths import ProbabilityPath
from kacjax.training.loop import Programs, resident_program, stream_program
from kacjax.training.metrics import NonFiniteError, StepMetrics, join_metrics
from kacjax.training.optimiser import make_optimiser
from kacjax.training.source import (
    AHEAD,
    ResidentData,
    check_batch,
    check_resident,
    prefetch,
)
from kacjax.training.state import TrainState, init_state
from kacjax.training.step import NONFINITE_POLICIES, train_step
from kacjax.training.velocity import NetworkVelocity

Callback = Callable[[int, StepMetrics], Any]
"""Called as `callback(step, metrics)` after each call, with the metrics of its steps on the host."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """The choices of a training run, and the means to start it and to carry it on.

    ```python
    trainer = Trainer(model, path, steps=20_000, batch_size=256)
    source = trainer.resident(data)
    state = trainer.init(key)
    while int(state.step) < trainer.steps:
        state, metrics = trainer.run(state, source, int(state.step) + 1000)
        ...  # save the state, log the metrics, generate from trainer.velocity(state)
    ```

    What a step does depends on the state and the data alone: a run that is saved between two calls
    of `run` and goes on from there equals one that never stopped, to the last bit on one device.

    Attributes:
        model: Flax NNX module called as `model(t, x)`, with an output of the shape of `x`; where
            there are labels as `model(t, x, label)`, and with the keyword `key` for dropout if it
            takes one. It is read, not changed.
        path: Path from data to noise.
        steps: Optimiser steps of the whole run.
        batch_size: Data in one step, over all devices.
        learning_rate: Peak of the learning rate.
        warmup: Steps of linear warm-up, at most half of all.
        schedule: The learning rate after that: `cosine` or `linear` fall to zero, `constant` stays.
        b2: Decay of Adam's mean of squares, in [0, 1).
        clip: Largest global norm of a gradient.
        ema_decay: Decay of the averaged parameters, in [0, 1).
        time_power: Exponent of the times' distribution; see `flow_matching_loss`. 2 draws more
            times near the data, where detail is decided, than the uniform 1.
        parameterisation: What the network outputs, `data` or `velocity`: see `NetworkVelocity`.
        label_dropout: Probability that a label is replaced by the null label, `classes`, for
            classifier-free guidance.
        classes: Number of classes; if missing, that of the model's `config`. If both are there,
            they must agree.
        flip: Whether resident images are mirrored left to right with probability one half.
        accumulate: Micro-batches to a step, for less memory; see `train_step`.
        on_nonfinite: A loss or gradient that is not finite raises `NonFiniteError` (`stop`), or
            its update is not applied and counted in `state.skipped` (`skip`).
        steps_per_call: Most steps in one call of the device. On the CPU 1 is best for networks
            with convolutions, which XLA makes slow there within a loop.
        mesh: Devices over which batch and state are spread, see `kacjax.sharding.make_mesh`; the
            default device if missing.

    Raises:
        ValueError: If a number is out of its range, a name unknown, the batch does not divide
            over devices and micro-batches, the model holds variables that are not floating, or
            its `config` has other `classes` than given here or another `T` than the path.
    """

    model: nnx.Module
    path: ProbabilityPath
    _: dataclasses.KW_ONLY
    steps: int = 20_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    warmup: int = 500
    schedule: str = "cosine"
    b2: float = 0.99
    clip: float = 1.0
    ema_decay: float = 0.999
    time_power: float = 2.0
    parameterisation: str = "data"
    label_dropout: float = 0.0
    classes: int | None = None
    flip: bool = False
    accumulate: int = 1
    on_nonfinite: str = "stop"
    steps_per_call: int = 200
    mesh: Mesh | None = None

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "steps_per_call"):
            check_count(name, getattr(self, name))
        check_positive("time_power", self.time_power)
        check_choice("on_nonfinite", self.on_nonfinite, NONFINITE_POLICIES)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must lie in [0, 1), got {self.ema_decay}.")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}.")
        self._check_config()
        if self.label_dropout and self._classes is None:
            raise ValueError("label_dropout needs classes, the number of classes; got None.")
        sharding.check_batch_size(self.batch_size, self.mesh, self.accumulate)
        _check_floating(self.structure.parameters)
        _ = self.optimiser

    @cached_property
    def optimiser(self) -> optax.GradientTransformation:
        """The optimiser."""
        return make_optimiser(
            self.learning_rate, self.steps, self.warmup, self.clip, self.schedule, self.b2
        )

    @cached_property
    def structure(self) -> NetworkVelocity:
        """The velocity of the untrained model."""
        graphdef, parameters = nnx.split(self.model)
        return NetworkVelocity(parameters, self.path, graphdef, self.parameterisation)

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._resident.seconds + self._stream.seconds

    def init(self, key: Key) -> TrainState:
        """The state before the first step, with the model's parameters."""
        state = init_state(self.structure.parameters, self.optimiser, key)
        return state if self.mesh is None else sharding.shard_state(state, self.mesh)

    def abstract_state(self) -> TrainState:
        """Shapes, types and places of a state, without its numbers: what a checkpoint restores."""
        shapes = jax.eval_shape(
            lambda parameters: init_state(parameters, self.optimiser, jax.random.key(0)),
            self.structure.parameters,
        )
        if self.mesh is None:
            return shapes
        return jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
            shapes,
            sharding.state_sharding(shapes, self.mesh),
        )

    def velocity(self, state: TrainState) -> NetworkVelocity:
        """The velocity function of the averaged parameters."""
        return dataclasses.replace(self.structure, parameters=state.ema)

    def resident(self, data: ArrayLike, labels: ArrayLike | None = None) -> ResidentData:
        """Checks data and moves them to the devices, where they stay.

        Args:
            data: Of shape `(num, *event)`: floats, or bytes that stand for numbers in `[-1, 1]`.
            labels: Integers of shape `(num,)`.

        Raises:
            ValueError: If data are empty, not finite or not of the model's shape, or the labels
                do not fit.
        """
        source = check_resident(data, labels, self._classes)
        self._check_fit(source.data.shape[1:], labelled=labels is not None)
        if self.mesh is not None:
            return sharding.replicate(source, self.mesh)
        return jax.tree.map(jnp.asarray, source)

    def compile(self, state: TrainState, source: ResidentData) -> None:
        """Compiles ahead of the first call of `run`."""
        self._resident.compile(state, source, np.asarray(0, np.int32))

    def run(
        self,
        state: TrainState,
        source: ResidentData | Iterable[Any],
        until: int | None = None,
        callback: Callback | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        """Carries a run on.

        Args:
            state: The state, whose buffers are used up: it must not be read again.
            source: Resident data, of which each epoch is a new permutation, drawn on the device,
                many steps to a call. Or an iterator over batches of the host, each an array or a
                pair of an array and labels, one step to a call; no more of them are taken than
                there are steps, so that its position belongs to the state returned. On several
                processes each passes its own part of every batch.
            until: The step to stop at, at most and by default `steps`; an iterator that ends stops
                the run before.
            callback: Called as `callback(step, metrics)` after every call.

        Returns:
            The state, and the metrics of the steps taken as NumPy arrays with a first axis of
            steps: as many as the iterator had batches, if it ended early.

        Raises:
            ValueError: If a batch does not fit the model or `batch_size`, its labels do not fit,
                or an iterator has no batch though there are steps left.
            NonFiniteError: If loss or gradient were not finite, unless that is skipped. It holds
                the last good state.
        """
        until = self.steps if until is None else min(until, self.steps)
        if self.mesh is not None:
            state = sharding.shard_state(state, self.mesh)
        step = int(state.step)
        if isinstance(source, ResidentData):
            calls = self._run_resident(state, source, step, until)
        else:
            calls = self._run_stream(state, source, step, until)
        parts: list[StepMetrics] = []
        for current, metrics in calls:
            state = current
            parts.append(metrics)
            step += len(metrics.loss)
            if self.on_nonfinite == "stop" and not metrics.finite.all():
                raise NonFiniteError(state, join_metrics(parts))
            if callback is not None:
                callback(step, metrics)
        if not parts and step < until:
            # Else a loop until the last step would never end.
            raise ValueError(
                f"source must hold a batch for each step from {step} to {until}, got none."
            )
        return state, join_metrics(parts)

    def _run_resident(self, state: TrainState, source: ResidentData, step: int, until: int):
        while step < until:
            count = np.asarray(min(self.steps_per_call, until - step), np.int32)
            state, metrics, done = self._resident(state, source, count)
            metrics, done = jax.device_get((metrics, done))
            step += int(done)
            yield state, jax.tree.map(lambda rows, n=int(done): rows[:n], metrics)

    def _run_stream(self, state: TrainState, batches: Iterable[Any], step: int, until: int):
        moving: Any = np.asarray(True)
        pending: collections.deque[StepMetrics] = collections.deque()

        def oldest():
            return jax.tree.map(lambda row: row[None], jax.device_get(pending.popleft()))

        for batch in prefetch(itertools.islice(batches, until - step), self._place):
            state, moving, metrics = self._stream(state, moving, batch)
            pending.append(metrics)
            if len(pending) > AHEAD:
                yield state, oldest()
        while pending:
            yield state, oldest()

    def _place(self, batch: Any) -> Any:
        """Checks a host batch and moves it to the devices."""
        size = self.batch_size // (1 if self.mesh is None else jax.process_count())
        data, labels = check_batch(batch, size, self._classes)
        self._check_fit(data.shape[1:], labelled=labels is not None)
        if self.mesh is not None:
            return sharding.global_batch((data, labels), self.mesh)
        return jax.tree.map(jnp.asarray, (data, labels))

    @cached_property
    def _step(self):
        return partial(
            train_step,
            velocity=dataclasses.replace(self.structure, parameters=None),
            optimiser=self.optimiser,
            ema_decay=self.ema_decay,
            time_power=self.time_power,
            label_dropout=self.label_dropout,
            null_label=self._classes,
            accumulate=self.accumulate,
            on_nonfinite=self.on_nonfinite,
            mesh=self.mesh,
        )

    @cached_property
    def _resident(self) -> Programs:
        program = resident_program(
            self._step, self.batch_size, self.steps_per_call, self.flip, self.mesh
        )
        return Programs(program, self._out_shardings)

    @cached_property
    def _stream(self) -> Programs:
        return Programs(stream_program(self._step), self._out_shardings)

    @property
    def _out_shardings(self) -> Any:
        if self.mesh is None:
            return None
        whole = sharding.replicated(self.mesh)
        return sharding.state_sharding(self.abstract_state(), self.mesh), whole, whole

    @property
    def _classes(self) -> int | None:
        return self._config.get("classes") if self.classes is None else self.classes

    @property
    def _config(self) -> dict[str, Any]:
        """What the model knows of itself; a network of the user's may know nothing."""
        return getattr(self.model, "config", {})

    def _check_config(self) -> None:
        config = self._config
        if self.classes is not None:
            check_count("classes", self.classes)
            known = config.get("classes", self.classes)
            if known != self.classes:
                # Its null label would be a real class, or none at all.
                raise ValueError(f"classes must be {known}, as of the model, got {self.classes}.")
        T, expected = self.path.T, config.get("T")
        # The path may hold its T in float32.
        if expected is not None and is_concrete(T) and not np.allclose(T, expected, 1e-6, 0):
            raise ValueError(f"path must have the T of the model, {expected}, got {T}.")

    @cached_property
    def _fitting(self) -> set[tuple[tuple[int, ...], bool]]:
        return set()

    def _check_fit(self, event: tuple[int, ...], labelled: bool) -> None:
        """Checks data against labels and model, once for each shape."""
        if self.label_dropout and not labelled:
            raise ValueError(f"label_dropout={self.label_dropout} needs labels, got None.")
        if (event, labelled) not in self._fitting:
            self._check_output(event, labelled)
            self._fitting.add((event, labelled))

    def _check_output(self, event: tuple[int, ...], labelled: bool) -> None:
        """Traces the network on one datum, so that a wrong shape is one clear error."""
        dtype = jnp.result_type(float)
        t, x = jax.ShapeDtypeStruct((1,), dtype), jax.ShapeDtypeStruct((1, *event), dtype)
        label = jax.ShapeDtypeStruct((1,), jnp.int32) if labelled else None
        network = dataclasses.replace(self.structure, parameterisation="velocity")
        try:
            shape: tuple[int, ...] = jax.eval_shape(network, t, x, label).shape[1:]
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"model does not accept data of shape (num, *{event}): {error}"
            ) from error
        if shape != event:
            raise ValueError(f"data have the shape (num, *{event}), but the model returns {shape}.")


def _check_floating(parameters: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(parameters):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise ValueError(
                f"model must hold floating variables only, but {jax.tree_util.keystr(path)} has "
                f"the type {leaf.dtype}; dropout is to take its key with the call, `key=`."
            )
