r"""Probability paths from data to noise: one type, of which the models are settings.

A path fades the data and adds the noise of a process $K$, component by component:

$$ x_t = f(t) \, x_0 + K_{g(t)}, \qquad 0 \le t \le T. $$

The conditional velocity, which the network learns to average, follows from the process's own
velocity $v$ and the schedules' derivatives:

$$ u(t, x \mid x_0) = f'(t) \, x_0 + g'(t) \, v\bigl(g(t), x - f(t) x_0\bigr). $$

| model | process | signal | clock |
| --- | --- | --- | --- |
| Kac flow | Kac, `a`, `c` | any | any |
| diffusion (probability flow) | Wiener, `sigma` | any | any |
| linear flow matching | Wiener, `sigma = 1` | $1 - t$ | $t^2$ |
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key, Shape
from kacjax._validation import check_nonnegative, check_positive, is_concrete
from kacjax.processes import KacProcess, Process, WienerProcess
from kacjax.schedules import Clock, Signal, make_clock, make_signal, value_and_derivative

if TYPE_CHECKING:
    from kacjax.exact import ExactVelocity

# Times are raised to this fraction of T, where displacements are far below any resolution:
# Brownian velocities are infinite at 0, and 0 * inf must not reach a loss.
_EARLIEST = 1e-12
# Of T, to allow for rounding.
_LATEST = 1 + 1e-5


class PathSample(NamedTuple):
    """Points on a path with their conditional velocity.

    Attributes:
        t: Times, of shape `(batch,)`.
        x0: Data, of shape `(batch, *event)`.
        x_t: Noised data, of the same shape.
        velocity: Conditional velocity at `x_t` given `x0`, of the same shape.
    """

    t: Float[Array, " batch"]
    x0: Float[Array, "batch *event"]
    x_t: Float[Array, "batch *event"]
    velocity: Float[Array, "batch *event"]


class ProbabilityPath(eqx.Module):
    """A path from data (`t = 0`) to noise (`t = T`): a process, a signal and a clock.

    Attributes:
        process: The noise, applied to every component.
        signal: Signal schedule `f`.
        clock: Noise clock `g`.
        T: Final time.
    """

    process: Process
    signal: Signal
    clock: Clock
    T: ArrayLike

    def __check_init__(self):
        check_positive("T", self.T)
        for name, part in (("signal", self.signal), ("clock", self.clock)):
            if is_concrete(part.T) and is_concrete(self.T) and not _same(part.T, self.T):
                raise ValueError(
                    f"{name} must have the T of its path, {self.T}; got {type(part).__name__} "
                    f"with T = {part.T}."
                )

    def sample(
        self, key: Key, t: Float[Array, "..."], x0: Float[Array, "batch *event"]
    ) -> PathSample:
        """Draws a point of the path for each datum, with its conditional velocity.

        The velocity comes from the sampler, which knows what the noise was: it is exact on the
        atoms of the Kac process, where `conditional_velocity` has to recognise them by `x`.

        Args:
            key: Random key.
            t: Times in `[0, T]`, one per datum.
            x0: Data.

        Raises:
            ValueError: If `t` is not of shape `(batch,)`.
        """
        _check_times(t, x0.shape, self.T)
        f, f_prime, g, g_prime = self._schedules(t, x0.ndim)
        noise, velocity = self.process.sample_with_velocity(key, g, x0.shape)
        return PathSample(t, x0, f * x0 + noise, f_prime * x0 + g_prime * velocity)

    def conditional_velocity(
        self,
        t: Float[Array, "..."],
        x: Float[Array, "batch *event"],
        x0: Float[Array, "batch *event"],
    ) -> Float[Array, "batch *event"]:
        """The velocity at `x` of the path that started in `x0`.

        Raises:
            ValueError: If `t` is not of shape `(batch,)`.
        """
        _check_times(t, x0.shape, self.T)
        f, f_prime, g, g_prime = self._schedules(t, x0.ndim)
        return f_prime * x0 + g_prime * self.process.velocity(g, x - f * x0)

    def sample_prior(
        self, key: Key, shape: Shape, x0: Float[Array, "batch *event"] | None = None
    ) -> Float[Array, "batch *event"]:
        """Draws points at the noise end of the path.

        Args:
            key: Random key.
            shape: Shape `(batch, *event)` of the result.
            x0: Data of that shape; needed only where the signal does not vanish at `T`.

        Raises:
            ValueError: If `x0` is missing though the signal does not vanish, or has another shape.
        """
        T = jnp.asarray(self.T, jnp.result_type(float))
        noise = self.process.sample(key, self.clock(T), shape)
        if self.signal.vanishes:
            return noise
        if x0 is None:
            raise ValueError(
                f"{type(self.signal).__name__} does not vanish at T, so the prior depends on the "
                "data: pass x0, or use the signal 'linear' or 'cosine' to generate from noise alone."
            )
        if x0.shape != tuple(shape):
            raise ValueError(f"x0 must have the shape {tuple(shape)}, got {x0.shape}.")
        return self.signal(T) * x0 + noise

    def velocity_from_data(
        self,
        t: Float[Array, "..."],
        x: Float[Array, "batch *event"],
        x0: Float[Array, "batch *event"],
    ) -> Float[Array, "batch *event"]:
        r"""The velocity that a prediction `x0` of the data stands for.

        $$ f' x_0 + g' \beta(g) (x - f x_0), \qquad
           \beta(s) = \tfrac12 \partial_s \log \operatorname{Var}(s), $$

        with the noise's velocity replaced by its best linear predictor. For every path it is an
        affine change of variables, so that a network that outputs the data in place of the
        velocity can represent the same fields; for Brownian motion the best prediction is exactly
        $\mathbb E[x_0 \mid x_t]$. Sharp modes are constant functions of `x` in it.
        """
        _check_times(t, x0.shape, self.T)
        f, f_prime, g, g_prime = self._schedules(t, x0.ndim)
        return f_prime * x0 + g_prime * self.process.linear_velocity(g) * (x - f * x0)

    def data_gain(self, t: Float[Array, " batch"]) -> Float[Array, " batch"]:
        r"""How far the velocity moves with the predicted data, $f' - g' \beta(g) f$; negative."""
        f, f_prime, g, g_prime = self._schedules(t, 1)
        return f_prime - g_prime * self.process.linear_velocity(g) * f

    def exact_velocity(self, data: Float[Array, "num *event"], **options: Any) -> "ExactVelocity":
        """The marginal velocity of this path for finite data; see `kacjax.exact_velocity`."""
        from kacjax.exact import exact_velocity  # It imports this module.

        return exact_velocity(self, data, **options)

    def _schedules(self, t: Array, ndim: int) -> tuple[Array, Array, Array, Array]:
        """`f`, `f'`, `g`, `g'` at `t`, shaped to broadcast against `(batch, *event)`."""
        t = jnp.maximum(t, _EARLIEST * jnp.asarray(self.T, t.dtype))
        t = t.reshape(t.shape + (1,) * (ndim - 1))
        return *value_and_derivative(self.signal, t), *value_and_derivative(self.clock, t)


def kac_path(
    a: ArrayLike = 9.0,
    c: ArrayLike = 3.0,
    T: ArrayLike = 1.0,
    signal: str | Signal = "linear",
    clock: str | Clock = "t",
) -> ProbabilityPath:
    """The Kac flow: jump rate `a`, speed `c`.

    Raises:
        ValueError: If `a`, `c` or `T` is not positive and finite, or a name is unknown.
    """
    return _path(KacProcess(a=a, c=c), T, signal, clock)


def diffusion_path(
    sigma: ArrayLike = 1.0,
    T: ArrayLike = 1.0,
    signal: str | Signal = "linear",
    clock: str | Clock = "t",
) -> ProbabilityPath:
    """The probability flow of a diffusion: Brownian motion of volatility `sigma`.

    Raises:
        ValueError: If `sigma` or `T` is not positive and finite, or a name is unknown.
    """
    return _path(WienerProcess(sigma=sigma), T, signal, clock)


def flow_matching_path() -> ProbabilityPath:
    r"""Linear flow matching, $x_t = (1 - t) x_0 + t \varepsilon$, with target $\varepsilon - x_0$.

    It is Brownian motion seen through the clock $t^2$.
    """
    return _path(WienerProcess(sigma=1.0), 1.0, "linear", "t2")


def _path(
    process: Process, T: ArrayLike, signal: str | Signal, clock: str | Clock
) -> ProbabilityPath:
    check_positive("T", T)
    return ProbabilityPath(process, make_signal(signal, T), make_clock(clock, T), T)


def _same(a: ArrayLike, b: ArrayLike) -> bool:
    """Whether two numbers are equal, but for the precision in which they are held."""
    return bool(np.all(np.asarray(a, np.float32) == np.asarray(b, np.float32)))


def _check_times(t: ArrayLike, shape: Shape, T: ArrayLike) -> None:
    if not shape or jnp.shape(t) != shape[:1]:
        raise ValueError(
            f"t must hold one time per datum, shape {shape[:1]} for data of shape {shape}; "
            f"got {jnp.shape(t)}."
        )
    check_nonnegative("t", t)
    if is_concrete(t) and is_concrete(T) and np.any(np.asarray(t) > _LATEST * np.asarray(T)):
        raise ValueError(f"t must not exceed T = {T}, got {np.max(np.asarray(t))}.")
