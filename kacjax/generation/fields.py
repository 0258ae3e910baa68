"""Velocities as right-hand sides of the solver, with or without class labels."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

LabelledVelocity = Callable[..., Array]
"""Any function `velocity(t, x)`, or `velocity(t, x, label)` where labels are given.

`t` has the shape `(batch,)`, `x` `(batch, *event)` and `label` is int32 of shape `(batch,)`.
"""


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


def check_labels(
    labels: Int[Array, "..."] | Int[np.ndarray, "..."] | None, num: int
) -> Int[Array, " num"] | None:
    """The labels as an int32 vector of one label per sample.

    Raises:
        ValueError: If their shape is not `(num,)`.
    """
    if labels is None:
        return None
    if labels.shape != (num,):
        raise ValueError(f"labels must hold one label per sample, {(num,)}; got {labels.shape}.")
    return jnp.asarray(labels, jnp.int32)
