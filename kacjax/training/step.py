"""One training step: its state and metrics, and the compiled programs of many."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int

from kacjax import sharding
from kacjax._typing import Key
from kacjax._validation import check_choice, check_count, check_positive, widen
from kacjax.training.data import Cursor, DeviceData, next_batch
from kacjax.velocity import Velocity

TIME_BINS = 8
SCHEDULES: dict[str, Callable[[Any, Any], optax.Schedule]] = {
    "constant": lambda peak, _: optax.constant_schedule(peak),
    "cosine": optax.cosine_decay_schedule,
    "linear": lambda peak, steps: optax.linear_schedule(peak, 0.0, steps),
}

AnyArray = Array | np.ndarray


class TrainState(NamedTuple):
    """Everything that a training step reads and writes: one pytree of arrays.

    Attributes:
        params: The arrays of the network, those that are not trained included.
        ema: Exponential moving average of those that are trained, at least in float32.
        opt_state: Optax's state.
        step: Number of steps taken, those that were skipped included.
        key: Random key of the run; what a step draws is a function of it and of `step`.
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
        bin_sums: Sums of the weighted loss over the times in each of 8 equal parts of `[0, T]`.
        bin_counts: How many times these are.
        finite: Whether loss and gradient were finite; if not, there was no update.
    """

    loss: Float[AnyArray, "*steps"]
    gradient_norm: Float[AnyArray, "*steps"]
    bin_sums: Float[AnyArray, "*steps bins"]
    bin_counts: Float[AnyArray, "*steps bins"]
    finite: Bool[AnyArray, "*steps"]


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is not finite.

    Attributes:
        state: The last good state, from before that step.
        metrics: Those of the steps of this run, that step the last.
    """

    def __init__(self, state: TrainState, metrics: StepMetrics):
        self.state: TrainState = state
        self.metrics: StepMetrics = metrics
        what, value, step = "loss", metrics.loss[-1], int(state.step)
        if np.isfinite(value):
            what, value = "gradient's norm", metrics.gradient_norm[-1]
        advice = "try a lower learning rate, gradient clipping or on_nonfinite='skip'."
        if step == 0:
            advice = "at the first step it is the data, the path or the untrained network."
        super().__init__(f"The {what} became {value} at step {step}; {advice}")


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        velocity: The velocity of the averaged parameters.
        state: The final state.
        losses: Loss of every step taken, of shape `(taken,)`.
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
        speed = f"steps_per_second={self.steps_per_second:.0f}"
        rest = f"{speed}, compile_seconds={self.compile_seconds:.1f}"
        return f"FitResult(step={int(self.state.step)}, last loss={last}, {rest})"


def join_metrics(parts: Sequence[StepMetrics]) -> StepMetrics:
    """Joins the metrics of runs of steps, one after the other, on the host."""
    if not parts:
        none, bins = np.zeros(0, np.float32), np.zeros((0, TIME_BINS), np.float32)
        return StepMetrics(none, none, bins, bins, np.zeros(0, bool))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


def learning_rate_schedule(
    steps: int, learning_rate: float = 1e-3, warmup: int = 500, schedule: str = "cosine"
) -> optax.Schedule:
    """The learning rate of `default_optimizer` at each step; arguments and errors are its.

    Example:
        >>> rate = kacjax.training.learning_rate_schedule(1000, learning_rate=1.0, warmup=100)
        >>> [round(float(rate(step)), 2) for step in (0, 50, 100, 1000)]
        [0.0, 0.5, 1.0, 0.0]
    """
    check_count("steps", steps)
    check_count("warmup", warmup, 0)
    check_positive("learning_rate", learning_rate)
    check_choice("schedule", schedule, SCHEDULES)
    peak, rise = float(learning_rate), min(int(warmup), steps // 2)
    after = SCHEDULES[schedule](peak, int(steps) - rise)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), after], [rise])


def default_optimizer(
    steps: int,
    learning_rate: float = 1e-3,
    warmup: int = 500,
    clip: float = 1.0,
    schedule: str = "cosine",
    b2: float = 0.99,
) -> optax.GradientTransformation:
    """Adam with gradient clipping; equal arguments give the same object.

    Args:
        steps: Steps of the whole run.
        learning_rate: Peak of the learning rate.
        warmup: Steps of its linear rise from 0, at most half of all.
        clip: Largest global norm of a gradient.
        schedule: What follows: `cosine` and `linear` fall to 0 at the last step, `constant` stays.
        b2: Decay of Adam's mean of squares, in [0, 1).

    Raises:
        ValueError: If a name is unknown or a number is out of its range.

    Example:
        >>> optimizer = kacjax.training.default_optimizer(1000, learning_rate=2e-4)
        >>> optimizer is kacjax.training.default_optimizer(1000, learning_rate=2e-4)
        True
    """
    learning_rate_schedule(steps, learning_rate, warmup, schedule)  # For its errors.
    check_positive("clip", clip)
    if not 0 <= b2 < 1:
        raise ValueError(f"b2 must lie in [0, 1), got {b2}.")
    return _adam(float(clip), float(b2), int(steps), float(learning_rate), int(warmup), schedule)


