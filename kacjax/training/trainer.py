"""The loop of training: whole, or in pieces between which a run can stop and go on."""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from tqdm import tqdm

from kacjax import losses, sharding
from kacjax._typing import Key
from kacjax._validation import as_arrays, check_choice, check_count, check_positive
from kacjax.losses.objectives import choose_objective
from kacjax.paths import ProbabilityPath
from kacjax.predictions import Prediction
from kacjax.training import data as feed
from kacjax.training import step as stepping
from kacjax.training.data import DeviceData
from kacjax.training.step import (
    FitResult,
    NonFiniteError,
    Plan,
    StepMetrics,
    TrainState,
    join_metrics,
)
from kacjax.velocity import Velocity, trainable, wrap_network

Callback = Callable[[int, StepMetrics], Any]
_STEPS_PER_CALL = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer(stepping.Options):
    """The choices of a training run, as in `fit`, and the means to start it and to carry it on.

    A run that is saved between two calls of `run` and goes on from there equals one that never
    stopped, to the last bit on one device.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
        >>> trainer = kacjax.Trainer(network, kacjax.kac_path(), steps=4, batch_size=8)
        >>> source = trainer.device_data(np.zeros((20, 2)))
        >>> state, metrics = trainer.run(trainer.init(jax.random.key(0)), source, until=3)
        >>> int(state.step), metrics.loss.shape
        (3, (3,))
    """

    network: Any
    path: ProbabilityPath
    _: dataclasses.KW_ONLY
    steps: int = 20_000
    optimizer: optax.GradientTransformation | None = None
    objective: Any = None
    weight: losses.Weight = "balanced"
    time_power: float = 2.0
    times: Any = None
    coupling: Any = "independent"
    null_label: Any = None
    steps_per_call: int | None = None
    trainable: Any = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "steps_per_call"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        check_positive("time_power", self.time_power)
        check_choice("on_nonfinite", self.on_nonfinite, ("skip", "stop"))
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        optimizer = self.optimizer
        if not (optimizer is None or callable(getattr(optimizer, "update", None))):
            got = f"got {optimizer!r:.80}"
            raise ValueError(f"optimizer must be an optax.GradientTransformation, {got}.")
        if self.mesh is not None:
            object.__setattr__(self, "mesh", sharding.with_automatic_axes(self.mesh))
        sharding.check_batch_size(self.batch_size, self.mesh, self.accumulate)
        classes = self._parts[2].classes  # Made now, for the errors of its making.
        if self.label_dropout and classes is None and self.null_label is None:
            raise ValueError("label_dropout needs classes, their number, or null_label; got None.")

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any, Plan]:
        """The arrays of network and path, and the plan of the program that takes them."""
        network, spec = self.network, self.trainable
        if isinstance(network, nnx.Module):
            network, spec = wrap_network(network, nnx.Param if spec is None else spec), None
        velocity = Velocity(network, as_arrays(self.path), self.prediction, self.classes)
        network = velocity.network
        chosen = eqx.filter(network, trainable(network) if spec is None else spec)
        chosen = eqx.filter(chosen, eqx.is_inexact_array)
        if not jax.tree.leaves(chosen):
            raise ValueError("network must hold parameters to train, got none.")
        mask = jax.tree.map(lambda x: x is not None, chosen, is_leaf=lambda x: x is None)
        params, network_rest = stepping.split_arrays(network)
        names = "weight", "time_power", "label_dropout", "times", "coupling", "null_label"
        own = {name: getattr(self, name) for name in names}
        objective = choose_objective(self.objective, **own)
        given, given_rest = stepping.split_arrays((velocity.path, as_arrays(objective)))
        optimizer = self.optimizer or stepping.default_optimizer(self.steps)
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(stepping.Options)}
        options["classes"] = velocity.classes
        static = network_rest, given_rest, stepping.Static(mask), optimizer
        return params, given, Plan(*static, **options)

    @functools.cached_property
    def _memory(self) -> dict[Any, Any]:
        """Seconds of compiling, steps to a call for each kind of data, and the last cursor."""
        return {"seconds": 0.0}

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._memory["seconds"]

    def init(self, key: Key) -> TrainState:
        """The state before the first step; a `ValueError` if `key` is no `jax.random.key`."""
        if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise ValueError(f"key must be a jax.random.key, got {key!r:.100}.")
        params, _, plan = self._parts
        return sharding.shard_state(plan.init(params, key), self.mesh)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of a state, without its numbers: what a checkpoint restores."""
        params, _, plan = self._parts
        shapes = jax.eval_shape(lambda params: plan.init(params, jax.random.key(0)), params)
        if self.mesh is None:
            return shapes
        struct = lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where)  # noqa: E731
        return jax.tree.map(struct, shapes, sharding.state_sharding(shapes, self.mesh))

    def velocity(self, state: TrainState) -> Velocity:
        """The velocity of the averaged parameters, which get the types of the network's again."""
        _, given, plan = self._parts
        return plan.average(state, given)

    def device_data(self, data: Any, labels: Any = None) -> DeviceData:
        """Checks data and labels, and moves them to the devices, where they stay; see `fit`."""
        source = feed.check_data(data, labels, self._parts[2].classes, self.flip)
        return self._place(source, sharding.replicate)

    def lower(self, state: TrainState, source: DeviceData) -> jax.stages.Lowered:
        """The program of `run` on device data, before it is compiled: to look at, or to compile."""
        _, given, plan = self._parts
        cursor, count = self._cursor(state, source, 0), jnp.zeros((), jnp.int32)
        programs = stepping.programs_of(plan, self._capacity(source))
        return programs.loop.lower(state, cursor, given, source, count)

    def run(
        self,
        state: TrainState,
        source: DeviceData | Iterator[Any],
        until: int | None = None,
        callback: Callback | None = None,
    ) -> tuple[TrainState, StepMetrics]:
        """Carries a run on.

        Args:
            state: The state, whose buffers are used up: it must not be read again.
            source: What `device_data` made; or an iterator over batches of the host, see `fit`, of
                which no more are taken than there are steps. On several processes each passes its
                own part of every batch.
            until: The step to stop at, at most and by default `steps`.
            callback: Called as `callback(step, metrics)` after every call of the device.

        Returns:
            The state, and the metrics of the steps taken, as NumPy arrays.

        Raises:
            ValueError: If `source` is no iterator, a batch does not fit the network, `batch_size`
                or its labels, or there is none though there are steps left.
            NonFiniteError: If loss or gradient were not finite, unless that is skipped.
        """
        if not isinstance(source, DeviceData | Iterator):
            asked = "what device_data returns, or an iterator, such as iter(batches)"
            raise ValueError(f"source must be {asked}; got a {type(source).__name__}.")
        until = self.steps if until is None else min(until, self.steps)
        state = sharding.shard_state(state, self.mesh)
        step, parts = int(state.step), []
        calls = self._calls(state, source, step, until) if step < until else ()
        for state, metrics in calls:
            parts.append(metrics)
            step += len(metrics.loss)
            if self.on_nonfinite == "stop" and not metrics.finite.all():
                raise NonFiniteError(state, join_metrics(parts))
            if callback is not None:
                callback(step, metrics)
        if not parts and step < until:  # A loop until the last step would never end.
            asked = f"a batch for each step from {step} to {until}"
            raise ValueError(f"source must hold {asked}, got none.")
        return state, join_metrics(parts)

    def _calls(self, state: TrainState, source: Any, step: int, until: int) -> Iterator[Any]:
        """The states and metrics after each call of the device."""
        _, given, plan = self._parts
        if isinstance(source, DeviceData):
            cursor, capacity = self._cursor(state, source, step), self._capacity(source)
            programs = stepping.programs_of(plan, capacity)
            while capacity > 1 and step < until:
                count = np.asarray(min(capacity, until - step), np.int32)
                arguments = state, cursor, given, source, count
                state, cursor, *found = self._timed(programs, programs.loop, *arguments)
                rows, done = jax.device_get(found)
                step += int(done)
                yield state, jax.tree.map(lambda many, n=int(done): many[:n], rows)
            batches = itertools.repeat(source, until - step)  # None are left after the loop.
        else:
            cursor, programs = None, stepping.programs_of(plan, 1)
            batches = feed.prefetch(itertools.islice(source, until - step), self._batch)
        going, pending = jnp.asarray(True), collections.deque()
        for batch in batches:
            arguments = state, cursor, going, given, batch
            state, cursor, going, rows = self._timed(programs, programs.step, *arguments)
            pending.append(rows)
            if len(pending) > feed.AHEAD:
                yield state, jax.device_get(pending.popleft())
        while pending:
            yield state, jax.device_get(pending.popleft())
        if cursor is not None:
            self._memory["cursor"] = self._position(state, source, until), cursor

    def _timed(self, programs: stepping.Programs, program: Callable, *arguments: Any) -> Any:
        """Calls a program, and adds the time up if it was compiled for that."""
        before, begin = programs.built, time.perf_counter()
        result = program(*arguments)  # It returns before the device is done.
        if programs.built > before:
            self._memory["seconds"] += time.perf_counter() - begin
        return result

    def _cursor(self, state: TrainState, source: DeviceData, step: int) -> feed.Cursor:
        """The position in the data at a step, made anew unless the last run ended there."""
        key, num = jax.random.split(state.key)[0], source.data.shape[0]
        last, cursor = self._memory.pop("cursor", (None, None))
        if last != self._position(state, source, step):
            cursor = feed.cursor_at(key, step, self.batch_size, num, self.flip)
        return sharding.replicate(cursor, self.mesh)

    def _position(self, state: TrainState, source: DeviceData, step: int) -> tuple[Any, ...]:
        return step, len(source.data), np.asarray(jax.random.key_data(state.key)).tobytes()

    def _batch(self, batch: Any) -> DeviceData:
        size = self.batch_size // (1 if self.mesh is None else jax.process_count())
        checked = feed.check_batch(batch, size, self._parts[2].classes)
        return self._place(checked, sharding.global_batch)

    def _place(self, source: DeviceData, spread: Callable[..., DeviceData]) -> DeviceData:
        """Tries the network on data, and moves them to the devices."""
        self._capacity(source)
        return spread(jax.tree.map(jnp.asarray, source) if self.mesh is None else source, self.mesh)

    def _capacity(self, source: DeviceData) -> int:
        """Most steps in one call; the first time for a shape, the network is tried on a datum."""
        event, labels = source.data.shape[1:], source.labels
        if self.label_dropout and labels is None:
            raise ValueError(f"label_dropout={self.label_dropout} needs labels, got None.")
        one = lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape[1:]), leaf.dtype)  # noqa: E731
        label = () if labels is None else (jax.tree.map(one, labels),)
        if (kind := (event, str(label))) in self._memory:
            return self._memory[kind]
        params, given, plan = self._parts
        dtype = jnp.result_type(float)
        t, x = jax.ShapeDtypeStruct((1,), dtype), jax.ShapeDtypeStruct((1, *event), dtype)
        velocity = plan.velocity(params, given)
        shape = f"(num, *{event})"
        try:
            jaxpr, out = jax.make_jaxpr(velocity, return_shape=True)(t, x, *label)
        except (TypeError, ValueError) as error:
            raise ValueError(f"network does not accept data of shape {shape}: {error}") from error
        if out.shape[1:] != event:
            raise ValueError(f"data have the shape {shape}, but the network returns {out}.")
        devices = jax.devices() if self.mesh is None else list(self.mesh.devices.flat)
        # XLA compiles a convolution's gradient for CPUs ten times slower within a loop.
        slow = devices[0].platform == "cpu" and "conv_general_dilated" in str(jaxpr)
        capacity = self.steps_per_call or (1 if slow else _STEPS_PER_CALL)
        return self._memory.setdefault(kind, capacity)


