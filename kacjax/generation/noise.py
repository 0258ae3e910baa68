"""The start of generation: the noise of sample `i`, whatever batch it is drawn in."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kacjax._pytrees import as_arrays
from kacjax._typing import Key, Shape
from kacjax.paths import ProbabilityPath


def initial_noise(
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    x0: Float[Array, "batch *event"] | None = None,
) -> Float[Array, "batch *event"]:
    """The prior's draws from which `generate` starts, given the same key and shape.

    Sample `i` is drawn with the key `fold_in(key, i)`: it depends on the key and on `i` alone, so
    that `generate` does not depend on chunks and devices, and the first samples of a longer run
    are those of a shorter one.

    Args:
        path: The path.
        key: Random key.
        shape: Shape `(num, *event)`.
        x0: Data of that shape, where the path's signal does not vanish at `T`.

    Raises:
        ValueError: As `ProbabilityPath.sample_prior`.
    """
    if x0 is not None and x0.shape != tuple(shape):
        raise ValueError(f"x0 must have the shape {tuple(shape)}, got {x0.shape}.")
    return draw_rows(as_arrays(path), key, jnp.arange(shape[0]), tuple(shape[1:]), x0)


@eqx.filter_jit
def draw_rows(
    path: ProbabilityPath,
    key: Key,
    rows: Int[Array, " rows"],
    event: Shape,
    x0: Float[Array, "rows *event"] | None,
) -> Float[Array, "rows *event"]:
    """The prior's draws of the samples with these numbers; `x0` holds their data."""

    def draw(row, x0):
        x0 = None if x0 is None else x0[None]
        return path.sample_prior(jax.random.fold_in(key, row), (1, *event), x0)[0]

    return jax.vmap(draw)(rows, x0)
