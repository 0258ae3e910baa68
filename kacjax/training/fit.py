"""Training: one pure step, many of them per call, for every path and network."""

import time
import warnings
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int
from tqdm.auto import tqdm

from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_choice, check_count, check_nonnegative, check_positive
from kacjax.losses import flow_matching_loss
from kacjax.paths import ProbabilityPath

# The weight of errors in the data rises with the gain up to here.
_LARGEST_GAIN = 300.0

PARAMETERISATIONS = ("velocity", "data")
Data = Float[Array, "num *event"]


class TrainState(NamedTuple):
    """Everything that a training step reads and writes: one pytree.

    Attributes:
        parameters: The network's parameters.
        ema: Their exponential moving average, which generates.
        optimiser: Optax's state.
        step: Number of steps taken.
        key: Random key; step `k` draws from `fold_in(key, k)`, so that a step depends on nothing
            but the state and its batch.
    """

    parameters: Any
    ema: Any
    optimiser: optax.OptState
    step: Int[Array, ""]
    key: Key


class NetworkVelocity(eqx.Module):
    """A velocity function `velocity(t, x)` made of a network and its parameters: a pytree.

    Attributes:
        parameters: All variables of the network.
        path: The path, for the parameterisation.
        graphdef: The network's structure, from `nnx.split`.
        parameterisation: What the network outputs: the `velocity` itself, or a prediction of the
            `data`, see `ProbabilityPath.velocity_from_data`.
    """

    parameters: Any
    path: ProbabilityPath
    graphdef: Any = eqx.field(static=True)
    parameterisation: str = eqx.field(static=True, default="velocity")

    def __check_init__(self):
        check_choice("parameterisation", self.parameterisation, PARAMETERISATIONS)

    def __call__(
        self, t: Float[Array, " batch"], x: Float[Array, "batch *event"]
    ) -> Float[Array, "batch *event"]:
        """The velocity at points `x` and times `t`."""
        output = nnx.merge(self.graphdef, self.parameters)(t, x)
        if self.parameterisation == "data":
            return self.path.velocity_from_data(t, x, output)
        return output


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        velocity: The velocity function of the averaged parameters.
        state: The final state.
        losses: Loss of every step, of shape `(steps,)`.
        steps_per_second: Speed, compilation not included.
        compile_seconds: Time spent compiling.
    """

    velocity: NetworkVelocity
    state: TrainState
    losses: np.ndarray
    steps_per_second: float
    compile_seconds: float


def make_optimiser(
    learning_rate: float, steps: int, warmup: int, clip: float
) -> optax.GradientTransformation:
    """Adam with gradient clipping, linear warm-up and cosine decay to zero."""
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, learning_rate, min(warmup, steps // 2), steps
    )
    return optax.chain(optax.clip_by_global_norm(clip), optax.adam(schedule, b2=0.99))


def init_state(parameters: Any, optimiser: optax.GradientTransformation, key: Key) -> TrainState:
    """The state before the first step; it owns its buffers."""
    copy = partial(jax.tree.map, jnp.copy)
    first = copy(parameters)
    return TrainState(first, copy(parameters), optimiser.init(first), jnp.asarray(0), key)


def train_step(
    state: TrainState,
    batch: Data,
    key: Key,
    *,
    velocity: NetworkVelocity,
    optimiser: optax.GradientTransformation,
    ema_decay: float = 0.999,
    time_power: float = 2.0,
) -> tuple[TrainState, Float[Array, ""]]:
    r"""One step of gradient descent on the flow matching loss.

    The average $\bar\theta_{k+1} = d_k \bar\theta_k + (1 - d_k) \theta_{k+1}$ starts fast,
    $d_k = \min(d, (1 + k) / (10 + k))$, so that it forgets the initialisation.

    With the `data` parameterisation the velocity's error is $|\gamma|$ times that of the data,
    $\gamma$ being `ProbabilityPath.data_gain`, which grows like $1/t$. The weight
    $1 / (|\gamma| (1 + |\gamma| / 300))$ lies half-way between counting errors of the velocity,
    which near the data outweigh all others, and errors of the data, which leave its modes blurred.

    Args:
        state: The state.
        batch: Data of shape `(batch, *event)`.
        key: Random key of times and noise.
        velocity: Structure of the velocity; its parameters are not read.
        optimiser: Optax optimiser.
        ema_decay: The decay $d$.
        time_power: Exponent of the times' distribution; see `flow_matching_loss`.

    Returns:
        The next state and the loss.
    """
    path = velocity.path
    weight = None
    if velocity.parameterisation == "data":
        weight = lambda t: _data_weight(path, t)  # noqa: E731

    def loss_of(parameters):
        function = eqx.tree_at(lambda v: v.parameters, velocity, parameters)
        return flow_matching_loss(function, path, key, batch, weight=weight, time_power=time_power)

    loss, gradient = jax.value_and_grad(loss_of)(state.parameters)
    updates, inner = optimiser.update(gradient, state.optimiser, state.parameters)
    parameters = optax.apply_updates(state.parameters, updates)
    count = state.step.astype(jnp.result_type(float))
    decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
    ema = optax.incremental_update(parameters, state.ema, 1 - decay)
    return TrainState(parameters, ema, inner, state.step + 1, state.key), loss


def _data_weight(path: ProbabilityPath, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
    gain = jnp.abs(path.data_gain(t))
    return 1 / (gain * (1 + gain / _LARGEST_GAIN))


@partial(jax.jit, static_argnames=("count", "batch_size", "step"), donate_argnums=(0,))
def _train_steps(state: TrainState, data: Data, count: int, batch_size: int, step: Any):
    """`count` steps under one scan, with batches drawn from the data on the device."""

    def body(state, _):
        batch_key, noise_key = jax.random.split(jax.random.fold_in(state.key, state.step))
        rows = jax.random.randint(batch_key, (batch_size,), 0, data.shape[0])
        return step(state, data[rows], noise_key)

    return jax.lax.scan(body, state, length=count)


def fit(
    model: nnx.Module,
    path: ProbabilityPath,
    data: ArrayLike,
    key: Key,
    steps: int = 20_000,
    batch_size: int = 256,
    *,
    learning_rate: float = 1e-3,
    warmup: int = 500,
    clip: float = 1.0,
    ema_decay: float = 0.999,
    time_power: float = 2.0,
    parameterisation: str = "data",
    steps_per_call: int = 200,
    progress: bool = True,
) -> FitResult:
    """Trains a network on data by flow matching.

    Args:
        model: Flax NNX module called as `model(t, x)`, with an output of the shape of `x`. It is
            read, not changed.
        path: Path from data to noise.
        data: Data of shape `(num, *event)`; moved to the device once. Batches are drawn from it
            with replacement.
        key: Random key.
        steps: Optimiser steps.
        batch_size: Data in one step.
        learning_rate: Peak of the learning rate, reached after `warmup` steps; it then falls to
            zero like a cosine.
        warmup: Steps of linear warm-up, at most half of all.
        clip: Largest global norm of a gradient.
        ema_decay: Decay of the averaged parameters, in [0, 1).
        time_power: Exponent of the times' distribution; see `flow_matching_loss`. 2 draws more
            times near the data, where detail is decided, than the uniform 1.
        parameterisation: What the network outputs, `data` or `velocity`: see `NetworkVelocity`.
        steps_per_call: Steps under one jitted call; the progress bar moves once a call.
        progress: Whether to show a progress bar.

    Returns:
        The averaged velocity function, and a record of the training.

    Raises:
        ValueError: If data are empty, not finite or not of the model's shape, or a number is out
            of its range.
        FloatingPointError: If the loss stops being finite.
    """
    for name, value in (
        ("steps", steps),
        ("batch_size", batch_size),
        ("steps_per_call", steps_per_call),
    ):
        check_count(name, value)
    check_nonnegative("warmup", warmup)
    for name, value in (("learning_rate", learning_rate), ("clip", clip)):
        check_positive(name, value)
    if not 0 <= ema_decay < 1:
        raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}.")
    array = _check_data(data)
    graphdef, parameters = nnx.split(model)
    velocity = NetworkVelocity(parameters, path, graphdef, parameterisation)
    _check_output(velocity, array)
    optimiser = make_optimiser(learning_rate, steps, warmup, clip)
    step = partial(
        train_step,
        velocity=velocity,
        optimiser=optimiser,
        ema_decay=ema_decay,
        time_power=time_power,
    )
    state = init_state(parameters, optimiser, key)
    state, record = _run(state, array, steps, batch_size, _Static(step), steps_per_call, progress)
    averaged = eqx.tree_at(lambda v: v.parameters, velocity, state.ema)
    return FitResult(averaged, state, *record)


class _Static:
    """A step function hashed by identity: it holds arrays, which jit must not compare."""

    def __init__(self, step):
        self.step = step

    def __call__(self, *arguments):
        return self.step(*arguments)


def _run(
    state: TrainState,
    data: Data,
    steps: int,
    batch_size: int,
    step: _Static,
    steps_per_call: int,
    progress: bool,
) -> tuple[TrainState, tuple[np.ndarray, float, float]]:
    """Runs all steps, with a progress bar; returns losses, steps per second, compile seconds."""
    calls = [steps_per_call] * (steps // steps_per_call)
    if steps % steps_per_call:
        calls.append(steps % steps_per_call)
    compiled, compiling, losses = {}, 0.0, []
    begin = time.perf_counter()
    with tqdm(total=steps, disable=not progress, unit="step", dynamic_ncols=True) as bar:
        for count in calls:
            if count not in compiled:
                before = time.perf_counter()
                with warnings.catch_warnings():
                    # Backends without donation say so once for every buffer.
                    warnings.filterwarnings("ignore", message="Some donated buffers")
                    lowered = _train_steps.lower(state, data, count, batch_size, step)
                    compiled[count] = lowered.compile()
                compiling += time.perf_counter() - before
            state, loss = compiled[count](state, data)
            losses.append(np.asarray(loss))
            if not np.all(np.isfinite(losses[-1])):
                first = sum(map(len, losses[:-1])) + int(np.argmin(np.isfinite(losses[-1])))
                raise FloatingPointError(
                    f"The loss became {losses[-1].flat[first % steps_per_call]} at step {first}; "
                    "try a lower learning_rate or clip."
                )
            bar.update(count)
            bar.set_postfix(loss=f"{losses[-1].mean():.4g}", refresh=False)
    elapsed = time.perf_counter() - begin - compiling
    return state, (np.concatenate(losses), steps / elapsed, compiling)


def _check_data(data: ArrayLike) -> Data:
    array = np.asarray(data)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"data must have shape (num, *event) and not be empty, got shape {array.shape}."
        )
    if not np.all(np.isfinite(array)):
        bad = int(np.sum(~np.isfinite(array)))
        raise ValueError(f"data must be finite, got {bad} NaN or infinite values.")
    return jnp.asarray(array, jnp.result_type(float))


def _check_output(velocity: NetworkVelocity, data: Data) -> None:
    """Traces the network on one datum, so that a wrong shape is one clear error."""
    event = data.shape[1:]
    network = nnx.merge(velocity.graphdef, velocity.parameters)
    t, x = jax.ShapeDtypeStruct((1,), data.dtype), jax.ShapeDtypeStruct((1, *event), data.dtype)
    try:
        shape = jax.eval_shape(lambda t, x: network(t, x), t, x).shape[1:]
    except (TypeError, ValueError) as error:
        raise ValueError(f"model does not accept data of shape (num, *{event}): {error}") from error
    if shape != event:
        raise ValueError(f"data have the shape (num, *{event}), but the model returns {shape}.")
