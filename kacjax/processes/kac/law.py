r"""The Kac law in its two natural variables, $\lambda = a s$ and $z = y / (c s)$.

With $\rho = \sqrt{(1-z)(1+z)}$, $q = (\lambda \rho)^2$ and $h(q) = x I_0(x) / (2 I_1(x))$ at
$x = \sqrt q$, the density of the continuous part in $z$ and the velocity in units of $c$ are

$$ p = \tfrac12 \lambda \, e^{G(\lambda, z)} \Bigl[ 1 + \frac{\lambda}{2 h(q)} \Bigr], \qquad
   G = \log I_0(\lambda\rho) - \lambda, \qquad w = \frac{\lambda z}{\lambda + 2 h(q)}. $$

On the cone, $|z| = 1$, sit two atoms of mass $e^{-\lambda}/2$ that move with $w = \pm 1$; from
inside, $w$ tends to $\lambda / (\lambda + 2)$ only. In $1 - z^2$ and $q$ all is analytic: gradients
are finite on the cone too.

In the coordinate $m = \sqrt{2 \lambda (1 - \rho)} = z \sqrt{2 \lambda / (1 + \rho)}$ the law is a
Gaussian times a slowly varying factor, for every $\lambda$ and up to the cone:

$$ P(|Z| \ge z) = e^{-\lambda} + \int_m^{\sqrt{2\lambda}} e^{-u^2/2} k(u) \, du, \quad
   k(u) = \frac{\sqrt\lambda \, [\rho I^e_0(\lambda\rho) + I^e_1(\lambda\rho)]}
               {\sqrt{1 - u^2 / 4 \lambda}}, \quad \rho = 1 - \frac{u^2}{2\lambda}, $$

with the exponentially scaled Bessel functions: Gauss-Legendre quadrature is accurate relative to the
tail. The `n` with $P(|N| \ge n) = P(|Z| \ge z)$ is nearly $m$, so that Newton's method inverts it.

Source: Goldstein (1951), Kac (1974); arXiv 2506.20641 for the velocity.
"""

import pathlib
from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erfinv, i0e, i1e, ndtri
from jax.scipy.stats import norm

from kacjax._typing import Array
from kacjax.processes.base import EDGE, quotient

# Made by `python -m tools.make_squash_table`.
TABLES = dict(np.load(pathlib.Path(__file__).with_name("tables.npz")))

# In float64: power series below, the derivative's asymptotic series above.
_SMALL, _LARGE = 0.5, 2500.0
# In float32 `h * u` and `h' / u` are polynomials in `2 u - 1` with `u = (1 + q / UNIT)**-0.5`.
UNIT = 20.0


def polynomial(coefficients: Sequence[Array] | np.ndarray, x: Array) -> Array:
    """Estrin's rule, lowest coefficient first: its chain of dependent steps is short."""
    terms, power = [jnp.asarray(term, x.dtype) for term in coefficients], x
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        odd_one_out = terms[-1:] if len(terms) % 2 else []
        terms = [low + high * power for low, high in pairs] + odd_one_out
        power = power * power
    return terms[0]


@jax.custom_jvp
def bessel_quotient(q: Array) -> Array:
    """The quotient `h(q)`, for `q >= 0`, to 6e-7 in float32 and 3e-15 in float64."""
    if q.dtype == jnp.float32:
        u = jax.lax.rsqrt(1 + q / UNIT)
        return polynomial(TABLES["quotient"], 2 * u - 1) / u
    small = q < _SMALL
    x = jnp.sqrt(jnp.where(small, 1, q))
    near = polynomial(TABLES["series"], jnp.where(small, q, 0))
    return jnp.where(small, near, x * i0e(x) / (2 * i1e(x)))


bessel_quotient.defjvps(lambda q_dot, _, q: bessel_quotient_slope(q) * q_dot)


