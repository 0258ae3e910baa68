r"""The Kac law with its atoms spread over a narrow layer inside the light cone.

A velocity field is a function of position, and an atom is many samples in one position: where two
cones of different data cross, some of an atom's mass stays on its cone and the rest passes through,
which no function of position can express. A layer can: let the half of the atoms at $z = \pm 1$,
with $z = y / (c s)$, be uniform on $1 - \omega \le |z| \le 1$. The continuous part is left as it is.
With $p$ its density in $z$ and $w$ its velocity in units of `c`, the law inside the cone is

$$ p^\omega = p + A, \qquad
   p^\omega w^\omega = p \, w + A \, \bigl[\, |z| + \lambda (|z| - 1 + \omega) \,\bigr] \operatorname{sign} z,
   \qquad A = \frac{e^{-\lambda}}{2 \omega} 1_{|z| > 1 - \omega}. $$

The first term in brackets lets the layer scale with the cone, the second hands the mass that the
atoms lose to the continuous part, which receives it at $|z| = 1$. It follows from
$\partial_s F + v p = 0$ for the distribution function: the pair satisfies the continuity equation
exactly, for every $\omega$, and tends to the Kac law and its velocity as $\omega \to 0$. Since
$w^\omega = 1$ at $|z| = 1$, the field has no jump at the cone, and stays bounded by `c`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax.processes.kac import law

# Outside the cone the density falls by a factor of e over this part of the layer's width: zero but
# for rounding, and still telling which of several cones is nearest.
_EDGE = 1e-3


@jax.jit
def spread(
    a: Float[Array, "..."],
    c: Float[Array, "..."],
    s: Float[Array, "..."],
    y: Float[Array, "..."],
    width: Float[Array, "..."] | float,
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    r"""Log-density and velocity in `y` of the law whose atoms fill a layer.

    Outside the cone, where the law has no mass, the velocity goes on as $y / s$: it is `c` on the
    cone, and a point that a solver has carried out of the cone rides along with it into the datum,
    at a constant ratio $|y| / cs$. The log-density goes on with a steep slope.

    Args:
        a: Jump rate.
        c: Speed.
        s: Process time, positive.
        y: Displacement.
        width: The part of the cone, $\omega$ in (0, 1), that the layer takes on each side.

    Returns:
        `(log_density, velocity)`, both finite.
    """
    lam, cone = a * s, c * s
    z, room, inside = law.cone_coordinates(c, s, y)
    size = jnp.abs(z)
    depth = size - (1 - width)
    log_continuous = jnp.log(lam) + law.log_density_over_lam(lam, z, room)
    log_ratio = -jnp.log(2 * width) - lam - log_continuous
    layer = depth >= 0
    share = jnp.where(layer, jax.nn.sigmoid(log_ratio), 0)
    gain = jnp.where(layer, jax.nn.softplus(log_ratio), 0)
    w = (1 - share) * law.velocity(lam, size, room) + share * (size + lam * depth)
    reach = jnp.abs(y) * (1 / cone)
    excess = jnp.maximum(reach - 1, 0)
    w = jnp.where(inside > 0, w, reach)
    log_density = log_continuous + gain - jnp.log(cone) - excess * (1 / (_EDGE * width))
    return log_density, c * jnp.sign(y) * w