def fit(
    network: Any,
    path: ProbabilityPath,
    data: Any,
    key: Key,
    steps: int = 20_000,
    batch_size: int = 256,
    *,
    optimizer: optax.GradientTransformation | None = None,
    prediction: str | Prediction = "x0",
    objective: Any = None,
    weight: losses.Weight = "balanced",
    time_power: float = 2.0,
    times: Any = None,
    coupling: Any = "independent",
    labels: Any = None,
    label_dropout: float = 0.0,
    null_label: Any = None,
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
        network: As in `kacjax.Velocity`; it is read, not changed.
        path: Path from data to noise.
        data: An array `(num, *event)` of floats or bytes (uint8, which stand for `[-1, 1]`); each
            epoch is a new permutation of it. Or an iterable of batches of the host, gone through
            once; if it ends early, so does the training. A batch is an array `(batch_size,
            *event)`, a pair of it and labels, or a mapping with `x` or `image`, `y` or `label`.
        key: Random key, `jax.random.key(seed)`.
        steps: Optimizer steps.
        batch_size: Data in one step, over all devices.
        optimizer: Any Optax optimizer; `default_optimizer(steps)` if missing.
        prediction: What the network outputs, the data `x0`, the `velocity`, EDM's mixture of data
            and noise, `edm`, or a `kacjax.predictions.Prediction`.
        objective: What is minimized, a `kacjax.losses.Objective`, if not `flow_matching_loss`; it draws
            times and noise itself, so that the next four stay at their defaults.
        weight: Weight of the loss at each time, see `flow_matching_loss`.
        time_power: Exponent of the times' distribution, 1 if uniform; 2 has more near the data.
        times: How times are drawn instead: `times(key, path, batch)`, as `losses.LogNormalTimes`.
        coupling: Which datum meets which noise: `independent`, `ot` or a callable, see
            `kacjax.couplings`. It sees the whole batch.
        labels: The class of each datum, integers `(num,)`, or its condition, floats `(num, ...)` or a
            pytree of arrays that have the data first; batches of the host have their own.
        label_dropout: Probability of the null label, for classifier-free guidance.
        null_label: That label, by default `classes`: a number, or one condition.
        classes: Number of classes; if missing, that of the network's `config`.
        ema_decay: Decay of the averaged parameters, in [0, 1).
        flip: Whether images are mirrored left to right with probability one half.
        accumulate: Micro-batches to a step: the batch's own gradient, in less memory.
        on_nonfinite: A loss or gradient that is not finite raises `NonFiniteError` (`stop`), or its
            update is not applied and counted in `state.skipped` (`skip`).
        steps_per_call: Most steps in one call of the device; chosen if missing.
        mesh: Devices over which batches are spread, along all axes of the mesh, and the state along an
            axis `fsdp`; see `kacjax.sharding.make_mesh`.
        trainable: What is trained, by default `kacjax.velocity.trainable(network)`: a pytree of
            bools or a function of a leaf, as in `equinox.partition`; for an NNX module a filter.
        state: A state to go on from, with fewer than `steps` steps; it is read, not used up.
        callback: Called as `callback(step, metrics)` after every call of the device.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If data, labels and network do not fit, or an argument is out of its range.
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
    compiling, taken = trainer.compile_seconds, np.asarray(metrics.loss)
    speed = len(taken) / (time.perf_counter() - begin - compiling)
    return FitResult(trainer.velocity(current), current, taken, speed, compiling, metrics)
