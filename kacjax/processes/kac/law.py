r"""The Kac law in its two natural variables, $\lambda = a s$ and $z = y / (c s)$.

With $\rho = \sqrt{(1-z)(1+z)}$, $q = (\lambda \rho)^2$ and $h(q) = x I_0(x) / (2 I_1(x))$ at
$x = \sqrt q$, the density of the continuous part in $z$ and the velocity in units of $c$ are

$$ p = \tfrac12 \lambda \, e^{G(\lambda, z)} \Bigl[ 1 + \frac{\lambda}{2 h(q)} \Bigr], \qquad
   G = \log I_0(\lambda\rho) - \lambda, \qquad w = \frac{\lambda z}{\lambda + 2 h(q)}. $$

On the cone, $|z| = 1$, sit two atoms of mass $e^{-\lambda}/2$ that move with $w = \pm 1$; from
inside, $w$ tends to $\lambda / (\lambda + 2)$ only. In $1 - z^2$ and $q$ all is analytic: gradients
are finite on the cone too.

Source: Goldstein (1951), Kac (1974); arXiv 2506.20641 for the velocity.
"""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import i0e, i1e

from kacjax._typing import Array
from kacjax.processes.base import EDGE, quotient

# Made by `python -m tools.make_squash_table`.
TABLES = dict(np.load(pathlib.Path(__file__).with_name("tables.npz")))

# In float64. Below: power series, far inside their radius of convergence.
_SMALL = 0.5
# Above: the derivative's asymptotic series; its closed form cancels like x * epsilon.
_LARGE = 2500.0
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


@bessel_quotient.defjvp
def _bessel_quotient_jvp(primals, tangents):
    (q,), (q_dot,) = primals, tangents
    return bessel_quotient(q), bessel_quotient_slope(q) * q_dot


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
    beyond = jnp.abs(y) - cs
    side = jnp.where(jnp.abs(beyond) <= jnp.finfo(cs.dtype).eps * cs, 0, jnp.sign(beyond))
    side, inside = jax.lax.stop_gradient(side), side < 0
    error = jax.lax.stop_gradient(_rounding_error(c, s, cs))
    left, right = (cs - y) + error, (cs + y) + error
    safe = jnp.where(inside, cs, 1)
    z = jnp.where(inside, jnp.clip(quotient(y, safe), -1, 1), jnp.sign(y))
    return z, jnp.where(inside, quotient(left, safe) * quotient(right, safe), 0), side


def _rounding_error(c: Array, s: Array, product: Array) -> Array:
    """What rounding took from `c * s`; it decides how far from the cone a point is."""
    info = jnp.finfo(product.dtype)
    # Parts of half a significand multiply exactly, all but the two low ones.
    c_high, s_high = (jax.lax.reduce_precision(v, info.nexp, info.nmant // 2 - 1) for v in (c, s))
    c_low, s_low = c - c_high, s - s_high
    return ((c_high * s_high - product) + c_high * s_low + c_low * s_high) + c_low * s_low


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
    r"""Derivative of the velocity `w` in `lam` along the flow, $-4 w^2 (1 - z w) h'(q) / z$.

    It follows from $\partial_\lambda z = (w - z) / \lambda$, hence $dq/d\lambda = 2\lambda(1 - zw)$;
    all other terms cancel.
    """
    # At z = 0 the velocity is 0 too, and so is the quotient.
    steepness = w / jnp.where(z == 0, 1, z)
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
    atoms at $z = \pm 1$ is uniform on $1 - \omega \le |z| \le 1$ instead:

    $$ p^\omega = p + A, \quad A = \frac{e^{-\lambda}}{2 \omega} 1_{|z| > 1 - \omega}, \quad
       p^\omega |w^\omega| = p \, |w| + A \, [\, |z| + \lambda (|z| - 1 + \omega) \,]. $$

    The first term in brackets lets the layer scale with the cone, the second hands the mass that
    the atoms lose to the continuous part: the continuity equation holds exactly. Outside the cone
    the velocity goes on as $y / s$, into the datum, and the log-density falls steeply.
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