@functools.lru_cache(maxsize=64)
def _adam(clip: float, b2: float, *rate_of: Any) -> optax.GradientTransformation:
    rate = learning_rate_schedule(*rate_of)
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(rate, b2=b2))


class Static:
    """A pytree of hashable leaves, which compares by value."""

    def __init__(self, tree: Any):
        leaves, structure = jax.tree.flatten(tree)
        self.tree: Any = tree
        self._key = structure, tuple((type(leaf), leaf) for leaf in leaves)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and self._key == other._key


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Options:
    """The options of `fit` that a program of training is compiled for."""

    batch_size: int = 256
    prediction: Any = "x0"
    label_dropout: float = 0.0
    classes: int | None = None
    ema_decay: float = 0.999
    flip: bool = False
    accumulate: int = 1
    on_nonfinite: str = "stop"
    mesh: Mesh | None = None


@dataclasses.dataclass(frozen=True)
class Plan(Options):
    """All that a program of training is compiled for, numbers of network and path apart."""

    network: Static
    given: Static
    trained: Static
    optimizer: optax.GradientTransformation

    def init(self, params: Any, key: Key) -> TrainState:
        """The state before the first step; it owns its buffers."""
        params = jax.tree.map(jnp.copy, params)
        trained = eqx.filter(params, self.trained.tree)
        zero = jnp.zeros((), jnp.int32)
        # Some optimizers keep the parameters themselves.
        copied = lambda leaf: jnp.copy(leaf) if _is_array(leaf) else leaf  # noqa: E731
        opt_state = jax.tree.map(copied, self.optimizer.init(trained))
        return TrainState(params, _wide(trained), opt_state, zero, jnp.copy(key), jnp.copy(zero))

    def parts(self, given: Any) -> tuple[Any, Any]:
        """The path and the objective of their arrays."""
        return eqx.combine(given, self.given.tree)

    def velocity(self, params: Any, given: Any) -> Velocity:
        """The velocity of the arrays of a network, and of path and objective."""
        network = eqx.combine(params, self.network.tree)
        return Velocity(network, self.parts(given)[0], self.prediction, self.classes)

    def average(self, state: TrainState, given: Any) -> Velocity:
        """The velocity of the averaged parameters, which get the types of the network's again."""
        trained = eqx.filter(state.params, self.trained.tree)
        ema = jax.tree.map(lambda mean, own: mean.astype(own.dtype), state.ema, trained)
        return self.velocity(eqx.combine(ema, state.params), given)


def train_step(
    plan: Plan, state: TrainState, going: Array, given: Any, batch: tuple[Any, Any], key: Key
) -> tuple[TrainState, Bool[Array, ""], StepMetrics]:
    r"""The next state, unless `going` is false; whether the run goes on, and the metrics.

    The average $\bar\theta_{k+1} = d_k \bar\theta_k + (1 - d_k) \theta_{k+1}$ starts fast,
    $d_k = \min(d, (1 + k) / (10 + k))$, so that it forgets the initialization.
    """
    mesh, accumulate = plan.mesh, plan.accumulate
    draw_key, dropout_key = jax.random.split(key)
    x0, labels = sharding.constrain(batch, mesh)
    path, objective = plan.parts(given)
    state_params = sharding.constrain(state.params, mesh, sharding.replicated)
    whole = plan.velocity(state_params, given)
    average = plan.average(state._replace(params=state_params), given)
    # One draw for the whole batch: the noise does not depend on micro-batches or devices.
    draw = objective.draw(whole, average, draw_key, x0, labels, path)
    draw = sharding.constrain(draw, mesh)
    trained, frozen = eqx.partition(eqx.filter(whole.network, _is_array), plan.trained.tree)

    def loss(trained: Any, draw: Any, key: Key) -> tuple[Array, Array]:
        velocity = plan.velocity(eqx.combine(trained, frozen), given)
        errors = objective.errors(velocity, draw, key, path)
        return jnp.mean(errors), errors

    def gradient(draw: Any, index: Array | None = None) -> tuple[Any, Array]:
        own = dropout_key if index is None else jax.random.fold_in(dropout_key, index[0])
        slope, errors = jax.grad(loss, has_aux=True)(trained, sharding.constrain(draw, mesh), own)
        return _wide(sharding.constrain_state(slope, mesh)), errors

    if accumulate == 1:
        slope, errors = gradient(draw)
    else:
        # Micro-batch i is every accumulate-th datum from i on, so that all devices share it.
        kinds = optax.microbatching.AccumulationType
        size, how = len(x0) // accumulate, (kinds.MEAN, kinds.CONCAT)
        micro = optax.microbatch(gradient, (0, 1), size, how)
        slope, errors = micro(draw, jnp.arange(len(x0)) % accumulate)
    mean, norm = jnp.mean(errors), optax.tree.norm(slope)
    finite = jnp.isfinite(mean) & jnp.isfinite(norm)
    number = jnp.floor(draw.t * (TIME_BINS / jnp.asarray(path.T, draw.t.dtype)))
    bins = jnp.arange(TIME_BINS, dtype=number.dtype)[:, None]
    inside = jnp.clip(number, 0, TIME_BINS - 1)[None, :] == bins
    sums = jnp.sum(jnp.where(inside, errors[None, :], 0), axis=1)
    metrics = StepMetrics(mean, norm, sums, jnp.sum(inside, axis=1, dtype=number.dtype), finite)

    applied, held = finite & going, eqx.filter(state.params, plan.trained.tree)
    slope = jax.tree.map(lambda g, old: g.astype(old.dtype), slope, held)

    def move() -> tuple[Any, Any, Any]:
        optimizer = optax.with_extra_args_support(plan.optimizer)
        updates, opt_state = optimizer.update(slope, state.opt_state, held, value=mean)
        new = optax.apply_updates(held, updates)
        count = state.step.astype(mean.dtype)
        share = 1 - jnp.minimum(plan.ema_decay, (1 + count) / (10 + count))

        def average(new: Array, old: Array) -> Array:
            own = share.astype(old.dtype)
            return own * new.astype(old.dtype) + (1 - own) * old

        return new, jax.tree.map(average, new, state.ema), opt_state

    # Not optax.apply_if_finite: it looks at the gradient alone, gives in after a number of errors,
    # and leaves parameters and average outside its branch, which makes the step 7 % slower on CPUs.
    new, ema, opt_state = jax.lax.cond(applied, move, lambda: (held, state.ema, state.opt_state))
    skip = going & ~finite if plan.on_nonfinite == "skip" else jnp.zeros_like(going)
    taken = state.step + (applied | skip).astype(state.step.dtype)
    skipped = state.skipped + skip.astype(state.skipped.dtype)
    state = TrainState(eqx.combine(new, state.params), ema, opt_state, taken, state.key, skipped)
    return sharding.constrain_state(state, mesh), applied | skip, metrics


