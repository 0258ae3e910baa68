r"""The Kac law as a squashed Gaussian: a sample and its velocity for a dozen multiply-adds each.

Let the two-sided tail, atoms included, pick the magnitude: $P(|Z| \ge z) = P(|N| \ge n)$. Then
$z = \operatorname{sign}(N) W(\lambda, |N|)$ with $W = 1$ for $|N| \ge \eta_1(\lambda)$, where
$P(|N| \ge \eta_1) = e^{-\lambda}$: exactly the atoms. Below $\eta_1$, $W$ is smooth, odd and nearly
linear. With $x = N / X(\lambda)$, $X = \min(\eta_1, 5.5)$, it and the velocity are polynomials,

$$ z = \sigma x P(2x^2 - 1), \qquad w = \sigma \kappa x Q(2x^2 - 1), \qquad
   \sigma = (1 + \lambda/30)^{-1/2}, \quad \kappa = \frac{\lambda}{\lambda + 2}. $$

Their coefficients, and $X / \zeta$, are functions of $\zeta = \lambda / (\lambda + K)$, smooth but for
the kink of $X$, tabulated as polynomials on 32 panels by `python -m tools.make_squash_table`, to 1e-6.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.scipy.stats import norm

from kacjax._typing import Array, Key, Shape
from kacjax.processes.kac import law

# The largest normal variable the table covers: float32 normals end at 5.42.
CUT = 5.5
PANELS, KINK_PANEL, PANEL_DEGREE, POSITION_DEGREE, VELOCITY_DEGREE = 32, 22, 6, 12, 14
# The `lam` with `eta_1 = CUT`, and the constant `K`, which puts it on a boundary of panels.
KINK = 17.086229172065313
HALFWAY = KINK * (PANELS - KINK_PANEL) / KINK_PANEL


def prefactors(lam: Any) -> tuple[Any, Any]:
    """The factors `sigma` and `kappa` of position and velocity, for NumPy and JAX arrays alike."""
    return (1 + lam / 30) ** -0.5, lam / (lam + 2)


@partial(jax.jit, static_argnames="refined")
def displace(s: Array, a: Array, c: Array, n: Array, refined: bool) -> tuple[Array, Array]:
    """Displacement and velocity of the normal variables `n`, to rounding if they are `refined`."""
    z, w, _ = _unit_sample(a * s, n, refined)
    return (c * s) * z, c * w


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _unit_sample(lam: Array, n: Array, refined: bool) -> tuple[Array, Array, Array]:
    """Position and velocity in units of the cone, and 1 for atoms, else 0."""
    # The table ends at CUT; what lies beyond starts there and is refined.
    z, w, atom = squash(lam, jnp.clip(n, -CUT, CUT) if refined else n)
    z, w, atom = _refine(lam, n, z, w) if refined else (z, w, atom)
    return z, w, atom.astype(z.dtype)


@partial(_unit_sample.defjvp, symbolic_zeros=True)
def _unit_sample_jvp(refined, primals, tangents):
    (lam, n), (lam_dot, n_dot) = primals, tangents
    z, w, atom = _unit_sample(lam, n, refined)
    one_minus_z2, inner = (1 - z) * (1 + z), 1 - atom
    positive = jnp.where(lam > 0, lam, 1)
    z_dot, w_dot = jnp.zeros_like(z), jnp.zeros_like(w)
    if not isinstance(lam_dot, SymbolicZero):
        # Along the flow, at fixed n.
        z_dot += inner * ((w - z) * (lam_dot / positive))
        w_dot += inner * law.acceleration(lam, z, w, one_minus_z2) * lam_dot
    if not isinstance(n_dot, SymbolicZero):
        # In logarithms: both densities underflow in the far tails.
        log_density = law.log_density_over_lam(lam, z, one_minus_z2) + jnp.log(positive)
        along = jnp.where(atom > 0, 0, jnp.exp(norm.logpdf(n) - log_density)) * n_dot
        z_dot += along
        w_dot += lam * law.velocity_slope(lam, w, one_minus_z2) * along
    return (z, w, atom), (z_dot, w_dot, jnp.zeros_like(atom))


def squash(lam: Array, n: Array) -> tuple[Array, Array, Array]:
    """Position and velocity in units of the cone, and whether it is an atom, for `n` up to `CUT`."""
    # One look-up of all that belongs to a panel, instead of one for each power.
    table = jnp.asarray(law.TABLES["squash"].swapaxes(0, 1), lam.dtype)
    # 1 - K / (lam + K) would lose small lam; the limit at infinity needs its own value.
    zeta = jnp.where(jnp.isinf(lam), 1, lam / (lam + HALFWAY))
    panel = jnp.clip((zeta * PANELS).astype(jnp.int32), 0, PANELS - 1)
    local = (2 * (zeta * PANELS - panel.astype(lam.dtype)) - 1)[..., None]
    levels = table.at[panel].get(mode="promise_in_bounds")
    rows = law.polynomial([levels[..., k, :] for k in range(PANEL_DEGREE + 1)], local)
    # Without the barrier XLA recomputes the look-up for every component that shares it.
    rows, zeta = jax.lax.optimization_barrier((rows, zeta))
    position = [rows[..., k] for k in range(POSITION_DEGREE + 1)]
    velocity = [rows[..., k] for k in range(POSITION_DEGREE + 1, rows.shape[-1] - 1)]
    sigma, kappa = prefactors(lam)
    x = n * (1 / jnp.maximum(rows[..., -1] * zeta, jnp.finfo(n.dtype).tiny))
    t = 2 * (x * x) - 1
    z = (sigma * x) * law.polynomial(position, t)
    w = (sigma * kappa * x) * law.polynomial(velocity, t)
    atom = jnp.abs(x) >= jnp.where(lam < KINK, 1, jnp.inf)
    sign = jnp.where(n < 0, -1, jnp.ones_like(n))
    return jnp.where(atom, sign, z), jnp.where(atom, sign, w), atom


def _refine(lam: Array, n: Array, z: Array, w: Array) -> tuple[Array, Array, Array]:
    """Newton steps on what the table gives, wherever it is not exact to rounding."""
    size = jnp.abs(n)
    atom = size >= law.atom_score(lam)
    start = law.to_root(lam, z, jnp.maximum((1 - z) * (1 + z), 0))
    start = jnp.minimum(start * jnp.maximum(size / CUT, 1), jnp.sqrt(2 * lam))
    fine, one_minus_z2 = law.from_root(lam, law.refine(lam, start, size, steps=4))
    sign = jnp.sign(n)
    keep = (size <= CUT) & (n.dtype == jnp.float32)
    z = jnp.where(keep, z, sign * fine)
    w = jnp.where(keep, w, sign * law.velocity(lam, fine, one_minus_z2))
    return jnp.where(atom, sign, z), jnp.where(atom, sign, w), atom


def poisson_beta(key: Key, lam: Array, shape: Shape) -> tuple[Array, Array]:
    """Exact draws of `(z, w)`: given the number of jumps, the time in each direction is a Beta."""
    count_key, share_key, sign_key = jax.random.split(key, 3)
    count = jax.random.poisson(count_key, lam, shape)
    first, second = (part.astype(lam.dtype) for part in (count // 2 + 1, (count + 1) // 2))
    share = jax.random.beta(share_key, first, jnp.maximum(second, 1))
    sign = jax.random.rademacher(sign_key, shape, lam.dtype)
    w = law.velocity(lam, 2 * share - 1, 4 * share * (1 - share))
    atom = count == 0
    return jnp.where(atom, sign, sign * (2 * share - 1)), jnp.where(atom, sign, sign * w)
