r"""Straight coordinates: every path is flow matching, if space and time are scaled to fit.

With the noise's deviation $\sigma(t)$ a point of a path is $x_t = f x_0 + \sigma \varepsilon$, with
$\varepsilon$ of variance 1. In the coordinates $u = x / (f + \sigma)$, $\rho = \sigma / (f + \sigma)$ it is
$u = (1 - \rho) x_0 + \rho \varepsilon$, and the equation $\dot x = v(t, x)$ becomes

$$ \frac{du}{d\rho} = \frac{(f + \sigma) v - (f' + \sigma') x}{f \sigma' - f' \sigma}
   = \hat\varepsilon - \hat x_0, $$

with the data and the noise for which the best linear predictor of the velocity is `v`. As long as they
stay the same the solution is a straight line, along which one Euler step is exact; Euler's method is
DDIM for Brownian motion, and its analogue for the Kac process.

Source: J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, ICLR 2021; T. Karras et
al., *Elucidating the design space of diffusion-based generative models*, NeurIPS 2022.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax.paths import ProbabilityPath
from kacjax.schedules import power_grid

COORDINATES = ("straight", "time")

# Cells of the mesh that steps are chosen on.
_CELLS = 4096


class Coordinates(diffrax.AbstractPath):
    r"""The coordinates in which an equation is solved: their scale, and what drives it.

    The solver's own time is $\tau = (t / T)^{1/m}$: with $m = 2$ the deviation of every process is
    smooth in it, Brownian motion's too. The equation is $du = \text{slope} \, d\rho(\tau)$, so that
    this is a control in the sense of Diffrax.

    With `straight` false they are time's: $u = x$, $\rho = t$ and $m = 1$.
    """

    path: ProbabilityPath
    straight: bool = eqx.field(static=True)
    parts: int = eqx.field(static=True)
    t0: ArrayLike = 0.0
    t1: ArrayLike = 1.0

    def time(self, tau: ArrayLike) -> Array:
        r"""The time $t = T \tau^m$."""
        tau = jnp.asarray(tau)
        return jnp.asarray(self.path.T, tau.dtype) * (tau * tau if self.straight else tau)

    def solver_time(self, t: ArrayLike) -> Array:
        r"""The solver's time $\tau$ of a time."""
        u = jnp.asarray(t) / jnp.asarray(self.path.T)
        return _root(u) if self.straight else u

    def rho(self, tau: ArrayLike) -> Array:
        r"""The control $\rho$: it rises from data, 0, to noise."""
        f, sigma, t = self._level(tau)
        return sigma / (f + sigma) if self.straight else t

    def scale(self, tau: ArrayLike) -> Array:
        r"""The factor $x / u = f + \sigma$."""
        f, sigma, t = self._level(tau)
        return f + sigma if self.straight else jnp.ones_like(t)

    def scaled(self, tau: Array, x: Array, power: int) -> Array:
        """Points times a power of the scale at a time, or at times along the first axis."""
        factor = self.scale(tau).astype(x.dtype) ** power
        return factor.reshape(factor.shape + (1,) * (x.ndim - factor.ndim)) * x

    def slope(
        self, tau: Array, u: Array, labels: Array | None, velocity: Callable[..., Array]
    ) -> Array:
        r"""The slope $du / d\rho$ that a velocity has at points `u`, in their type.

        Raises:
            ValueError: If the velocity has another shape than the points.
        """
        if self.straight:
            # Where the control stands still at T, velocities there do not show the data.
            still = (tau == 1) & (self.derivative(tau)[0] < 1e-4)
            tau = jnp.where(still, jnp.full_like(tau, 0.999), tau)
        x = self.scale(tau).astype(u.dtype) * u
        t = jnp.full(u.shape[:1], self.time(tau), u.dtype)
        v = velocity(t, x) if labels is None else velocity(t, x, labels)
        if jnp.shape(v) != x.shape:
            raise ValueError(f"velocity must return shape {x.shape}, got {jnp.shape(v)}.")
        if not self.straight:
            return jnp.asarray(v, u.dtype)
        c = self.path.coefficients(self.time(tau))
        gain = (c.f + c.sigma) / (c.f * c.sigma_dot - c.f_dot * c.sigma)
        drift = gain * (c.f_dot + c.sigma_dot)
        return gain.astype(u.dtype) * jnp.asarray(v, u.dtype) - drift.astype(u.dtype) * u

    def grid(self, t0: Scalar, t1: Scalar, steps: int, power: Scalar) -> Float[Array, " {steps}+1"]:
        r"""Solver times from `t0` to `t1` at which $\rho^{1/p}$ changes evenly, up to interpolation."""
        tau0, tau1 = self.solver_time(t0), self.solver_time(t1)
        rho0, rho1 = self.rho(tau0), self.rho(tau1)
        # From noise to data and back again have the same grid.
        low, high = jnp.minimum(rho0, rho1), jnp.maximum(rho0, rho1)
        levels = power_grid(high, low, steps, power)
        taus = self.at_rho(jnp.where(rho0 < rho1, levels[::-1], levels))
        return taus.at[0].set(tau0).at[-1].set(tau1)

    def at_rho(self, rho: Array) -> Array:
        r"""The solver time at which the control is about `rho`, to choose steps by."""
        root, levels = self._mesh(jnp.result_type(float))
        return jnp.square(jnp.interp(_root(rho), levels, root))

    def inverse(self, dtype: Any) -> Callable[[Array], Array]:
        r"""The solver time as a function of the control, exact to rounding."""
        root, levels = self._mesh(dtype)

        def tau(rho: Array) -> Array:
            tau = jax.lax.stop_gradient(jnp.square(jnp.interp(_root(rho), levels, root)))
            for _ in range(2):  # Newton's steps square the error of the interpolation.
                value, slope = jax.jvp(self.rho, (tau,), (jnp.ones_like(tau),))
                tau = tau - jnp.where(slope > 0, (value - rho) / jnp.where(slope > 0, slope, 1), 0)
            return jnp.clip(tau, 0, 1)

        return tau

    def _mesh(self, dtype: Any) -> tuple[Array, Array]:
        """Roots of solver times, for small times need a mesh of their own, and of the control."""
        root = jnp.linspace(0, 1, _CELLS + 1, dtype=dtype)
        return root, _root(jax.vmap(self.rho)(root * root)).astype(dtype)

    def evaluate(self, t0, t1=None, left=True):
        """Diffrax's form of the control, its change over a step, for every part of a state."""
        change = self.rho(t0) if t1 is None else self.rho(t1) - self.rho(t0)
        return (change,) * self.parts

    def derivative(self, t, left=True):
        """Diffrax's form of its derivative."""
        return (jax.jvp(self.rho, (t,), (jnp.ones_like(t),))[1],) * self.parts

    def _level(self, tau: ArrayLike) -> tuple[Array, Array, Array]:
        t = self.time(tau)
        c = self.path.coefficients(t)
        # At 0 exactly: the coefficients are those of the smallest time there.
        return c.f, jnp.where(t > 0, c.sigma, 0), t


def _root(x: Array) -> Array:
    """The square root, at 0 without its derivative, which is infinite."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1)), 0)


def make_coordinates(path: ProbabilityPath, name: str | None, parts: int = 1) -> Coordinates:
    """Coordinates by name; by default straight ones, but where components differ in process."""
    shape = jax.eval_shape(lambda: path.coefficients(path.T).sigma).shape
    if name == "straight" and shape:
        raise ValueError(
            "coordinates must be 'time' where components have processes of their own, got 'straight'."
        )
    return Coordinates(path, name != "time" and not shape, parts)
