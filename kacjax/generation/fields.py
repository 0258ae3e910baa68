"""Velocities as right-hand sides of the solver, with or without class labels, and their input."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from kacjax._validation import is_concrete

LabelledVelocity = Callable[..., Array]
"""Any function `velocity(t, x)`, or `velocity(t, x, label)` where labels are given.

`t` has the shape `(batch,)`, `x` `(batch, *event)` and `label` is int32 of shape `(batch,)`.
"""

Labels: TypeAlias = Num[Array, "..."] | Num[np.ndarray, "..."]
"""Class labels, integers of shape `(num,)`; see `check_labels`."""


class VelocityField(eqx.Module):
    """A velocity in the form that `integrate` solves; a pytree if the velocity is one."""

    velocity: LabelledVelocity

    def __call__(
        self, t: Float[Array, " batch"], x: Any, labels: Int[Array, " batch"] | None
    ) -> Array:
        """The velocity at `x`."""
        return evaluate(self.velocity, t, x, labels)


def evaluate(
    velocity: LabelledVelocity,
    t: Float[Array, " batch"],
    x: Float[Array, "batch *event"],
    labels: Int[Array, " batch"] | None,
) -> Float[Array, "batch *event"]:
    """Calls a velocity with the labels that there are.

    Raises:
        ValueError: If the velocity returns another shape than that of `x`.
    """
    velocities = velocity(t, x) if labels is None else velocity(t, x, labels)
    if velocities.shape != x.shape:
        raise ValueError(f"velocity must return shape {x.shape}, got {velocities.shape}.")
    return velocities


def class_count(velocity: LabelledVelocity) -> int | None:
    """The number of classes that a velocity says it knows, or None where it does not."""
    return getattr(velocity, "classes", None)


def check_labels(
    labels: Labels | None, num: int, velocity: LabelledVelocity
) -> Int[Array, " num"] | None:
    """The labels as an int32 vector of one label per sample.

    Compiled, a network would turn labels beyond its classes into NaN without a word.

    Raises:
        ValueError: If their shape is not `(num,)`, they are not integers, or concrete ones are
            negative or beyond the null label of a velocity whose classes are known.
    """
    if labels is None:
        return None
    if labels.shape != (num,):
        raise ValueError(f"labels must hold one label per sample, {(num,)}; got {labels.shape}.")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"labels must be integers, got {labels.dtype}.")
    if is_concrete(labels) and num:
        classes = class_count(velocity)
        low, high = np.asarray(labels).min(), np.asarray(labels).max()
        if low < 0 or (classes is not None and high > classes):
            allowed = "not be negative"
            if classes is not None:
                allowed = f"lie in 0..{classes} ({classes}: no class)"
            raise ValueError(f"labels must {allowed}, got values from {low} to {high}.")
    return jnp.asarray(labels, jnp.int32)


def as_floats(name: str, x: Num[Array, "batch *event"]) -> Float[Array, "batch *event"]:
    """The points, which solvers need as floats.

    Raises:
        ValueError: If they are none: whether bytes are to be scaled, nobody can tell.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name} must be floats, got {x.dtype}.")
    return jnp.asarray(x)
