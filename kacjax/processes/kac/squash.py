r"""The Kac law as a squashed Gaussian: a sample and its velocity for a dozen multiply-adds each.

Let the two-sided tail, atoms included, pick the magnitude: $P(|Z| \ge z) = P(|N| \ge n)$. Then
$z = \operatorname{sign}(N) W(\lambda, |N|)$ with $W = 1$ for $|N| \ge \eta_1(\lambda)$, where
$P(|N| \ge \eta_1) = e^{-\lambda}$: exactly the atoms. Below $\eta_1$, $W$ is smooth, odd and nearly
linear. With $x = N / X(\lambda)$, $X = \min(\eta_1, 5.5)$, it and the velocity are polynomials,

$$ z = \sigma x P(2x^2 - 1), \qquad w = \sigma \kappa x Q(2x^2 - 1), \qquad
   \sigma = (1 + \lambda/30)^{-1/2}, \quad \kappa = \frac{\lambda}{\lambda + 2}. $$

The prefactors take out the behaviour for small and large $\lambda$; what is left has a limit at both
ends. In $\zeta = \lambda / (\lambda + K)$ the coefficients, and $X / \zeta$, are smooth on all of
$[0, 1]$ but for the kink of $X$, which lies on a panel boundary. They are tabulated as polynomials
on 32 equal panels of $\zeta$, so that no series is needed for $\lambda \to 0$ or $\infty$.
Coefficients depend on $\lambda$ only: where one $\lambda$ serves a whole sample, a component costs
its normal variable and 28 multiply-adds, without gathers, branches or Bessel functions.

The variable $2x^2 - 1$, rather than $x^2$, keeps the coefficients below 20: in powers of $x^2$ they
cancel by some five digits. The table (26 KB) is made by `python -m kacjax.processes.kac.fit`;
relative to the exact map it is right to 1e-6, mostly to float32 rounding.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from kacjax.special import polynomial

CUT = 5.5
"""The largest normal variable the table covers: float32 normals end at 5.42."""
KINK = 17.086229172065313
"""The `lam` with `eta_1 = CUT`."""
PANELS, KINK_PANEL, PANEL_DEGREE = 32, 22, 6
POSITION_DEGREE, VELOCITY_DEGREE = 12, 14
HALFWAY = KINK * (PANELS - KINK_PANEL) / KINK_PANEL
"""The constant `K` of the panel variable, which puts the kink on a boundary."""

_TABLE = np.load(pathlib.Path(__file__).with_name("squash.npy"))


def prefactors(lam):
    """The factors `sigma` and `kappa` of position and velocity, for NumPy and JAX arrays alike."""
    return (1 + lam / 30) ** -0.5, lam / (lam + 2)


def squash(
    lam: Float[Array, "..."], n: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."], Bool[Array, "..."]]:
    """The squashed normal variables with their velocities, both in units of the cone.

    Args:
        lam: Mean number of jumps; of fewer elements than `n` where components share it.
        n: Standard normal variables, no larger than `CUT` unless they are atoms.

    Returns:
        `(z, w, atom)`: place in `[-1, 1]`, velocity in `[-1, 1]`, and whether the sample has
        made no jump.
    """
    rows, zeta = _coefficients(lam)
    position = [rows[..., k] for k in range(POSITION_DEGREE + 1)]
    velocity = [rows[..., k] for k in range(POSITION_DEGREE + 1, rows.shape[-1] - 1)]
    sigma, kappa = prefactors(lam)
    x = n * (1 / jnp.maximum(rows[..., -1] * zeta, jnp.finfo(n.dtype).tiny))
    t = 2 * (x * x) - 1
    z = (sigma * x) * polynomial(position, t)
    w = (sigma * kappa * x) * polynomial(velocity, t)
    atom = jnp.abs(x) >= jnp.where(lam < KINK, 1, jnp.inf)
    sign = jnp.where(n < 0, -1, jnp.ones_like(n))
    return jnp.where(atom, sign, z), jnp.where(atom, sign, w), atom


def _coefficients(lam: Array) -> tuple[Array, Array]:
    """The polynomials' coefficients, on a last axis behind those of `lam`, and `zeta`."""
    table = jnp.asarray(_TABLE, lam.dtype)
    # 1 - K / (lam + K) would lose small lam; the limit at infinity needs its own value.
    zeta = jnp.where(jnp.isinf(lam), 1, lam / (lam + HALFWAY))
    place = zeta * PANELS
    panel = jnp.clip(place.astype(jnp.int32), 0, PANELS - 1)
    local = (2 * (place - panel.astype(lam.dtype)) - 1)[..., None]
    rows = polynomial([jnp.take(level, panel, axis=0) for level in table], local)
    # Without the barrier XLA recomputes the gathers for every component that shares them.
    return jax.lax.optimization_barrier((rows, zeta))
