r"""The Kac law in its two natural variables.

Up to scale the law depends on $\lambda = a s$, the mean number of jumps, and on
$z = y / (c s) \in [-1, 1]$, the place inside the light cone. With $\rho = \sqrt{(1-z)(1+z)}$ and
$q = (\lambda \rho)^2$, the continuous part has the density in $z$

$$ \tfrac12 \lambda e^{-\lambda} \Bigl[ I_0(\lambda\rho) + \frac{I_1(\lambda\rho)}{\rho} \Bigr]
   = \tfrac12 \lambda \, e^{G(\lambda, z)} \Bigl[ 1 + \frac{\lambda}{2 h(q)} \Bigr], \qquad
   G = \log I_0(\lambda\rho) - \lambda, $$

and the velocity in units of $c$ is $w = \lambda z / (\lambda + 2 h(q))$ with the Bessel quotient $h$
of `kacjax.special`. On the cone, $|z| = 1$, sit two atoms of mass $e^{-\lambda}/2$ with $w = \pm 1$.

Source: Goldstein (1951), Kac (1974); arXiv 2506.20641 for the velocity.
"""

import jax
import jax.numpy as jnp
from jax.scipy.special import i0e
from jaxtyping import Array, Float

from kacjax.special import bessel_quotient


def cone_coordinates(
    c: Float[Array, "..."], s: Float[Array, "..."], y: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """The place in the cone `z = y / (c s)`, `1 - z**2` without cancellation, and insideness.

    Returns:
        `(z, room, inside)`: `z` clipped to `[-1, 1]`; `room = 1 - z**2`, from the product
        `(c s - y) (c s + y)` and clipped at 0; and whether `|y| < c s`. At `s = 0` nothing is
        inside.
    """
    cs = c * s
    left, right = _product_minus(c, s, cs, y), _product_minus(c, s, cs, -y)
    inside = (left > 0) & (right > 0)
    safe = jnp.where(inside, cs, 1)
    z = jnp.where(inside, y / safe, jnp.sign(y))
    room = jnp.where(inside, (left / safe) * (right / safe), 0)
    return z, room, inside


def _product_minus(c: Array, s: Array, cs: Array, y: Array) -> Array:
    """`c * s - y`, with the rounding error of the product added back: it matters at the cone."""
    info = jnp.finfo(cs.dtype)
    # Halves of the significand multiply exactly, which recovers the product's rounding error.
    c_high = jax.lax.reduce_precision(c, info.nexp, info.nmant // 2)
    s_high = jax.lax.reduce_precision(s, info.nexp, info.nmant // 2)
    c_low, s_low = c - c_high, s - s_high
    error = ((c_high * s_high - cs) + c_high * s_low + c_low * s_high) + c_low * s_low
    return (cs - y) + jax.lax.stop_gradient(error)


def log_density(
    lam: Float[Array, "..."], z: Float[Array, "..."], room: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Log-density in `z` of the continuous part, for `|z| <= 1` and `room = 1 - z**2`."""
    h = bessel_quotient(lam * lam * room)
    return jnp.log(lam / 2) + _log_i0_minus_lam(lam, z, room) + jnp.log1p(lam / (2 * h))


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
    value = _log_i0_minus_lam(lam, z, room)
    slope = lam * (lam * room_dot + 2 * room * lam_dot) / (4 * h) - lam_dot
    return value, slope


def velocity(
    lam: Float[Array, "..."], z: Float[Array, "..."], room: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Velocity inside the cone in units of `c`, for `|z| <= 1` and `room = 1 - z**2`."""
    return lam * z / (lam + 2 * bessel_quotient(lam * lam * room))
