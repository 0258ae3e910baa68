r"""Schedules of a path, as functions of the relative time $u = t / T \in [0, 1]$.

A **signal** $f$ multiplies the data, $f(0) = 1$; a **clock** $g$ makes the process time
$T g(t / T)$, $g(0) = 0$ and $g(1) = 1$, or for `LinearBetaClock` almost. Any callable will do; those
here can be compared and saved.
"""

from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_count, check_positive, choose, is_concrete

Values: TypeAlias = Float[Array, "..."]
Schedule: TypeAlias = Callable[[Values], Values]
"""A function of the relative time, elementwise and differentiable."""


class LinearSignal(eqx.Module):
    r"""The signal $f = 1 - u$.

    Example:
        >>> float(kacjax.schedules.LinearSignal()(jnp.asarray(0.25)))
        0.75
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return 1 - u


class ExponentialSignal(eqx.Module):
    r"""The signal $f = e^{-r u}$, the paper's with the rate $r = T$; it does not vanish at the end.

    Example:
        >>> round(float(kacjax.schedules.ExponentialSignal(2.0)(jnp.asarray(0.5))), 3)
        0.368
    """

    rate: ArrayLike = 1.0

    def __check_init__(self) -> None:
        check_positive("rate", self.rate)

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return jnp.exp(-self.rate * u)


class CosineSignal(eqx.Module):
    r"""The signal $f = \cos(\pi u / 2)$, as a sine of $1 - u$ so that it is exactly 0 at the end.

    Example:
        >>> float(kacjax.schedules.CosineSignal()(jnp.asarray(1.0)))
        0.0
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return jnp.sin(jnp.pi / 2 * (1 - u))


class ConstantSignal(eqx.Module):
    r"""The signal $f = 1$: noise is added and the data never faded."""

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return jnp.ones_like(u)


class LinearClock(eqx.Module):
    r"""The clock $g = u$."""

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return u


class QuadraticClock(eqx.Module):
    r"""The clock $g = u^2$: noise enters slowly near the data.

    Example:
        >>> float(kacjax.schedules.QuadraticClock()(jnp.asarray(0.5)))
        0.25
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return u * u


class SineClock(eqx.Module):
    r"""The clock $g = \sin^2(\pi u / 2)$: with the cosine signal $f^2 + g = 1$.

    Example:
        >>> round(float(kacjax.schedules.SineClock()(jnp.asarray(0.5))), 3)
        0.5
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return jnp.square(jnp.sin(jnp.pi / 2 * u))


class _LinearBeta(eqx.Module):
    """A rate that goes linearly from one number to another, and its integral."""

    beta_min: ArrayLike = 0.1
    beta_max: ArrayLike = 20.0

    def __check_init__(self) -> None:
        check_positive("beta_min", self.beta_min)
        check_positive("beta_max", self.beta_max)

    def integral(self, u: Values) -> Values:
        r"""$B(u) = \beta_0 u + (\beta_1 - \beta_0) u^2 / 2$."""
        return u * (self.beta_min + (self.beta_max - self.beta_min) * u / 2)


class LinearBetaSignal(_LinearBeta):
    r"""The signal $f = e^{-B / 2}$ with $B(u) = \beta_0 u + (\beta_1 - \beta_0) u^2 / 2$.

    At the end it is $e^{-(\beta_0 + \beta_1) / 4}$, by default 0.0066, and not 0.

    Source: Y. Song et al., *Score-Based Generative Modeling through Stochastic Differential
    Equations*, arXiv 2011.13456.

    Example:
        >>> round(float(kacjax.schedules.LinearBetaSignal()(jnp.asarray(1.0))), 4)
        0.0066
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return jnp.exp(-self.integral(u) / 2)


class LinearBetaClock(_LinearBeta):
    r"""The clock $g = 1 - e^{-B}$: with the signal of the same numbers $f^2 + g = 1$.

    Example:
        >>> round(float(kacjax.schedules.LinearBetaClock()(jnp.asarray(1.0))), 5)
        0.99996
    """

    def __call__(self, u: Values) -> Values:  # noqa: D102
        return -jnp.expm1(-self.integral(u))


SIGNALS: dict[str, Callable[[ArrayLike], Schedule]] = {
    "linear": lambda T: LinearSignal(),
    "exponential": ExponentialSignal,
    "cosine": lambda T: CosineSignal(),
    "constant": lambda T: ConstantSignal(),
}
"""Signals by name, made for a final time `T`."""

CLOCKS: dict[str, Schedule] = {"t": LinearClock(), "t2": QuadraticClock()}
"""Clocks by name."""


def make_signal(signal: str | Schedule, T: ArrayLike) -> Schedule:
    """The signal of this name, see `SIGNALS`, or the callable itself."""
    return choose("signal", signal, SIGNALS)(T) if isinstance(signal, str) else signal


def make_clock(clock: str | Schedule) -> Schedule:
    """The clock of this name, see `CLOCKS`, or the callable itself."""
    return choose("clock", clock, CLOCKS) if isinstance(clock, str) else clock


def power_grid(
    start: ArrayLike, end: Scalar, steps: int, power: Scalar
) -> Float[Array, " {steps}+1"]:
    r"""Numbers that fall from `start` to `end`, of which the root $x^{1/p}$ falls evenly.

    To 0 they are $x_k = x_0 (1 - k / n)^p$. The ends are exact.
    """
    u = jnp.linspace(1, 0, steps + 1)
    ratio = jnp.asarray(end, u.dtype) / start
    # The root has no derivative at 0.
    low = jnp.where(ratio > 0, jnp.power(jnp.where(ratio > 0, ratio, 1), 1 / power), 0)
    levels = jnp.asarray(start * jnp.power(low + (1 - low) * u, power))
    return levels.at[0].set(start).at[-1].set(end)


def karras_times(
    steps: int, sigma_min: Scalar = 0.002, sigma_max: Scalar = 80.0, rho: Scalar = 7.0
) -> Float[Array, " {steps}+1"]:
    r"""EDM's steps: deviations whose roots $\sigma^{1 / \rho}$ fall evenly to `sigma_min`, then 0.

    On `edm_path(sigma_max)`, whose time is the noise's deviation, they are times for `generate`:
    with `solver="heun", coordinates="time"` EDM's sampler, but for the very last step, which is
    EDM's Euler step there and here the midpoint rule. A number out of its range is a `ValueError`.

    Source: T. Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*,
    arXiv 2206.00364, equation 5.

    Example:
        >>> kacjax.schedules.karras_times(3).round(3)
        Array([8.000e+01, 2.515e+00, 2.000e-03, 0.000e+00], dtype=float32)
    """
    check_count("steps", steps, 2)
    for name, value in (("sigma_min", sigma_min), ("sigma_max", sigma_max), ("rho", rho)):
        check_positive(name, value)
    if is_concrete(sigma_min) and is_concrete(sigma_max) and not sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be less than sigma_max={sigma_max}, got {sigma_min}.")
    levels = power_grid(sigma_max, sigma_min, steps - 1, rho)
    return jnp.concatenate([levels, jnp.zeros(1, levels.dtype)])
