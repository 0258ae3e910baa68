r"""Classifier-free guidance, in velocity space.

With a velocity that knows classes, and a null label for "any class", generation follows

$$ v_{\text{null}} + \gamma \, (v_{\text{label}} - v_{\text{null}}) $$

at the times of an interval, and $v_{\text{label}}$ at all others. $\gamma = 1$ is the class as
learned, more exaggerates it. For Gaussian paths the difference of velocities is a multiple of the
difference of scores, so that this is guidance as it is known from diffusion; for every path it is a
well-defined velocity, bounded if the two are.

Source: Ho and Salimans, *Classifier-Free Diffusion Guidance*, arXiv 2207.12598; the interval:
Kynkäänniemi et al., arXiv 2404.07724.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kacjax._typing import ArrayLike
from kacjax._validation import is_concrete
from kacjax.generation.fields import LabelledVelocity, class_count


class Guided(eqx.Module):
    """A velocity with guidance; made by `guided`."""

    velocity: LabelledVelocity
    scale: ArrayLike
    interval: tuple[ArrayLike, ArrayLike]
    null_label: int = eqx.field(static=True)

    @property
    def classes(self) -> int | None:
        """The number of classes of the velocity that is guided, if that is known."""
        return class_count(self.velocity)

    def __call__(
        self,
        t: Float[Array, " batch"],
        x: Float[Array, "batch *event"],
        label: Int[Array, " batch"],
    ) -> Float[Array, "batch *event"]:
        """The guided velocity, of the shape of `x`."""
        inside = (self.interval[0] <= t) & (t <= self.interval[1])
        column = inside.reshape(inside.shape + (1,) * (x.ndim - 1))

        def both():
            null = jnp.full_like(label, self.null_label)
            twice = self.velocity(
                *(jnp.concatenate(pair) for pair in ((t, t), (x, x), (null, label)))
            )
            without, with_label = jnp.split(twice, 2)
            mixed = without + jnp.asarray(self.scale, x.dtype) * (with_label - without)
            return jnp.where(column, mixed, with_label)

        return jax.lax.cond(jnp.any(inside), both, lambda: self.velocity(t, x, label))


def guided(
    velocity: LabelledVelocity,
    scale: ArrayLike,
    null_label: int,
    interval: tuple[ArrayLike, ArrayLike] = (0.0, math.inf),
) -> Guided:
    """A velocity `(t, x, label)` with classifier-free guidance, for `generate(..., labels=...)`.

    Both velocities come from one evaluation of a doubled batch, which `generate` counts as one:
    inside the interval the cost of an evaluation is twice that of the plain velocity; outside it
    is the same, except where steps are chosen for each sample.

    Args:
        velocity: A class-conditional velocity `velocity(t, x, label)`.
        scale: Strength of guidance; 1 is none.
        null_label: The label that stands for no class.
        interval: First and last time, in `[0, T]`, at which there is guidance; by default all.

    Raises:
        ValueError: If the interval is empty, `scale` is no number, or `null_label` is none of a
            velocity whose classes are known.
    """
    if jnp.shape(scale) != ():
        raise ValueError(f"scale must be a number, got shape {jnp.shape(scale)}.")
    low, high = interval
    if is_concrete(low) and is_concrete(high) and not low <= high:
        raise ValueError(f"interval must run from a lower to a higher time, got {interval}.")
    classes = class_count(velocity)
    if classes is not None and not 0 <= null_label <= classes:
        raise ValueError(f"null_label must lie in 0..{classes}, got {null_label}.")
    return Guided(velocity, scale, (low, high), null_label)
