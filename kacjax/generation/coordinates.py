r"""Straight coordinates: every path is flow matching, if space and time are scaled to fit.

The README has the equation; its slope is $\hat\varepsilon - \hat x_0$, with the noise and the data
for which the best linear predictor of the velocity is `v`.

Source: J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, ICLR 2021; T. Karras et
al., *Elucidating the design space of diffusion-based generative models*, NeurIPS 2022.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice
from kacjax.paths import ProbabilityPath
from kacjax.schedules import power_grid

COORDINATES = ("straight", "time")

# Cells of the mesh that steps are chosen on.
_CELLS = 4096


class Coordinates(eqx.Module):
    r"""The coordinates $u = x / (f + \sigma)$ and $\rho = \sigma / (f + \sigma)$ at $t = T \tau^2$.

    In $\tau$ the deviation of every process is smooth, Brownian motion's too. With `straight` false
    $u = x$, $\rho = t$ and $t = T \tau$.
    """

    path: ProbabilityPath
    straight: bool = eqx.field(static=True)

    def time(self, tau: ArrayLike) -> Array:
        r"""The time of a $\tau$."""
        tau = jnp.asarray(tau)
        return jnp.asarray(self.path.T, tau.dtype) * (tau * tau if self.straight else tau)

    def solver_time(self, t: ArrayLike) -> Array:
        r"""The $\tau$ of a time."""
        u = jnp.asarray(t) / jnp.asarray(self.path.T)
        return _root(u) if self.straight else u

    def rho(self, tau: ArrayLike) -> Array:
        r"""The control $\rho$: it rises from data, 0, to noise."""
        if not self.straight:
            return self.time(tau)
        f, sigma = self._level(tau)
        return sigma / (f + sigma)

    def scale(self, tau: ArrayLike) -> Array:
        r"""The factor $x / u = f + \sigma$."""
        if not self.straight:
            return jnp.ones_like(tau)
        f, sigma = self._level(tau)
        return f + sigma

    def scaled(self, tau: Array, x: Array, power: int) -> Array:
        """Points times a power of the scale at a time, or at times along the first axis."""
        factor = self.scale(tau).astype(x.dtype) ** power
        return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim)) * x

    def slope(self, tau: Array, u: Array, labels: Any, velocity: Callable[..., Array]) -> Array:
        r"""The slope $du / d\rho$ that a velocity has at points `u`, all at one time or each at its own."""
        if self.straight:
            # Where the control stands still at T, velocities there do not show the data.
            still = (tau == 1) & (self._rho_and_slope(tau)[1] < 1e-4)
            tau = jnp.where(still, jnp.full_like(tau, 0.999), tau)
        x = self.scaled(tau, u, 1)
        t = jnp.broadcast_to(self.time(tau).astype(u.dtype), u.shape[:1])
        v = velocity(t, x) if labels is None else velocity(t, x, labels)
        if jnp.shape(v) != x.shape:
            raise ValueError(f"velocity must return shape {x.shape}, got {jnp.shape(v)}.")
        v = jnp.asarray(v, u.dtype)
        if not self.straight:
            return v
        tau = jnp.reshape(tau, jnp.shape(tau) + (1,) * (u.ndim - 1) * (jnp.ndim(tau) > 0))
        c = self.path.coefficients(self.time(tau))
        gain = (c.f + c.sigma) / (c.f * c.sigma_dot - c.f_dot * c.sigma)
        drift = gain * (c.f_dot + c.sigma_dot)
        return gain.astype(u.dtype) * v - drift.astype(u.dtype) * u

    def grid(self, t0: Scalar, t1: Scalar, steps: int, power: Scalar) -> Float[Array, " {steps}+1"]:
        r"""Solver times from `t0` down to `t1` at which $\rho^{1/p}$ falls evenly, about."""
        tau0, tau1 = self.solver_time(t0), self.solver_time(t1)
        taus = self.at_rho(power_grid(self.rho(tau0), self.rho(tau1), steps, power))
        return taus.at[0].set(tau0).at[-1].set(tau1)

    def at_rho(self, rho: Array) -> Array:
        r"""The solver time at which the control is about `rho`, to choose steps by."""
        return self._interpolant(jnp.result_type(float))(rho)

    def inverse(self, dtype: Any) -> Callable[[Array], Array]:
        r"""The solver time as a function of the control, exact to rounding."""
        interpolant = self._interpolant(dtype)

        def tau(rho: Array) -> Array:
            tau = jax.lax.stop_gradient(interpolant(rho))
            for _ in range(2):  # Newton's steps square the error of the interpolation.
                value, slope = self._rho_and_slope(tau)
                tau = tau - jnp.where(slope > 0, (value - rho) / jnp.where(slope > 0, slope, 1), 0)
            return jnp.clip(tau, 0, 1)

        return tau

    def _interpolant(self, dtype: Any) -> Callable[[Array], Array]:
        """The inverse of the control, by a mesh of roots: small times need one of their own."""
        root = jnp.linspace(0, 1, _CELLS + 1, dtype=dtype)
        levels = _root(jax.vmap(self.rho)(root * root)).astype(dtype)
        return lambda rho: jnp.square(jnp.interp(_root(rho), levels, root))

    def _rho_and_slope(self, tau: Array) -> tuple[Array, Array]:
        return jax.jvp(self.rho, (tau,), (jnp.ones_like(tau),))

    def _level(self, tau: ArrayLike) -> tuple[Array, Array]:
        t = self.time(tau)
        c = self.path.coefficients(t)
        # At 0 exactly: the coefficients are those of the smallest time there.
        return c.f, jnp.where(t > 0, c.sigma, 0)


def _root(x: Array) -> Array:
    """The square root, at 0 without its derivative, which is infinite."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def make_coordinates(path: ProbabilityPath, name: str | None) -> Coordinates:
    """Coordinates by name; by default straight ones, but where components differ in process."""
    if name is not None:
        check_choice("coordinates", name, COORDINATES)
    shape = jax.eval_shape(lambda: path.coefficients(path.T).sigma).shape
    if name == "straight" and shape:
        raise ValueError(
            "coordinates must be 'time' where components have processes of their own, got 'straight'."
        )
    return Coordinates(path, name != "time" and not shape)
