"""The loop of training, in pieces between which a run can stop and go on."""

import collections
import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from kacjax import sharding
from kacjax._pytrees import as_arrays
from kacjax._typing import Key
from kacjax._validation import check_choice, check_count, check_positive
from kacjax.losses import Weight
from kacjax.paths import ProbabilityPath
from kacjax.training.data import (
    AHEAD,
    Cursor,
    DeviceData,
    check_batch,
    check_data,
    cursor_at,
    prefetch,
)
from kacjax.training.state import NonFiniteError, StepMetrics, TrainState, join_metrics
from kacjax.training.step import (
    Plan,
    Programs,
    Static,
    default_optimizer,
    programs_of,
    split_arrays,
)
from kacjax.velocity import Velocity, trainable, wrap_network

Callback = Callable[[int, StepMetrics], Any]
"""Called as `callback(step, metrics)` after each call, with the metrics of its steps on the host."""

_STEPS_PER_CALL = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """The choices of a training run, and the means to start it and to carry it on.

    What a step does depends on the state and the data alone: a run that is saved between two calls
    of `run` and goes on from there equals one that never stopped, to the last bit on one device.

    Attributes and errors are the arguments and errors of `fit`.

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
    batch_size: int = 256
    optimizer: optax.GradientTransformation | None = None
    prediction: str = "x0"
    weight: Weight = "balanced"
    time_power: float = 2.0
    label_dropout: float = 0.0
    classes: int | None = None
    ema_decay: float = 0.999
    flip: bool = False
    accumulate: int = 1
    on_nonfinite: str = "stop"
    steps_per_call: int | None = None
    mesh: Mesh | None = None
    trainable: Any = None

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate"):
            check_count(name, getattr(self, name))
        if self.steps_per_call is not None:
            check_count("steps_per_call", self.steps_per_call)
        check_positive("time_power", self.time_power)
        check_choice("on_nonfinite", self.on_nonfinite, ("skip", "stop"))
        for name in ("ema_decay", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}.")
        if not (self.optimizer is None or callable(getattr(self.optimizer, "update", None))):
            raise ValueError(
                f"optimizer must be an optax.GradientTransformation, got {self.optimizer!r}."
            )
        sharding.check_batch_size(self.batch_size, self.mesh, self.accumulate)
        classes = self._parts[2].classes
        if self.label_dropout and classes is None:
            raise ValueError("label_dropout needs classes, the number of classes; got None.")

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
        is_none = lambda leaf: leaf is None  # noqa: E731
        mask = jax.tree.map(lambda leaf: leaf is not None, chosen, is_leaf=is_none)
        params, network_rest = split_arrays(network)
        path, path_rest = split_arrays(velocity.path)
        own: dict[str, Any] = {
            f.name: getattr(self, f.name, None) for f in dataclasses.fields(Plan)
        }
        own |= {"network": network_rest, "path": path_rest, "trained": Static(mask)}
        own |= {"optimizer": self.optimizer or default_optimizer(self.steps)}
        own["classes"] = velocity.classes
        return params, path, Plan(**own)

    @functools.cached_property
    def _memory(self) -> dict[Any, Any]:
        """Seconds of compiling, steps to a call for each kind of data, and the last cursor."""
        return {"seconds": 0.0}

    @property
    def compile_seconds(self) -> float:
        """Time spent compiling so far."""
        return self._memory["seconds"]

    def init(self, key: Key) -> TrainState:
        """The state before the first step, with the parameters of the network.

        Raises:
            ValueError: If `key` is no `jax.random.key`.
        """
        if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            raise ValueError(f"key must be a jax.random.key, got {key!r:.100}.")
        params, _, plan = self._parts
        state = plan.init(params, key)
        return state if self.mesh is None else sharding.shard_state(state, self.mesh)

    def abstract_state(self) -> TrainState:
        """Shapes, types and shardings of a state, without its numbers: what a checkpoint restores."""
        params, _, plan = self._parts
        shapes = jax.eval_shape(lambda params: plan.init(params, jax.random.key(0)), params)
        if self.mesh is None:
            return shapes
        return jax.tree.map(
            lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where),
            shapes,
            sharding.state_sharding(shapes, self.mesh),
        )

    def velocity(self, state: TrainState) -> Velocity:
        """The velocity of the averaged parameters, which get the types of the network's again."""
        _, path, plan = self._parts
        average = jax.tree.map(
            lambda mean, own: mean.astype(own.dtype),
            state.ema,
            eqx.filter(state.params, plan.trained.tree),
        )
        return plan.velocity(eqx.combine(average, state.params), path)

    def device_data(self, data: Any, labels: Any = None) -> DeviceData:
        """Checks data and labels, and moves them to the devices, where they stay; see `fit`."""
        source = check_data(data, labels, self._parts[2].classes, self.flip)
        self._capacity(source)
        if self.mesh is not None:
            return sharding.replicate(source, self.mesh)
        return jax.tree.map(jnp.asarray, source)

    def lower(self, state: TrainState, source: DeviceData) -> jax.stages.Lowered:
        """The program of `run` on device data, before it is compiled: to look at, or to compile."""
        _, path, plan = self._parts
        programs, count = programs_of(plan, self._capacity(source)), jnp.zeros((), jnp.int32)
        cursor = self._cursor(state, source, 0)
        return programs.loop.lower(state, cursor, path, source, count)

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
            source: What `device_data` made, of which each epoch is a new permutation. Or an iterator
                over batches of the host, see `fit`; no more of them are taken than there are steps,
                so that its position belongs to the state returned. On several processes each
                passes its own part of every batch.
            until: The step to stop at, at most and by default `steps`; an iterator that ends stops
                the run before.
            callback: Called as `callback(step, metrics)` after every call of the device.

        Returns:
            The state, and the metrics of the steps taken, as NumPy arrays.

        Raises:
            ValueError: If `source` is no iterator, a batch does not fit the network, `batch_size`
                or its labels, or there is none though there are steps left.
            NonFiniteError: If loss or gradient were not finite, unless that is skipped. It holds
                the last good state.
        """
        if not isinstance(source, DeviceData | Iterator):
            raise ValueError(
                "source must be what device_data returns, or an iterator, whose position belongs to "
                f"the run: iter(batches); got a {type(source).__name__}."
            )
        until = self.steps if until is None else min(until, self.steps)
        if self.mesh is not None:
            state = sharding.shard_state(state, self.mesh)
        step, parts = int(state.step), []
        calls = self._calls(state, source, step, until) if step < until else ()
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

    def _calls(
        self, state: TrainState, source: Any, step: int, until: int
    ) -> Iterator[tuple[TrainState, StepMetrics]]:
        """The states and metrics after each call of the device."""
        _, path, plan = self._parts
        if isinstance(source, DeviceData):
            cursor, capacity = self._cursor(state, source, step), self._capacity(source)
            programs = programs_of(plan, capacity)
            while capacity > 1 and step < until:
                count = np.asarray(min(capacity, until - step), np.int32)
                state, cursor, rows, done = self._timed(
                    programs, programs.loop, state, cursor, path, source, count
                )
                rows, done = jax.device_get((rows, done))
                step += int(done)
                yield state, jax.tree.map(lambda many, n=int(done): many[:n], rows)
            batches = itertools.repeat(source, until - step)  # None are left after the loop.
        else:
            cursor, programs = None, programs_of(plan, 1)
            batches = prefetch(itertools.islice(source, until - step), self._place)
        going, pending = jnp.asarray(True), collections.deque()
        for batch in batches:
            state, cursor, going, rows = self._timed(
                programs, programs.step, state, cursor, going, path, batch
            )
            pending.append(rows)
            if len(pending) > AHEAD:
                yield state, jax.device_get(pending.popleft())
        while pending:
            yield state, jax.device_get(pending.popleft())
        if cursor is not None:
            self._memory["cursor"] = self._position(state, source, until), cursor

    def _timed(self, programs: Programs, program: Callable[..., Any], *arguments: Any) -> Any:
        """Calls a program, and adds the time up if it was compiled for that."""
        before, begin = programs.built, time.perf_counter()
        result = program(*arguments)  # It returns before the device is done.
        if programs.built > before:
            self._memory["seconds"] += time.perf_counter() - begin
        return result

    def _cursor(self, state: TrainState, source: DeviceData, step: int) -> Cursor:
        """The position in the data at a step, made anew unless the last run ended there."""
        key, num = jax.random.split(state.key)[0], source.data.shape[0]
        last, cursor = self._memory.pop("cursor", (None, None))
        if last != self._position(state, source, step):
            cursor = cursor_at(key, step, self.batch_size, num, self.flip)
        return cursor if self.mesh is None else sharding.replicate(cursor, self.mesh)

    def _position(self, state: TrainState, source: DeviceData, step: int) -> tuple[Any, ...]:
        return step, len(source.data), np.asarray(jax.random.key_data(state.key)).tobytes()

    def _place(self, batch: Any) -> DeviceData:
        """Checks a host batch and moves it to the devices."""
        size = self.batch_size // (1 if self.mesh is None else jax.process_count())
        checked = check_batch(batch, size, self._parts[2].classes)
        self._capacity(checked)
        if self.mesh is not None:
            return sharding.global_batch(checked, self.mesh)
        return jax.tree.map(jnp.asarray, checked)

    def _capacity(self, source: DeviceData) -> int:
        """Most steps in one call; the first time for a shape, the network is tried on a datum.

        On CPUs, XLA compiles the gradient of a convolution within a loop to code ten times slower
        than outside.
        """
        event, labelled = source.data.shape[1:], source.labels is not None
        if self.label_dropout and not labelled:
            raise ValueError(f"label_dropout={self.label_dropout} needs labels, got None.")
        if (event, labelled) in self._memory:
            return self._memory[event, labelled]
        params, path, plan = self._parts
        dtype = jnp.result_type(float)
        t, x = jax.ShapeDtypeStruct((1,), dtype), jax.ShapeDtypeStruct((1, *event), dtype)
        given = (jax.ShapeDtypeStruct((1,), jnp.int32),) if labelled else ()
        velocity = plan.velocity(params, path)
        try:
            jaxpr, out = jax.make_jaxpr(velocity, return_shape=True)(t, x, *given)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"network does not accept data of shape (num, *{event}): {error}"
            ) from error
        if out.shape[1:] != event:
            raise ValueError(f"data have the shape (num, *{event}), but the network returns {out}.")
        devices = jax.devices() if self.mesh is None else list(self.mesh.devices.flat)
        slow = devices[0].platform == "cpu" and "conv_general_dilated" in str(jaxpr)
        capacity = self.steps_per_call or (1 if slow else _STEPS_PER_CALL)
        self._memory[event, labelled] = capacity
        return capacity
