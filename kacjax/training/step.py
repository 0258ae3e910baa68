"""One training step: a pure function of state, batch and key."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float

from kacjax import sharding
from kacjax._typing import Key
from kacjax._validation import check_choice, check_count
from kacjax.data.images import to_float
from kacjax.losses import draw_points, velocity_errors
from kacjax.paths import PathSample
from kacjax.training.metrics import StepMetrics, time_bins
from kacjax.training.source import check_labels
from kacjax.training.state import TrainState
from kacjax.training.velocity import NetworkVelocity

NONFINITE_POLICIES = ("skip", "stop")

# The weight of errors in the data rises with the gain up to here.
_LARGEST_GAIN = 300.0

Batch: TypeAlias = Array | np.ndarray | tuple[Any, Any]
"""Data, or a pair of data and labels or None; data as bytes are scaled to `[-1, 1]`."""


def train_step(
    state: TrainState,
    batch: Batch,
    key: Key,
    *,
    velocity: NetworkVelocity,
    optimiser: optax.GradientTransformation,
    ema_decay: float = 0.999,
    time_power: float = 2.0,
    label_dropout: float = 0.0,
    null_label: int | None = None,
    accumulate: int = 1,
    on_nonfinite: str = "stop",
    mesh: Mesh | None = None,
) -> tuple[TrainState, StepMetrics]:
    r"""One step of gradient descent on the flow matching loss.

    The average $\bar\theta_{k+1} = d_k \bar\theta_k + (1 - d_k) \theta_{k+1}$ starts fast,
    $d_k = \min(d, (1 + k) / (10 + k))$, so that it forgets the initialisation.

    With the `data` parameterisation the velocity's error is $|\gamma|$ times that of the data,
    $\gamma$ being `ProbabilityPath.data_gain`, which grows like $1/t$. The weight
    $1 / (|\gamma| (1 + |\gamma| / 300))$ lies half-way between counting errors of the velocity,
    which near the data outweigh all others, and errors of the data, which leave its modes blurred.

    Args:
        state: The state.
        batch: Data of shape `(batch, *event)`, or a pair of them and labels of shape `(batch,)`.
        key: Random key of times, noise, label dropout and the network's dropout.
        velocity: Structure of the velocity; its parameters are not read.
        optimiser: Optax optimiser.
        ema_decay: The decay $d$.
        time_power: Exponent of the times' distribution; see `flow_matching_loss`.
        label_dropout: Probability that a label is replaced by `null_label`, so that the network
            learns the unconditional velocity too, for classifier-free guidance.
        null_label: The label that stands for no class; needed by `label_dropout`.
        accumulate: Number of micro-batches, one after the other, whose gradients are averaged: the
            batch's own gradient, in less memory. Must divide the batch.
        on_nonfinite: What follows a loss or gradient that is not finite. `stop`: the state returned
            is the one that was given. `skip`: it moves on to the next step, with one more `skipped`.
        mesh: Devices over which batch and state are spread, see `kacjax.sharding`.

    Returns:
        The next state, and the metrics.

    Raises:
        ValueError: If data are neither floats nor bytes, labels not an integer for each datum or
            the network takes none, `accumulate` does not divide the batch, or `label_dropout`
            comes without labels or without a `null_label`.
    """
    check_choice("on_nonfinite", on_nonfinite, NONFINITE_POLICIES)
    x0, labels = batch if isinstance(batch, tuple) else (batch, None)
    x0 = jnp.asarray(x0)
    if x0.dtype == jnp.uint8:
        x0 = to_float(x0)
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(f"batch must hold floats, or bytes as uint8, got {x0.dtype}.")
    if labels is not None:
        labels = jnp.asarray(labels)
        check_labels(labels, x0.shape[:1])
    noise_key, label_key, dropout_key = jax.random.split(key, 3)
    labels = _drop_labels(label_key, labels, label_dropout, null_label)
    x0 = sharding.constrain_batch(x0, mesh)
    # One draw for the whole batch: the noise does not depend on micro-batches or devices.
    point = draw_points(velocity.path, noise_key, x0, time_power)
    point, labels = sharding.constrain_batch((point, labels), mesh)
    weight = _weight(velocity, point.t)

    def loss_of(parameters, micro: tuple[PathSample, Any, Any], key: Key):
        point, labels, weight = micro
        function = dataclasses.replace(velocity, parameters=parameters)
        errors = velocity_errors(lambda t, x: function(t, x, labels, key=key), point)
        weighted = errors if weight is None else weight * errors
        return jnp.mean(weighted), weighted

    parameters = sharding.gather(state.parameters, mesh)
    whole = point, labels, weight
    if accumulate == 1:
        gradient, losses = jax.grad(loss_of, has_aux=True)(parameters, whole, dropout_key)
        gradient = sharding.constrain_state(gradient, mesh)
    else:
        gradient, losses = _accumulate(loss_of, parameters, whole, dropout_key, accumulate, mesh)
    loss, norm = jnp.mean(losses), optax.tree.norm(gradient)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    metrics = StepMetrics(loss, norm, *time_bins(point.t, losses, velocity.path.T), finite)
    new = apply_gradient(state, gradient, finite, optimiser, ema_decay)
    one = jnp.ones_like(state.step)
    skipped = jnp.where(finite, 0 * one, one)
    if on_nonfinite == "stop":
        return new._replace(step=state.step + one - skipped), metrics
    return new._replace(step=state.step + one, skipped=state.skipped + skipped), metrics


def apply_gradient(
    state: TrainState,
    gradient: Any,
    finite: Bool[Array, ""],
    optimiser: optax.GradientTransformation,
    ema_decay: float,
) -> TrainState:
    """Moves parameters, average and optimiser by a gradient, unless it is not finite."""

    def move(state: TrainState) -> TrainState:
        updates, inner = optimiser.update(gradient, state.optimiser, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        count = state.step.astype(jnp.result_type(float))
        decay = jnp.minimum(ema_decay, (1 + count) / (10 + count))
        ema = jax.tree.map(lambda new, old: _average(new, old, 1 - decay), parameters, state.ema)
        return state._replace(parameters=parameters, ema=ema, optimiser=inner)

    def choose(state: TrainState) -> TrainState:
        return jax.tree.map(lambda new, old: jnp.where(finite, new, old), move(state), state)

    # To choose between old and new, XLA on the CPU copies most of the state, and the update takes
    # half as long again as with a branch. Elsewhere a branch may wait for the host.
    return jax.lax.platform_dependent(
        state,
        cpu=lambda state: jax.lax.cond(finite, move, lambda state: state, state),
        default=choose,
    )


def _average(new: Array, old: Array, share: Float[Array, ""]) -> Array:
    """The average with `share` of `new`, of the type of `old`.

    In between it has the type of `share`: in bfloat16, 1 - 0.001 is 1, and in float64 a sum with
    float32 would not be float32 again.
    """
    wide = share.dtype
    return (share * new.astype(wide) + (1 - share) * old.astype(wide)).astype(old.dtype)


def _accumulate(loss_of, parameters, whole, key: Key, count: int, mesh: Mesh | None):
    """The mean gradient of `count` micro-batches, and the losses of all data in order."""
    check_count("accumulate", count)
    batch = whole[0].t.shape[0]
    if batch % count:
        raise ValueError(f"accumulate must divide the batch of {batch}, got {count}.")

    # Micro-batch i takes every count-th datum, so that each is spread over all devices.
    def split(leaf):
        return jnp.moveaxis(leaf.reshape(batch // count, count, *leaf.shape[1:]), 1, 0)

    def add(total, micro):
        i, inputs = micro
        inputs = sharding.constrain_batch(inputs, mesh)
        gradient, losses = jax.grad(loss_of, has_aux=True)(
            parameters, inputs, jax.random.fold_in(key, i)
        )
        total = jax.tree.map(jnp.add, total, sharding.constrain_state(gradient, mesh))
        return total, losses

    zero = sharding.constrain_state(jax.tree.map(jnp.zeros_like, parameters), mesh)
    micro = jnp.arange(count), jax.tree.map(split, whole)
    total, losses = jax.lax.scan(add, zero, micro)
    return jax.tree.map(lambda g: g / count, total), jnp.moveaxis(losses, 0, 1).reshape(batch)


def _drop_labels(key: Key, labels: Array | None, probability: float, null: int | None):
    if probability == 0:
        return labels
    if labels is None:
        raise ValueError(f"label_dropout={probability} needs labels, got None.")
    if null is None:
        raise ValueError("label_dropout needs null_label, the label that stands for no class.")
    dropped = jax.random.bernoulli(key, probability, labels.shape)
    return jnp.where(dropped, jnp.asarray(null, labels.dtype), labels)


def _weight(velocity: NetworkVelocity, t: Float[Array, " batch"]) -> Float[Array, " batch"] | None:
    if velocity.parameterisation != "data":
        return None
    gain = jnp.abs(velocity.path.data_gain(t))
    return 1 / (gain * (1 + gain / _LARGEST_GAIN))
