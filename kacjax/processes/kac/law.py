r"""The Kac law in its two natural variables.

Up to scale the law depends on $\lambda = a s$, the mean number of jumps, and on
$z = y / (c s) \in [-1, 1]$, the place inside the light cone. With $\rho = \sqrt{(1-z)(1+z)}$ and
$q = (\lambda \rho)^2$, the continuous part has the density in $z$

$$ \tfrac12 \lambda e^{-\lambda} \Bigl[ I_0(\lambda\rho) + \frac{I_1(\lambda\rho)}{\rho} \Bigr]
   = \tfrac12 \lambda \, e^{G(\lambda, z)} \Bigl[ 1 + \frac{\lambda}{2 h(q)} \Bigr], \qquad
   G = \log I_0(\lambda\rho) - \lambda, $$

and the velocity in units of $c$ is $w = \lambda z / (\lambda + 2 h(q))$, with the Bessel quotient
$h$ of `kacjax.special`. On the cone, $|z| = 1$, sit two atoms of mass $e^{-\lambda}/2$ that move
with $w = \pm 1$; from inside, $w$ tends to $\lambda / (\lambda + 2)$ only.

Everything is a function of `room = 1 - z**2`, which the caller computes without cancellation, so
that gradients stay finite on the cone, where $\rho$ has none.

Source: Goldstein (1951), Kac (1974); arXiv 2506.20641 for the velocity.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e
from jaxtyping import Array, Float

from kacjax.special import bessel_quotient, bessel_quotient_slope, polynomial

# Coefficients of (e^-x - 1 + x) / (x^2 / 2) = sum_k 2 (-x)^k / (k + 2)!, to float64 for x <= 1.
_VARIANCE_SERIES = [1.0]
for _k in range(1, 17):
    _VARIANCE_SERIES.append(-_VARIANCE_SERIES[-1] / (_k + 2))


@jax.jit
def cone_coordinates(
    c: Float[Array, "..."], s: Float[Array, "..."], y: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """The place in the light cone, without cancellation.

    Returns:
        `(z, room, inside)`: `z = y / (c s)`, which is `sign(y)` on and outside the cone;
        `room = 1 - z**2`, from the product `(c s - y) (c s + y)`; and 1 where `|y| < c s`, else 0.
    """
    cs = c * s
    error = jax.lax.stop_gradient(_rounding_error(c, s, cs))
    left, right = (cs - y) + error, (cs + y) + error
    inside = (left > 0) & (right > 0)
    safe = jnp.where(inside, cs, 1)
    z = jnp.where(inside, jnp.clip(_quotient(y, safe), -1, 1), jnp.sign(y))
    room = jnp.where(inside, _quotient(left, safe) * _quotient(right, safe), 0)
    return z, room, inside.astype(z.dtype)


@jax.custom_jvp
def _quotient(x: Array, y: Array) -> Array:
    """`x / y`, of which the derivative does not square `y`: a small cone's size would underflow."""
    return x / y


@_quotient.defjvp
def _quotient_jvp(primals, tangents):
    x, y = primals
    x_dot, y_dot = tangents
    quotient = x / y
    return quotient, (x_dot - quotient * y_dot) / y


def _rounding_error(c: Array, s: Array, product: Array) -> Array:
    """What rounding took from `c * s`; it decides how far from the cone a point is."""
    info = jnp.finfo(product.dtype)
    # Parts of half a significand multiply exactly, all but the two low ones.
    half = info.nmant // 2 - 1
    c_high = jax.lax.reduce_precision(c, info.nexp, half)
    s_high = jax.lax.reduce_precision(s, info.nexp, half)
    c_low, s_low = c - c_high, s - s_high
    return ((c_high * s_high - product) + c_high * s_low + c_low * s_high) + c_low * s_low


@jax.jit
def log_density_over_lam(
    lam: Float[Array, "..."], z: Float[Array, "..."], room: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Log-density in `z` of the continuous part, less `log(lam)`; finite at `lam = 0`."""
    h = bessel_quotient(lam * lam * room)
    return _log_i0_minus_lam(lam, z, room) + jnp.log1p(lam / (2 * h)) - jnp.log(2.0)


@jax.custom_jvp
def _log_i0_minus_lam(lam: Array, z: Array, room: Array) -> Array:
    """`G = log I0(lam * rho) - lam`, with the exponent in the form that does not cancel."""
    rho = jnp.sqrt(room)
    return jnp.log(i0e(lam * rho)) - lam * (z * z) / (1 + rho)


@_log_i0_minus_lam.defjvp
def _log_i0_minus_lam_jvp(primals, tangents):
    lam, z, room = primals
    lam_dot, _, room_dot = tangents
    # d log I0 / dq = 1 / (4 h): no square root to differentiate at the cone.
    h = bessel_quotient(lam * lam * room)
    slope = lam * (lam * room_dot + 2 * room * lam_dot) / (4 * h) - lam_dot
    return _log_i0_minus_lam(lam, z, room), slope


@jax.jit
def velocity(
    lam: Float[Array, "..."], z: Float[Array, "..."], room: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Velocity inside the cone in units of `c`."""
    return lam * z / (lam + 2 * bessel_quotient(lam * lam * room))


@jax.jit
def velocity_slope(
    lam: Float[Array, "..."], w: Float[Array, "..."], room: Float[Array, "..."]
) -> Float[Array, "..."]:
    r"""Derivative of the velocity `w` in `z`, over `lam`: $1/(\lambda + 2h) + 4 w^2 h'(q)$."""
    q = lam * lam * room
    return 1 / (lam + 2 * bessel_quotient(q)) + 4 * w * w * bessel_quotient_slope(q)


@jax.jit
def acceleration(
    lam: Float[Array, "..."],
    z: Float[Array, "..."],
    w: Float[Array, "..."],
    room: Float[Array, "..."],
) -> Float[Array, "..."]:
    r"""Derivative of the velocity `w` in `lam` along the flow, $-4 w^2 (1 - z w) h'(q) / z$.

    It follows from $\partial_\lambda z = (w - z) / \lambda$, hence $dq/d\lambda = 2\lambda(1 - zw)$;
    all other terms cancel.
    """
    # At z = 0 the velocity is 0 too, and so is the quotient.
    steepness = w / jnp.where(z == 0, 1, z)
    return -4 * steepness * w * (1 - z * w) * bessel_quotient_slope(lam * lam * room)


@jax.jit
def scaled_variance(lam: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""Variance of `z`: $[\lambda - (1 - e^{-2\lambda})/2] / \lambda^2$, which is 1 at 0."""
    small = lam < 0.5
    series = polynomial(_VARIANCE_SERIES, jnp.where(small, 2 * lam, 0))
    large = jnp.where(small, 1, lam)
    return jnp.where(small, series, (large + jnp.expm1(-2 * large) / 2) / large / large)