def bessel_quotient_slope(q: Array) -> Array:
    r"""The derivative $h'(q) = [2 h (1 - h) + q / 2] / 2 q$; $1/8$ at 0."""
    if q.dtype == jnp.float32:
        u = jax.lax.rsqrt(1 + q / UNIT)
        return polynomial(TABLES["quotient_slope"], 2 * u - 1) * u
    small, large = q < _SMALL, q > _LARGE
    h = bessel_quotient(q)
    middle = (2 * h * (1 - h) + q / 2) / (2 * jnp.where(small | large, 1, q))
    near = polynomial(TABLES["series_slope"], jnp.where(small, q, 0))
    inverse = jax.lax.rsqrt(jnp.where(large, q, 1))
    far = inverse * polynomial(TABLES["far_slope"], inverse)
    return jnp.where(small, near, jnp.where(large, far, middle))


@jax.jit
def cone_coordinates(c: Array, s: Array, y: Array) -> tuple[Array, Array, Array]:
    """`z`, `1 - z**2` without cancellation, and the side of the cone: -1 inside, 0 on it, or 1.

    A sampler puts atoms at the rounded product `c * s`: what lies within one unit in the last place
    of that is on the cone. On and outside the cone `z` is `sign(y)`.
    """
    cs = c * s
    info, beyond = jnp.finfo(cs.dtype), jnp.abs(y) - cs
    side = jnp.where(jnp.abs(beyond) <= info.eps * cs, 0, jnp.sign(beyond))
    side, inside = jax.lax.stop_gradient(side), side < 0
    # What rounding took from `c * s`: parts of half a significand multiply exactly.
    c_high, s_high = (jax.lax.reduce_precision(v, info.nexp, info.nmant // 2 - 1) for v in (c, s))
    c_low, s_low = c - c_high, s - s_high
    error = ((c_high * s_high - cs) + c_high * s_low + c_low * s_high) + c_low * s_low
    error = jax.lax.stop_gradient(error)
    left, right = (cs - y) + error, (cs + y) + error
    safe = jnp.where(inside, cs, 1)
    z = jnp.where(inside, jnp.clip(quotient(y, safe), -1, 1), jnp.sign(y))
    return z, jnp.where(inside, quotient(left, safe) * quotient(right, safe), 0), side


@jax.jit
def log_density_over_lam(lam: Array, z: Array, one_minus_z2: Array) -> Array:
    """Log-density in `z` of the continuous part, less `log(lam)`; finite at `lam = 0`."""
    h = bessel_quotient(lam * lam * one_minus_z2)
    return _log_i0_minus_lam(lam, z, one_minus_z2) + jnp.log1p(lam / (2 * h)) - jnp.log(2.0)


@jax.custom_jvp
def _log_i0_minus_lam(lam: Array, z: Array, one_minus_z2: Array) -> Array:
    """`G = log I0(lam * rho) - lam`, with the exponent in the form that does not cancel."""
    rho = jnp.sqrt(one_minus_z2)
    return jnp.log(i0e(lam * rho)) - lam * (z * z) / (1 + rho)


@_log_i0_minus_lam.defjvp
def _log_i0_minus_lam_jvp(primals, tangents):
    lam, z, one_minus_z2 = primals
    lam_dot, _, dot = tangents
    # d log I0 / dq = 1 / (4 h): no square root to differentiate at the cone.
    h = bessel_quotient(lam * lam * one_minus_z2)
    slope = lam * (lam * dot + 2 * one_minus_z2 * lam_dot) / (4 * h) - lam_dot
    return _log_i0_minus_lam(lam, z, one_minus_z2), slope


@jax.jit
def velocity(lam: Array, z: Array, one_minus_z2: Array) -> Array:
    """Velocity inside the cone in units of `c`."""
    return lam * z / (lam + 2 * bessel_quotient(lam * lam * one_minus_z2))


def velocity_slope(lam: Array, w: Array, one_minus_z2: Array) -> Array:
    r"""Derivative of the velocity `w` in `z`, over `lam`: $1/(\lambda + 2h) + 4 w^2 h'(q)$."""
    q = lam * lam * one_minus_z2
    return 1 / (lam + 2 * bessel_quotient(q)) + 4 * w * w * bessel_quotient_slope(q)


def acceleration(lam: Array, z: Array, w: Array, one_minus_z2: Array) -> Array:
    r"""Derivative of `w` in `lam` along the flow, $-4 w^2 (1 - z w) h'(q) / z$, 0 at $z = 0$.

    All but one term cancels, since $dq/d\lambda = 2\lambda(1 - zw)$.
    """
    middle = lam / (lam + 2 * bessel_quotient(lam * lam))
    steepness = jnp.where(z == 0, middle, w / jnp.where(z == 0, 1, z))
    return -4 * steepness * w * (1 - z * w) * bessel_quotient_slope(lam * lam * one_minus_z2)


@jax.jit
def scaled_variance(lam: Array) -> Array:
    r"""Variance of `z`: $[\lambda - (1 - e^{-2\lambda})/2] / \lambda^2$, which is 1 at 0."""
    small = lam < 0.5
    # (e^-x - 1 + x) / (x^2 / 2) = sum_k 2 (-x)^k / (k + 2)!, to float64 for x <= 1.
    series = np.cumprod([1.0, *(-1 / (k + 2) for k in range(1, 17))])
    near = polynomial(series, jnp.where(small, 2 * lam, 0))
    large = jnp.where(small, 1, lam)
    return jnp.where(small, near, (large + jnp.expm1(-2 * large) / 2) / large / large)


@jax.jit
def spread_law(a: Array, c: Array, s: Array, y: Array, width: Array) -> tuple[Array, Array]:
    r"""Log-density and velocity in `y` of the law whose atoms fill a layer inside the cone.

    An atom is many samples in one position, which no velocity field can part. Here the half of the
    atoms at $z = \pm 1$ is uniform on $1 - \omega \le |z| \le 1$, and the continuity equation holds:

    $$ p^\omega = p + A, \quad A = \frac{e^{-\lambda}}{2 \omega} 1_{|z| > 1 - \omega}, \quad
       p^\omega |w^\omega| = p \, |w| + A \, [\, |z| + \lambda (|z| - 1 + \omega) \,]. $$

    Outside the cone the velocity goes on as $y / s$, into the datum.
    """
    lam, cone = jnp.maximum(a * s, 1e-30), jnp.maximum(c * s, 1e-25)
    z, one_minus_z2, side = cone_coordinates(c, s, y)
    size = jnp.abs(z)
    depth = size - (1 - width)
    log_continuous = jnp.log(lam) + log_density_over_lam(lam, z, one_minus_z2)
    log_ratio = -jnp.log(2 * width) - lam - log_continuous
    layer = depth >= 0
    share = jnp.where(layer, jax.nn.sigmoid(log_ratio), 0)
    gain = jnp.where(layer, jax.nn.softplus(log_ratio), 0)
    w = (1 - share) * velocity(lam, size, one_minus_z2) + share * (size + lam * depth)
    reach = jnp.abs(y) * (1 / cone)
    w = jnp.where(side < 0, w, reach)
    excess = jnp.maximum(reach - 1, 0) * (1 / (EDGE * width))
    return log_continuous + gain - jnp.log(cone) - excess, c * jnp.sign(y) * w


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
    log_ratio = log_density_over_lam(lam, z, one_minus_z2) - norm.logpdf(n)
    drift = z - velocity(lam, z, one_minus_z2)
    return n, jnp.exp(jnp.minimum(log_ratio, 80)) * (lam * z_dot + drift * lam_dot)


@jax.jit
def atom_score(lam: Array) -> Array:
    r"""The standard normal variable $\eta_1(\lambda)$ above which a sample is an atom."""
    return _two_sided_score(-jnp.expm1(-lam), jnp.exp(-lam), -lam)


@partial(jax.jit, static_argnames="steps")
def refine(lam: Array, m: Array, n: Array, steps: int) -> Array:
    """Newton steps from the coordinate `m` towards the one whose normal variable is `n`.

    At the cone the slope in `m` vanishes like `rho`: near it they are steps in `rho**2`.
    """
    lam = jnp.maximum(lam, 1e-30)
    end = jnp.sqrt(2 * lam)
    last = end * (1 - jnp.finfo(m.dtype).eps ** 0.5)

    def step(_, m):
        m = jnp.minimum(m, last)
        score, slope = _score(lam, m)
        change = (score - n) / slope
        rho = 1 - m * (m / lam) / 2
        square = jnp.clip(rho * (rho + 2 * change * (m / lam)), 0, 1)
        near = (rho < 0.5) & (lam * rho < 1)
        return jnp.where(near, end * jnp.sqrt(1 - jnp.sqrt(square)), jnp.clip(m - change, 0, end))

    shape = jnp.broadcast_shapes(lam.shape, m.shape, n.shape)
    return jax.lax.fori_loop(0, steps, step, jnp.broadcast_to(m, shape))


@jax.jit
def _score(lam: Array, m: Array) -> tuple[Array, Array]:
    """The standard normal variable `n >= 0` of the coordinate `m`, and `dn/dm`."""
    lam = jnp.maximum(lam, 1e-30)
    single, end = lam.dtype == jnp.float32, jnp.sqrt(2 * lam)
    # Below `m = 1` the mass inside is integrated, above it the tail; the other is the complement.
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
    log_outer = jnp.where(central, jnp.log1p(-jnp.minimum(body, 0.9)), log_tail)
    n = _two_sided_score(inner, outer, log_outer)
    return n, jnp.sqrt(jnp.pi / 2) * jnp.exp((n - m) * (n + m) / 2) * _factor(lam, m)


def _factor(lam: Array, u: Array) -> Array:
    """The slowly varying factor `k(u)`, in `[0, sqrt(lam)]` and about `sqrt(2/pi)` for large lam."""
    part = jnp.minimum(u * (u / lam) / 2, 1)
    x = jnp.maximum(lam - u * u / 2, 0)
    return jnp.sqrt(lam / (1 - part / 2)) * ((1 - part) * i0e(x) + i1e(x))


def _two_sided_score(body: Array, tail: Array, log_tail: Array) -> Array:
    r"""The `n` with `P(|N| < n) = body = 1 - tail`, from the smallest that has not underflowed.

    Far below zero, $\log P = \log P(|N| \ge n)$ gives `n` as a fixed point of
    $n^2 = -2 \log P - \log(\pi/2) - 2 \log n + 2 \log(1 - n^{-2} + 3 n^{-4} - 15 n^{-6})$.
    """
    near = jnp.sqrt(2.0) * erfinv(jnp.clip(body, 0, 0.75))
    far = -ndtri(jnp.clip(tail / 2, jnp.finfo(tail.dtype).tiny, 0.5))
    # Below this the tail is about to underflow, and the asymptotic series is exact to rounding.
    deep = -60.0 if tail.dtype == jnp.float32 else -600.0
    # At infinite lam there are no atoms: their score is larger than any normal variable.
    square = -2 * jnp.clip(log_tail, -1e30, deep) - jnp.log(jnp.pi / 2)
    farther = jnp.sqrt(square)
    for _ in range(4):
        inverse = 1 / (farther * farther)
        series = jnp.log1p(-inverse * (1 - 3 * inverse * (1 - 5 * inverse)))
        farther = jnp.sqrt(square - 2 * jnp.log(farther) + 2 * series)
    return jnp.where(log_tail < deep, farther, jnp.where(body < 0.5, near, far))