class Programs:
    """The compiled programs of a plan; `capacity` is the most steps in a call of `loop`."""

    def __init__(self, plan: Plan, capacity: int):
        self._plan, self._capacity = plan, capacity
        self.built: int = 0
        self.step: Callable[..., Any] = jax.jit(self._step, donate_argnums=(0, 1))
        self.loop: Callable[..., Any] = jax.jit(self._loop, donate_argnums=(0, 1))

    def _step(
        self, state: TrainState, cursor: Cursor | None, going: Array, given: Any, source: Any
    ) -> Any:
        """One step, of the batch at the cursor or of the source itself, which then is a batch."""
        self.built += 1
        plan, (data_key, noise_key) = self._plan, jax.random.split(state.key)
        if cursor is None:
            batch = tuple(source)
        else:
            batch, cursor = next_batch(source, data_key, cursor, plan.batch_size, plan.flip)
        key = jax.random.fold_in(noise_key, state.step)
        state, going, metrics = train_step(plan, state, going, given, batch, key)
        return state, cursor, going, jax.tree.map(lambda row: row[None], metrics)

    def _loop(
        self, state: TrainState, cursor: Cursor, given: Any, source: DeviceData, count: Array
    ) -> Any:
        """Up to `count` steps, in one program for all counts; fewer after one that is not finite."""
        going = jnp.asarray(True)
        shapes = jax.eval_shape(self._step, state, cursor, going, given, source)[3]
        rows = jax.tree.map(lambda s: jnp.zeros((self._capacity, *s.shape[1:]), s.dtype), shapes)

        def body(carry: Any) -> Any:
            i, state, cursor, going, rows = carry
            state, cursor, going, row = self._step(state, cursor, going, given, source)
            rows = jax.tree.map(lambda many, one: many.at[i].set(one[0]), rows, row)
            return i + 1, state, cursor, going, rows

        carry = jnp.zeros_like(count), state, cursor, going, rows
        condition = lambda carry: (carry[0] < count) & carry[3]  # noqa: E731
        done, state, cursor, _, rows = jax.lax.while_loop(condition, body, carry)
        return state, cursor, rows, done


# Runs of equal plans share what was compiled.
programs_of: Callable[[Plan, int], Programs] = functools.lru_cache(maxsize=32)(Programs)


def split_arrays(tree: Any) -> tuple[Any, Static]:
    """The arrays of a pytree, arguments of a program, and the rest, a part of the program."""
    arrays, rest = eqx.partition(tree, _is_array)
    return jax.tree.map(jnp.asarray, arrays), Static(rest)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _wide(tree: Any) -> Any:
    """A copy of the tree with floats of at least 32 bits."""
    return jax.tree.map(lambda x: jnp.copy(widen(x)), tree)
