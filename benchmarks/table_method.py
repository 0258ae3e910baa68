r"""The published sampler, a table of quantiles, written in JAX from its description.

One row for each of `M` times holds `K` quantiles of the continuous part, from the cumulated density
on a grid; a sample looks its uniform up, between the first and the last column. Atoms are drawn
apart. The velocity is computed in float64 from the position, by Bessel functions, and atoms are
recognised with a tolerance. It is here to be measured against, faults included.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e, i1e

ROWS, COLUMNS = 10_000, 4096


@partial(jax.jit, static_argnames=("rows", "columns"))
def build_table(a: float, c: float, T: float, rows: int = ROWS, columns: int = COLUMNS):
    """Quantiles of the continuous part, of shape `(rows, columns)`."""
    levels = (jnp.arange(columns) + 0.5) / columns

    def row(t):
        y = jnp.linspace(-1, 1, columns) * c * t
        r = jnp.sqrt(jnp.maximum((c * t) ** 2 - y**2, 1e-20))
        x = a / c * r
        density = jnp.exp(x - a * t) * (i0e(x) + c * t * i1e(x) / r)
        mass = jnp.cumsum(density)
        return jnp.interp(levels, mass / mass[-1], y)

    return jax.lax.map(row, T * (jnp.arange(rows) + 1) / rows, batch_size=100)


@partial(jax.jit, static_argnames=("shape",))
def sample(table, key, t, shape, a: float, c: float, T: float):
    """Displacements at times `t` of shape `(batch, 1)`."""
    rows, columns = table.shape
    inner_key, atom_key, sign_key = jax.random.split(key, 3)
    u = jnp.minimum(jax.random.uniform(inner_key, shape), (columns - 1) / columns) * (columns - 1)
    row = jnp.clip((t / T * rows).astype(jnp.int32) - 1, 0, rows - 1)
    low = u.astype(jnp.int32)
    left, right = table[row, low], table[row, jnp.minimum(low + 1, columns - 1)]
    inner = left + (u - low) * (right - left)
    atom = jax.random.uniform(atom_key, shape) < jnp.exp(-a * t)
    sign = jax.random.rademacher(sign_key, shape, inner.dtype)
    return jnp.where(atom, sign * c * t, inner)


@jax.jit
def velocity(t, y, a: float, c: float):
    """The velocity in float64; call it with 64-bit types enabled."""
    t, y = t.astype(jnp.float64), y.astype(jnp.float64)
    r = jnp.sqrt(jnp.maximum((c * t) ** 2 - y**2, 1e-20))
    x = a / c * r
    inner = y / (t + r / c * i0e(x) / i1e(x))
    return jnp.where(jnp.abs(jnp.abs(y) - c * t) < 1e-6, jnp.sign(y) * c, inner).astype(jnp.float32)
