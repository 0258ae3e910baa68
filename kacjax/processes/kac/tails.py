r"""Tail probabilities of the Kac law, and its correspondence with a standard normal variable.

In the coordinate $m = \sqrt{2 \lambda (1 - \rho)} = z \sqrt{2 \lambda / (1 + \rho)}$ the law is a
Gaussian times a slowly varying factor, for every $\lambda$ and up to the cone:

$$ P(|Z| \ge z) = e^{-\lambda} + \int_m^{\sqrt{2\lambda}} e^{-u^2/2} k(u) \, du, \quad
   k(u) = \frac{\sqrt\lambda \, [\rho I^e_0(\lambda\rho) + I^e_1(\lambda\rho)]}
               {\sqrt{1 - u^2 / 4 \lambda}}, \quad \rho = 1 - \frac{u^2}{2\lambda}, $$

with the exponentially scaled Bessel functions: Gauss-Legendre quadrature is accurate relative to the
tail. The `n` with $P(|N| \ge n) = P(|Z| \ge z)$ is nearly $m$, so that Newton's method inverts it.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv, i0e, i1e, ndtri
from jax.scipy.stats import norm

from kacjax._typing import Array
from kacjax.processes.kac import law

# Below this logarithm a tail is about to underflow, and its asymptotic series is exact to rounding.
_DEEP = {"float32": -60.0, "float64": -600.0}


def to_root(lam: Array, z: Array, one_minus_z2: Array) -> Array:
    """The coordinate `m >= 0` of `|z|`."""
    return jnp.abs(z) * jnp.sqrt(2 * lam / (1 + jnp.sqrt(one_minus_z2)))


@jax.jit
def from_root(lam: Array, m: Array) -> tuple[Array, Array]:
    """The `z >= 0` of the coordinate `m`, and `1 - z**2`."""
    lam = jnp.maximum(lam, 1e-30)
    part = jnp.minimum(m * (m / lam) / 2, 1)
    return jnp.minimum(m * jnp.sqrt((2 - part) / (2 * lam)), 1), jnp.square(1 - part)


@jax.custom_jvp
def to_normal(lam: Array, z: Array, one_minus_z2: Array) -> Array:
    """The standard normal variable of `z`, on the cone the one where the atom begins."""
    n = _score(lam, to_root(lam, z, one_minus_z2))[0]
    # Just above, so that the way back does not miss it by rounding.
    atom = atom_score(lam) * (1 + 4 * jnp.finfo(n.dtype).eps)
    return jnp.sign(z) * jnp.where(one_minus_z2 > 0, n, atom)


@to_normal.defjvp
def _to_normal_jvp(primals, tangents):
    lam, z, one_minus_z2 = primals
    lam_dot, z_dot, _ = tangents
    n = to_normal(lam, z, one_minus_z2)
    # Of the distribution function F, with dF = phi(n) dn = p dz + (z - w) p dlam / lam.
    log_ratio = law.log_density_over_lam(lam, z, one_minus_z2) - norm.logpdf(n)
    drift = z - law.velocity(lam, z, one_minus_z2)
    return n, jnp.exp(jnp.minimum(log_ratio, 80)) * (lam * z_dot + drift * lam_dot)


@jax.jit
def atom_score(lam: Array) -> Array:
    r"""The standard normal variable $\eta_1(\lambda)$ above which a sample is an atom."""
    return _two_sided_score(-jnp.expm1(-lam), jnp.exp(-lam), -lam)


@partial(jax.jit, static_argnames="steps")
def refine(lam: Array, m: Array, n: Array, steps: int) -> Array:
    """Newton steps from the coordinate `m` towards the one whose normal variable is `n`."""

    def step(_, m):
        score, slope = _score(lam, m)
        return jnp.clip(m - (score - n) / slope, 0, jnp.sqrt(2 * lam))

    shape = jnp.broadcast_shapes(lam.shape, m.shape, n.shape)
    return jax.lax.fori_loop(0, steps, step, jnp.broadcast_to(m, shape))


@jax.jit
def _score(lam: Array, m: Array) -> tuple[Array, Array]:
    """The standard normal variable `n >= 0` of the coordinate `m`, and `dn/dm`."""
    lam = jnp.maximum(lam, 1e-30)
    n = _two_sided_score(*_masses(lam, m))
    return n, jnp.sqrt(jnp.pi / 2) * jnp.exp((n - m) * (n + m) / 2) * _factor(lam, m)


def _masses(lam: Array, m: Array) -> tuple[Array, Array, Array]:
    """`P(|Z| < z)`, `P(|Z| >= z)` and the logarithm of the latter, for the coordinate `m` of `z`.

    Below `m = 1` the first is integrated, above it the second; the other is the complement.
    """
    single = lam.dtype == jnp.float32
    end = jnp.sqrt(2 * lam)
    central = m < 1
    start = jnp.where(central, 0, m)
    # Beyond this distance the Gaussian factor has fallen below the precision of the result.
    drop = 17.0 if single else 38.0
    reach = 2 * drop / (start + jnp.sqrt(start * start + 2 * drop))
    length = jnp.where(central, m, jnp.clip(end - start, 0, reach))
    nodes, weights = np.polynomial.legendre.leggauss(24 if single else 64)

    def add(total, node):
        position, weight = node
        offset = length * position
        u = jnp.minimum(start + offset, end)
        # exp((start**2 - u**2) / 2), without the difference of squares.
        return total + weight * jnp.exp(-offset * (start + offset / 2)) * _factor(lam, u), None

    grid = (jnp.asarray((nodes + 1) / 2, lam.dtype), jnp.asarray(weights / 2, lam.dtype))
    zeros = jnp.zeros(jnp.broadcast_shapes(lam.shape, m.shape), lam.dtype)
    body = length * jax.lax.scan(add, zeros, grid)[0]
    tail = jnp.exp(-lam) + body * jnp.exp(-start * start / 2)
    log_tail = jnp.logaddexp(-lam, jnp.log(body) - start * start / 2)
    inner, outer = jnp.where(central, body, 1 - tail), jnp.where(central, 1 - body, tail)
    return inner, outer, jnp.where(central, jnp.log1p(-jnp.minimum(body, 0.9)), log_tail)


def _factor(lam: Array, u: Array) -> Array:
    """The slowly varying factor `k(u)`, in `[0, sqrt(lam)]` and about `sqrt(2/pi)` for large lam."""
    part = jnp.minimum(u * (u / lam) / 2, 1)
    x = jnp.maximum(lam - u * u / 2, 0)
    return jnp.sqrt(lam / (1 - part / 2)) * ((1 - part) * i0e(x) + i1e(x))


def _two_sided_score(body: Array, tail: Array, log_tail: Array) -> Array:
    """The `n` with `P(|N| < n) = body = 1 - tail`, from the smallest that has not underflowed."""
    deep = _DEEP[tail.dtype.name]
    near = jnp.sqrt(2.0) * erfinv(jnp.clip(body, 0, 0.75))
    far = -ndtri(jnp.clip(tail / 2, jnp.finfo(tail.dtype).tiny, 0.5))
    # At infinite lam there are no atoms: their score is larger than any normal variable.
    farther = _deep_score(jnp.clip(log_tail, -1e30, deep))
    return jnp.where(log_tail < deep, farther, jnp.where(body < 0.5, near, far))


def _deep_score(log_tail: Array) -> Array:
    r"""The `n` with $\log P(|N| \ge n)$ = `log_tail`, far below zero, as a fixed point of

    $n^2 = -2 \log P - \log(\pi/2) - 2 \log n + 2 \log(1 - n^{-2} + 3 n^{-4} - 15 n^{-6})$.
    """  # noqa: D415
    square = -2 * log_tail - jnp.log(jnp.pi / 2)
    n = jnp.sqrt(square)
    for _ in range(4):
        inverse = 1 / (n * n)
        series = jnp.log1p(-inverse * (1 - 3 * inverse * (1 - 5 * inverse)))
        n = jnp.sqrt(square - 2 * jnp.log(n) + 2 * series)
    return n
