r"""Jump times and positions of the telegraph process: the exact simulation of whole paths.

A path runs at speed $c$ in a direction $B = \pm 1$ that flips at the jumps of a Poisson process of
rate $a$: $K(s) = c B \int_0^s (-1)^{N(r)} \, dr$. The jump times are partial sums of exponential
gaps. Arrays need a bound on their number, which the Poisson tail gives: with `jump_bound` the
probability that any component of a call jumps more often is below `TAIL`, and if one does the
computation raises an error; a path is never cut.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import pdtrc

from kacjax._typing import Array, ArrayLike, Float, Int, Key
from kacjax._validation import check_count, check_nonnegative, is_concrete

TAIL = 1e-9
"""Probability, at most, that one call overflows its bound on the number of jumps."""

# Gaps held at once when many paths are drawn; 8 MB in float32.
_BLOCK = 2**21


def jump_bound(a: ArrayLike, horizon: ArrayLike, components: int) -> int:
    """The number of gaps that paths need up to a horizon.

    Args:
        a: Jump rate; the largest counts.
        horizon: Last time; the largest counts.
        components: Number of independent paths.

    Returns:
        The smallest `M` with `components * P(Poisson(a * horizon) >= M) <= TAIL`.

    Raises:
        ValueError: If `a` or `horizon` is traced, since the bound is the size of an array, or
            the horizon is negative or infinite.
    """
    if not (is_concrete(a) and is_concrete(horizon)):
        raise ValueError(
            "max_jumps must be given where a or the horizon is traced: the number of jump times "
            "is the size of an array. kacjax.processes.kac.jump_bound computes it."
        )
    check_nonnegative("horizon", horizon)
    if not np.all(np.isfinite(horizon)):
        raise ValueError(f"horizon must be finite, got {horizon}.")
    # In NumPy: inside a jitted function even constants would become tracers.
    lam = float(np.max(np.asarray(a))) * float(np.max(np.asarray(horizon)))
    allowed = TAIL / max(components, 1)
    # By the tail itself, P(more jumps): its inverse goes through 1 - allowed, which may round to 1.
    low, high = 0, 1
    while pdtrc(high - 1, lam) > allowed:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if pdtrc(middle - 1, lam) <= allowed else (middle, high)
    return high


def resolve_bound(max_jumps: int | None, a: ArrayLike, horizon: ArrayLike, components: int) -> int:
    """The caller's `max_jumps`, checked, or the one from the Poisson tail."""
    if max_jumps is None:
        return jump_bound(a, horizon, components)
    check_count("max_jumps", max_jumps)
    return max_jumps


def sample_jumps(
    key: Key, a: Float[Array, "..."], horizon: Float[Array, "..."], max_jumps: int
) -> tuple[Float[Array, "... jumps"], Int[Array, "..."]]:
    """Draws the jump times up to a horizon.

    Args:
        key: Random key.
        a: Jump rate, of the shape of the components.
        horizon: Last time, of the same shape.
        max_jumps: Length of the last axis.

    Returns:
        `(times, counts)`: increasing times, `inf` past the horizon, and how many are finite. An
        error is raised at run time if `max_jumps` are too few.
    """
    gaps = jax.random.exponential(key, (*a.shape, max_jumps), a.dtype) / a[..., None]
    times = jnp.cumsum(gaps, axis=-1)
    before = times <= horizon[..., None]
    times = jnp.where(before, times, jnp.inf)
    times = eqx.error_if(
        times,
        before[..., -1],
        f"A path jumped {max_jumps} times or more before its horizon: raise max_jumps.",
    )
    return times, jnp.sum(before, axis=-1)


def position(
    jump_times: Float[Array, "*shape jumps"],
    direction: Float[Array, "*shape"],
    times: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Where paths of unit speed are at given times: the signed sum of their segments.

    Args:
        jump_times: Increasing jump times, padded with `inf`.
        direction: First direction, 1 or -1.
        times: One time for each path.

    Returns:
        Displacements; multiply them by the speed.
    """
    stops = jnp.minimum(jump_times, times[..., None])
    ends = jnp.concatenate([stops, times[..., None]], axis=-1)
    lengths = jnp.diff(ends, axis=-1, prepend=jnp.zeros_like(ends[..., :1]))
    # Segments alternate in sign, the first one positive.
    forth, back = lengths[..., ::2], lengths[..., 1::2]
    return direction * (jnp.sum(forth, axis=-1) - jnp.sum(back, axis=-1))


def sample_positions(
    key: Key,
    a: Float[Array, " components"],
    times: Float[Array, "components times"],
    max_jumps: int,
) -> tuple[
    Float[Array, "components times"], Int[Array, " components"], Float[Array, " components"]
]:
    """Draws whole paths of unit speed, a bounded number of them in memory at once.

    Returns:
        Displacements at `times`, the number of jumps of each path up to its last time, and its
        first direction.
    """

    def one_path(arguments):
        key, a, times = arguments
        jumps_key, direction_key = jax.random.split(key)
        jump_times, count = sample_jumps(jumps_key, a, jnp.max(times), max_jumps)
        direction = jax.random.rademacher(direction_key, (), times.dtype)
        return jax.vmap(position, (None, None, 0))(jump_times, direction, times), count, direction

    each = max_jumps * max(times.shape[-1], 1)
    batch = max(1, min(a.size, _BLOCK // each))
    keys = jax.random.split(key, a.size)
    return jax.lax.map(one_path, (keys, a, times), batch_size=batch)
