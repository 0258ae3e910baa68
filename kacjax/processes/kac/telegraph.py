r"""The exact simulation of whole paths, $K(s) = c B \int_0^s (-1)^{N(r)} \, dr$, jump by jump.

Arrays need a bound on the number of jumps, which the Poisson tail gives; a path that jumps more often
is an error, and never cut.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from scipy.special import pdtrc

from kacjax._typing import Array, ArrayLike, Float, Int, Key
from kacjax._validation import check_count, is_concrete

# Probability, at most, that one call overflows its bound; gaps of many paths held at once (8 MB).
TAIL, _BLOCK = 1e-9, 2**21


def jump_bound(a: ArrayLike, horizon: ArrayLike, components: int) -> int:
    """The smallest `M` with `components * P(Poisson(a * horizon) >= M) <= TAIL`."""
    if not (is_concrete(a) and is_concrete(horizon)):
        raise ValueError(
            "max_jumps must be given where a or the time is traced: it is the size of an array."
        )
    # In NumPy: inside a jitted function even constants would become tracers.
    lam = float(np.max(np.asarray(a))) * float(np.max(np.asarray(horizon)))
    if not np.isfinite(lam):
        raise ValueError(f"times must be finite, got {horizon}.")
    # By the tail itself, P(more jumps): its inverse goes through 1 - allowed, which may round to 1.
    counts = np.arange(1, int(lam + 20 * lam**0.5) + 60)
    return int(counts[np.argmax(pdtrc(counts - 1, lam) <= TAIL / max(components, 1))])


def resolve_bound(max_jumps: int | None, a: ArrayLike, horizon: ArrayLike, components: int) -> int:
    """The caller's `max_jumps`, checked, or the Poisson tail's, rounded up: fewer programs."""
    if max_jumps is None:
        return -(-jump_bound(a, horizon, components) // 16) * 16
    check_count("max_jumps", max_jumps)
    return max_jumps


def jump_times(key: Key, a: Array, horizon: Array, max_jumps: int) -> Array:
    """Draws increasing jump times, `inf` past the horizon; too many are an error at run time."""
    times = jnp.cumsum(jax.random.exponential(key, (max_jumps,), a.dtype) / a)
    before = times <= horizon
    message = f"A path jumped {max_jumps} times or more before its horizon: raise max_jumps."
    return eqx.error_if(jnp.where(before, times, jnp.inf), before[-1], message)


def position(jumps: Array, direction: Array, time: Array) -> Array:
    """Where a path of unit speed and first direction 1 or -1 is: its segments alternate in sign."""
    zero = jnp.zeros(1, jumps.dtype)
    lengths = jnp.diff(jnp.concatenate([zero, jnp.minimum(jumps, time), time[None]]))
    return direction * (jnp.sum(lengths[::2]) - jnp.sum(lengths[1::2]))


@partial(jax.jit, static_argnames="max_jumps")
def sample_jumps(key: Key, a: Array, horizon: Array, max_jumps: int) -> Array:
    """The jump times of many paths, each with a rate and a last time of its own."""
    keys = jax.random.split(key, a.size)
    return jax.vmap(jump_times, (0, 0, 0, None))(keys, a, horizon, max_jumps)


@partial(jax.jit, static_argnames="max_jumps")
def sample_positions(
    key: Key, a: Float[Array, " paths"], times: Float[Array, "paths times"], max_jumps: int
) -> tuple[Float[Array, "paths times"], Int[Array, " paths"], Float[Array, " paths"]]:
    """Positions, numbers of jumps up to the last time, and first directions of unit-speed paths."""

    def one_path(arguments):
        key, a, times = arguments
        jumps_key, direction_key = jax.random.split(key)
        jumps = jump_times(jumps_key, a, jnp.max(times), max_jumps)
        direction = jax.random.rademacher(direction_key, (), times.dtype)
        positions = jax.vmap(position, (None, None, 0))(jumps, direction, times)
        return positions, jnp.sum(jnp.isfinite(jumps)), direction

    batch = max(1, min(a.size, _BLOCK // (max_jumps * max(times.shape[-1], 1))))
    return lax.map(one_path, (jax.random.split(key, a.size), a, times), batch_size=batch)
