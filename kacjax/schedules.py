r"""Schedules: how much of the data is left, which noise time it is, where a solver stops.

- A **signal** $f(t)$ multiplies the data; $f(0) = 1$.
- A **clock** $g(t)$ turns model time into process time; $g(0) = 0$ and $g(T) = T$.
- A **time grid** lists the solver's times from the noise (`T`) to the data (0).

Schedules define values only. Their derivatives $f'$ and $g'$ come from automatic differentiation,
through `value_and_derivative`.
"""

import abc
from collections.abc import Callable
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_count, check_positive, choose, is_concrete


class Signal(eqx.Module):
    """A signal schedule `f` on `[0, T]` with `f(0) = 1`.

    Attributes:
        vanishes: Whether `f(T) = 0`, so that the prior does not depend on the data.
    """

    T: ArrayLike
    vanishes: ClassVar[bool]

    def __check_init__(self):
        check_positive("T", self.T)

    @abc.abstractmethod
    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `f(t)`."""


class LinearSignal(Signal):
    r"""$f(t) = 1 - t / T$."""

    vanishes = True

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `f(t)`."""
        return 1 - t / self.T


class ExponentialSignal(Signal):
    r"""$f(t) = e^{-t}$: the paper's choice; $f(T) = e^{-T}$ does not vanish."""

    vanishes = False

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `f(t)`."""
        return jnp.exp(-t)


class CosineSignal(Signal):
    r"""$f(t) = \cos(\pi t / 2T)$, written as a sine of $1 - t/T$ so that $f(T)$ is exactly 0."""

    vanishes = True

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `f(t)`."""
        return jnp.sin(jnp.pi / 2 * (1 - t / self.T))


class ConstantSignal(Signal):
    r"""$f(t) = 1$: noise is added and the data never faded."""

    vanishes = False

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `f(t)`."""
        return jnp.ones_like(t)


class Clock(eqx.Module):
    """A noise clock `g` on `[0, T]` with `g(0) = 0` and `g(T) = T`."""

    T: ArrayLike

    def __check_init__(self):
        check_positive("T", self.T)

    @abc.abstractmethod
    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `g(t)`."""


class LinearClock(Clock):
    r"""$g(t) = t$."""

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `g(t)`."""
        return t


class QuadraticClock(Clock):
    r"""$g(t) = t^2 / T$: noise enters slowly near the data."""

    def __call__(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        """The value `g(t)`."""
        return t * (t / self.T)


SIGNALS: dict[str, type[Signal]] = {
    "linear": LinearSignal,
    "exponential": ExponentialSignal,
    "cosine": CosineSignal,
    "constant": ConstantSignal,
}
CLOCKS: dict[str, type[Clock]] = {"t": LinearClock, "t2": QuadraticClock}


def make_signal(signal: str | Signal, T: ArrayLike) -> Signal:
    """The signal of this name (`linear`, `exponential`, `cosine`, `constant`), or itself."""
    return signal if isinstance(signal, Signal) else choose("signal", signal, SIGNALS)(T)


def make_clock(clock: str | Clock, T: ArrayLike) -> Clock:
    """The clock of this name (`t`, `t2`), or itself."""
    return clock if isinstance(clock, Clock) else choose("clock", clock, CLOCKS)(T)


def value_and_derivative(
    schedule: Callable[[Float[Array, "..."]], Float[Array, "..."]], t: Float[Array, "..."]
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """A schedule's value and its derivative in `t`, elementwise, by automatic differentiation."""
    return jax.jvp(schedule, (t,), (jnp.ones_like(t),))


GRIDS = {"uniform": 1.0, "power": 2.0}


def time_grid(
    name: str,
    T: ArrayLike,
    steps: int,
    power: Scalar | None = None,
    t_min: Scalar = 0.0,
) -> Float[Array, " steps_plus_one"]:
    r"""The times at which a fixed-step solver stops, falling from `T` to `t_min`.

    $t_k^{1/p}$ is linear in $k$; from `T` to 0, $t_k = T (1 - k / \text{steps})^p$. With $p = 1$ for
    `uniform`; $p = 2$ for `power` crowds the points near the data.

    Args:
        name: `uniform` or `power`.
        T: Final time of the path.
        steps: Number of steps, at least 1.
        power: The exponent $p$, if another than the name's is wanted; positive.
        t_min: The last time, in `[0, T)`.

    Returns:
        `steps + 1` times; the first is exactly `T` and the last exactly `t_min`.

    Raises:
        ValueError: If the name is unknown, `steps` is below 1, `T` or `power` not positive, or
            `t_min` outside `[0, T)`.
    """
    return power_grid(T, steps, check_grid(name, T, steps, power, t_min), t_min)


def check_grid(
    name: str, T: ArrayLike, steps: int, power: Scalar | None, t_min: Scalar = 0.0
) -> Scalar:
    """The exponent of a grid of these arguments, after their checks; see `time_grid`."""
    check_count("steps", steps)
    check_positive("T", T)
    if is_concrete(t_min) and is_concrete(T) and not 0 <= t_min < T:
        raise ValueError(f"t_min must lie in [0, T) with T = {T}, got {t_min}.")
    exponent = choose("grid", name, GRIDS) if power is None else power
    check_positive("power", exponent)
    return exponent


def power_grid(
    T: ArrayLike, steps: int, power: Scalar, t_min: Scalar = 0.0
) -> Float[Array, " steps_plus_one"]:
    """The grid of `time_grid` with this exponent, unchecked."""
    # From NumPy: XLA may divide by a constant inexactly, and the ends are promised to be exact.
    u = jnp.asarray(np.linspace(1, 0, steps + 1), jnp.result_type(float))
    if is_concrete(t_min) and t_min == 0:
        return jnp.asarray(T * jnp.power(u, power))
    low = jnp.power(t_min / T, 1 / jnp.asarray(power, u.dtype))
    times = jnp.asarray(T * jnp.power(low + (1 - low) * u, power))
    return times.at[0].set(T).at[-1].set(t_min)
