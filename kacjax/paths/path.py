"""The type of all paths."""

from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key, Shape
from kacjax._validation import check_nonnegative, check_positive, is_concrete, widen
from kacjax.processes import Process
from kacjax.processes.base import as_numbers
from kacjax.schedules import Schedule, make_clock, make_signal

Points: TypeAlias = Float[Array, "batch *event"]
Times: TypeAlias = Float[Array, " batch"]

# In parts of T: Brownian velocities are infinite at 0, and rounding may take times past T.
_EARLIEST, _LATEST = 1e-12, 1 + 1e-5


def _value(schedule: Schedule, u: float) -> np.ndarray | None:
    """The value of a schedule, also within `jit`; None where its numbers are traced."""
    with jax.ensure_compile_time_eval():
        value = schedule(jnp.asarray(u, jnp.result_type(float)))
    return np.asarray(value) if is_concrete(value) else None


class PathSample(NamedTuple):
    """Points `x_t` on a path, from the data `x0`, with their conditional velocities."""

    t: Times
    x0: Points
    x_t: Points
    velocity: Points


class Atoms(NamedTuple):
    """Log-probabilities of the atoms that points are at, and the jumps of their velocities there."""

    log_mass: Points
    jump: Points


class Coefficients(NamedTuple):
    r"""The data's factor, process time and noise's deviation at a time; derivatives in `t`."""

    f: Array
    f_dot: Array
    g: Array
    g_dot: Array
    sigma: Array
    sigma_dot: Array


class ProbabilityPath(eqx.Module):
    """A path from data (`t = 0`) to noise (`t = T`): a process, a signal and a clock.

    Attributes:
        process: The noise, applied to every component.
        signal: `linear`, `exponential`, `cosine`, `constant` or a callable of `t / T`: data's factor.
        clock: `t`, `t2` or a callable of `t / T`: process time over `T`.
        T: Final time, positive.
        approximate_prior: Whether generation starts from noise alone though the signal does not
            vanish at `T`: right where `f(T)` times the data is small beside the noise there.

    Raises:
        ValueError: If `T` is not positive, a name is unknown, a part cannot be called, or the signal
            is not 1 at 0 or the clock not 0.

    Example:
        >>> path = kacjax.ProbabilityPath(kacjax.KacProcess(), signal=lambda u: 1 - u**2)
        >>> path.sample(jax.random.key(0), jnp.array([0.5]), jnp.ones((1, 2))).x_t.shape
        (1, 2)
    """

    process: Process
    signal: Schedule
    clock: Schedule
    T: ArrayLike
    approximate_prior: bool = eqx.field(static=True, default=False)

    def __init__(
        self,
        process: Process,
        signal: str | Schedule = "linear",
        clock: str | Schedule = "t",
        T: ArrayLike = 1.0,
        approximate_prior: bool = False,
    ):
        check_positive("T", T)
        if not isinstance(approximate_prior, bool):
            raise ValueError(f"approximate_prior must be a bool, got {approximate_prior!r}.")
        self.approximate_prior = approximate_prior
        self.process, self.T = process, as_numbers("T", T)
        self.signal, self.clock = make_signal(signal, self.T), make_clock(clock)
        for name, part in (("signal", self.signal), ("clock", self.clock)):
            if not callable(part):
                raise ValueError(f"{name} must be a name or a callable of t / T, got {part!r}.")
            start, first = float(name == "signal"), _value(part, 0.0)
            if first is not None and not np.allclose(first, start, rtol=0, atol=1e-3):
                raise ValueError(f"{name} must be {start:g} at 0, got {part!r} with {first} there.")
        if not callable(getattr(process, "sample_with_velocity", None)):
            raise ValueError(f"process must be a kacjax.Process, got {process!r}.")

    @property
    def prior_is_noise(self) -> bool:
        """Whether the prior is noise alone: the signal vanishes at `T`, or almost, as is declared.

        Within `jit` it is false for a signal whose own numbers are traced.
        """
        last = None if self.approximate_prior else _value(self.signal, 1.0)
        return self.approximate_prior or (last is not None and bool(np.all(last == 0)))

    def coefficients(self, t: ArrayLike, ndim: int | None = None) -> Coefficients:
        r"""The coefficients $f, f', g, g', \sigma, \sigma'$ at times.

        Args:
            t: Times, of any shape; those below `1e-12 T` count as that.
            ndim: Rank of the points: times `(batch,)` then give coefficients `(batch, 1, ..., 1)`.
                By default they have the shape of `t`, broadcast against the process's parameters.

        Example:
            >>> c = kacjax.flow_matching_path().coefficients(0.25)
            >>> float(c.f), float(c.sigma)
            (0.75, 0.25)
        """
        t = widen(jnp.asarray(t))
        T = jnp.asarray(self.T, t.dtype)
        u = jnp.maximum(t / T, _EARLIEST)
        if ndim is not None:
            u = u.reshape(u.shape + (1,) * (ndim - u.ndim))
        one = jnp.ones_like(u)
        f, f_dot = jax.jvp(self.signal, (u,), (one,))
        g, g_dot = jax.jvp(self.clock, (u,), (one,))
        f_dot, g = f_dot / T, T * g
        sigma = jnp.sqrt(self.process.variance(g))
        sigma_dot = sigma * (g_dot * self.process.linear_velocity(g))
        return Coefficients(f, f_dot, g, g_dot, sigma, sigma_dot)

    def sample(self, key: Key, t: Times, x0: Points) -> PathSample:
        """Draws a point of the path for each datum, with its conditional velocity.

        The velocity comes from the sampler, which knows what the noise was: it is exact on the
        atoms of the Kac process, where `conditional_velocity` has to recognize them by `x`.

        Args:
            key: Random key.
            t: Times in `[0, T]`, one per datum.
            x0: Data.

        Raises:
            ValueError: If shapes do not fit, `t` lies outside `[0, T]`, or `x0` holds no floats.

        Example:
            >>> path = kacjax.kac_path()
            >>> point = path.sample(jax.random.key(0), jnp.array([0.2, 0.9]), jnp.zeros((2, 3)))
            >>> point.x_t.shape, bool(jnp.all(jnp.abs(point.velocity) <= 3))
            ((2, 3), True)
        """
        return self._sample(key, t, x0)[0]

    def sample_with_atoms(self, key: Key, t: Times, x0: Points) -> tuple[PathSample, Atoms]:
        """What `sample` draws, and what gradients of expectations need; see `Process.atom_terms`.

        Example:
            >>> path, t, x0 = kacjax.kac_path(), jnp.array([0.2, 0.9]), jnp.zeros((2, 3))
            >>> point, atoms = path.sample_with_atoms(jax.random.key(0), t, x0)
            >>> atoms.jump.shape
            (2, 3)
        """
        point, c, noise = self._sample(key, t, x0)
        log_mass, jump = self.process.atom_terms(c.g, noise)
        return point, Atoms(jnp.broadcast_to(log_mass, noise.shape), c.g_dot * jump)

    def _sample(self, key: Key, t: Times, x0: Points) -> tuple[PathSample, Coefficients, Array]:
        """A sample, with the coefficients and the noise that it was made of."""
        t, x0 = self._check(t, x0=x0)
        c = self.coefficients(t, x0.ndim)
        noise, velocity = self.process.sample_with_velocity(key, c.g, x0.shape)
        point = PathSample(t, x0, c.f * x0 + noise, c.f_dot * x0 + c.g_dot * velocity)
        return point, c, noise

    def sample_from_normal(self, t: Times, x0: Points, n: Points) -> PathSample:
        """The points of the path whose noise is made of given standard normal variables.

        Args:
            t: Times in `[0, T]`, one per datum.
            x0: Data.
            n: Standard normal variables, of the shape of `x0`.

        Example:
            >>> n = jax.random.normal(jax.random.key(0), (2, 3))
            >>> kacjax.kac_path().sample_from_normal(jnp.array([0.2, 0.9]), 0 * n, n).x_t.shape
            (2, 3)
        """
        t, x0, n = self._check(t, x0=x0, n=n)
        c = self.coefficients(t, x0.ndim)
        noise, velocity = self.process.from_normal_with_velocity(c.g, n)
        return PathSample(t, x0, c.f * x0 + noise, c.f_dot * x0 + c.g_dot * velocity)

    def conditional_velocity(self, t: Times, x: Points, x0: Points) -> Points:
        """The velocity at `x` of the path that started in `x0`.

        Args:
            t: Times in `[0, T]`, one per datum.
            x: Points.
            x0: Data, of the shape of `x`.

        Example:
            >>> path = kacjax.flow_matching_path()
            >>> path.conditional_velocity(jnp.array([0.5]), jnp.ones((1, 1)), jnp.zeros((1, 1)))
            Array([[2.]], dtype=float32)
        """
        t, x, x0 = self._check(t, x=x, x0=x0)
        c = self.coefficients(t, x0.ndim)
        return c.f_dot * x0 + c.g_dot * self.process.velocity(c.g, x - c.f * x0)

    def sample_prior(self, key: Key, shape: Shape, x0: Points | None = None) -> Points:
        """Draws points at the noise end of the path.

        Args:
            key: Random key.
            shape: Shape `(batch, *event)` of the result.
            x0: Data of that shape; needed only where the prior is not noise alone.

        Raises:
            ValueError: If `x0` is missing where it is needed, or has another shape.

        Example:
            >>> kacjax.kac_path().sample_prior(jax.random.key(0), (4, 2)).shape
            (4, 2)
        """
        if x0 is not None and np.shape(x0) != tuple(shape):
            raise ValueError(f"x0 must have the shape {tuple(shape)}, got {np.shape(x0)}.")
        c = self.coefficients(self.T)
        noise = self.process.sample(key, c.g, shape)
        if self.prior_is_noise:
            return noise
        if x0 is None:
            raise ValueError(
                f"the signal {self.signal!r} does not vanish at T, or its numbers are traced, so that "
                "the prior depends on the data: pass x0; or to generate from noise alone use the "
                "signal 'linear' or 'cosine', or approximate_prior=True where it is small or 0 at T."
            )
        return c.f * widen(jnp.asarray(x0)) + noise

    def velocity_from_x0(self, t: Times, x: Points, x0: Points) -> Points:
        r"""The velocity that a prediction `x0` of the data stands for.

        $$ f' x_0 + g' \beta(g) (x - f x_0), \qquad
           \beta(s) = \tfrac12 \partial_s \log \operatorname{Var}(s), $$

        with the noise's velocity replaced by its best linear predictor: an affine change of
        variables. For Brownian motion the best prediction is exactly $\mathbb E[x_0 \mid x_t]$.

        Args:
            t: Times in `[0, T]`, one per datum.
            x: Points.
            x0: Predicted data, of the shape of `x`.

        Example:
            >>> path = kacjax.flow_matching_path()
            >>> path.velocity_from_x0(jnp.array([0.5]), jnp.ones((1, 1)), jnp.zeros((1, 1)))
            Array([[2.]], dtype=float32)
        """
        t, x, x0 = self._check(t, x=x, x0=x0)
        c = self.coefficients(t, x0.ndim)
        rate = c.g_dot * self.process.linear_velocity(c.g)
        return c.f_dot * x0 + rate * (x - c.f * x0)

    def x0_gain(self, t: Float[Array, "..."]) -> Float[Array, "..."]:
        r"""How far the velocity moves with the predicted data, $f' - g' \beta(g) f$; negative.

        Example:
            >>> float(kacjax.flow_matching_path().x0_gain(jnp.asarray(0.5)))
            -2.0
        """
        c = self.coefficients(t)
        return c.f_dot - c.g_dot * self.process.linear_velocity(c.g) * c.f

    def _check(self, t: ArrayLike, **points: ArrayLike) -> list[Array]:
        """The times and points as arrays of floats, after checks of what can be looked at."""
        arrays = {name: jnp.asarray(value) for name, value in points.items()}
        for name, array in arrays.items():
            if not jnp.issubdtype(array.dtype, jnp.floating):
                raise ValueError(f"{name} must hold floats, got {array.dtype}.")
        shape, *others = shapes = [array.shape for array in arrays.values()]
        if not shape or any(other != shape for other in others):
            names, found = " and ".join(arrays), ", ".join(map(str, shapes))
            raise ValueError(f"{names} must have one shape (batch, *event), got {found}.")
        if np.shape(t) != shape[:1]:
            raise ValueError(f"t must hold one time per datum, {shape[:1]}; got {np.shape(t)}.")
        check_nonnegative("t", t)
        if is_concrete(t) and is_concrete(self.T):
            latest = np.max(np.asarray(t, np.float64), initial=0)
            if latest > _LATEST * np.max(np.asarray(self.T)):
                raise ValueError(f"t must not exceed T = {self.T}, got {latest}.")
        return [widen(part) for part in (jnp.asarray(t), *arrays.values())]
