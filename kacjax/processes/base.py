r"""One-dimensional noising processes, as monotone maps $Y_s = X(s, N)$ of one Gaussian.

The velocity of a sample is $\partial_s X(s, N)$ at fixed $N$, because quantiles move with the flow,
so that $\partial_s p + \partial_y (v p) = 0$; the distribution function is $\Phi(X^{-1}(s, y))$.
"""

import abc
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtr, ndtri
from jax.scipy.stats import norm

from kacjax._typing import Array, ArrayLike, Float, Key, Scalar, Shape
from kacjax._validation import (
    check_nonnegative,
    check_positive,
    is_concrete,
    refuse_gradient,
)

Values = Float[Array, "..."]
Pair = tuple[Values, Values]
Blur = tuple[ArrayLike, ArrayLike] | None

# |N| beyond this has probability below the smallest positive float64 normal.
_MAX_NORMAL = 38.0
# Outside its support a law's log-density falls by 1 over this part of the layer's width.
EDGE = 1e-3


def as_numbers(name: str, value: ArrayLike) -> ArrayLike:
    """A number or an array of real numbers, floats in float32 at least."""
    if isinstance(value, list | tuple) and all(isinstance(part, int | float) for part in value):
        value = jnp.asarray(value)
    dtype = getattr(value, "dtype", jnp.bool_ if isinstance(value, int | float) else None)
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if dtype is None or not any(jnp.issubdtype(dtype, kind) for kind in kinds):
        raise ValueError(f"{name} must be a number or an array of real numbers, got {value!r}.")
    if isinstance(value, int):  # Which would be a constant of compiled programs.
        return float(value)
    return jnp.asarray(value, jnp.float32) if dtype in (jnp.bfloat16, jnp.float16) else value


def align(
    *, shape: Shape | None = None, positive: bool = False, **values: ArrayLike
) -> tuple[Array, ...]:
    """Values as arrays of one floating dtype and one rank: that of `shape`, which they must fit.

    They are not broadcast. A concrete process time `s` must not be negative, or be `positive`.
    """
    values = {name: as_numbers(name, value) for name, value in values.items()}
    if "s" in values:
        (check_positive if positive else check_nonnegative)("s", values["s"])
    floats = [v for v in values.values() if jnp.issubdtype(jnp.result_type(v), jnp.floating)]
    dtype = jnp.result_type(*floats) if floats else jnp.result_type(float)
    shapes = {name: np.shape(value) for name, value in values.items()}
    try:
        together = jnp.broadcast_shapes(*shapes.values())
        fits = shape is None or jnp.broadcast_shapes(together, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        target = "each other" if shape is None else f"shape {tuple(shape)}"
        raise ValueError(f"arguments of shapes {shapes} do not broadcast against {target}.")
    rank = max(map(len, shapes.values())) if shape is None else len(shape)
    return tuple(
        jnp.asarray(value, dtype).reshape((1,) * (rank - len(own)) + own)
        for value, own in zip(values.values(), shapes.values(), strict=True)
    )


def check_draw(key: Key, shape: Shape) -> Shape:
    """The shape as a tuple; a `ValueError` unless these are one random key and a shape."""
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    raw = getattr(key, "dtype", None) == jnp.uint32
    if not (typed and key.ndim == 0) and not (raw and key.ndim == 1):
        raise ValueError(f"key must be one jax.random.key, got {key!r}.")
    if not isinstance(shape, tuple | list) or any(
        isinstance(size, bool | float | str) or size < 0 for size in shape
    ):
        raise ValueError(f"shape must be a tuple of sizes, got {shape!r}.")
    return tuple(shape)


@partial(jax.jit, static_argnums=(1, 2))
def normal(key: Key, shape: Shape, dtype: jnp.dtype) -> Values:
    """`jax.random.normal`, computed once though displacement and velocity both read it.

    On CPUs XLA would repeat a part of it for each, unless it stands in a branch.
    """
    draw = partial(jax.random.normal, shape=shape, dtype=dtype)

    def draw_once(key):
        word = jax.random.key_data(key)[0]
        other = lambda _: jnp.broadcast_to(word.astype(dtype), shape)  # noqa: E731
        return lax.cond((word | 1) > 0, draw, other, key)

    return lax.platform_dependent(key, cpu=draw_once, default=draw)


@jax.custom_jvp
def quotient(x: Array, y: Array) -> Array:
    """`x / y`, with derivatives that stay finite where `y**2` underflows or `x / y**2` overflows."""
    return x / y


@quotient.defjvp
def _quotient_jvp(primals, tangents):
    (x, y), (x_dot, y_dot) = primals, tangents
    ratio, inverse = quotient(x, y), 1 / y
    largest = 0.25 * jnp.finfo(inverse.dtype).max
    return ratio, inverse * x_dot - jnp.clip(ratio * inverse, -largest, largest) * y_dot


class Process(eqx.Module):
    """A noising process: a monotone map of a standard normal variable, for each component.

    A subclass defines `from_normal` and `variance`, with atoms also `atom_mass`, `atom_terms` and
    `conditional_law`, and overrides what it knows better formulas for; one whose law is not symmetric
    sets `symmetric` to false. Floats may be traced. `kacjax.processes.check` looks for mistakes.

    Example:
        >>> class Uniform(kacjax.Process):
        ...     def from_normal(self, s, n):
        ...         return -jnp.expm1(-s) * jax.lax.erf(n / jnp.sqrt(2.0))
        ...     def variance(self, s):
        ...         return jnp.expm1(-s) ** 2 / 3
        >>> process = Uniform()
        >>> [round(float(f(0.5, 0.1)), 3) for f in (process.velocity, process.density, process.cdf)]
        [0.154, 1.271, 0.627]
        >>> [round(float(f(0.5)), 3) for f in (process.variance, process.linear_velocity)]
        [0.052, 1.541]
        >>> round(float(process.to_normal(0.5, process.quantile(0.5, 0.9))), 3)
        1.282
        >>> process.sample(jax.random.key(0), 0.5, (3, 2)).shape, float(process.atom_mass(0.5))
        ((3, 2), 0.0)
    """

    @property
    def symmetric(self) -> bool:
        """Whether the map is odd in `n`, so that the law is symmetric; its mean is 0 in any case."""
        return True

    @abc.abstractmethod
    def from_normal(self, s: ArrayLike, n: ArrayLike) -> Values:
        """The map `y = X(s, n)` of standard normal variables, nondecreasing in `n`."""

    @abc.abstractmethod
    def variance(self, s: ArrayLike) -> Values:
        """Variance of the displacement at time `s`."""

    def sample_with_velocity(self, key: Key, s: ArrayLike, shape: Shape) -> Pair:
        r"""Draws `(displacement, velocity)`, the velocity being $\partial_s X(s, N)$ at each.

        Args:
            key: Random key. Processes given the same key are coupled through the same normals.
            s: Process time, `s >= 0`, broadcast against `shape`.
            shape: Shape of the result.

        Raises:
            ValueError: If the key or shape is none, or a concrete `s` is negative or does not fit.

        Example:
            >>> y, v = kacjax.WienerProcess().sample_with_velocity(jax.random.key(0), 0.5, (3,))
            >>> bool(jnp.allclose(v, y))
            True
        """
        check_draw(key, shape)
        (s,) = align(s=s, shape=shape)
        y, v = self.from_normal_with_velocity(s, normal(key, tuple(shape), s.dtype))
        if y.shape != tuple(shape):
            raise ValueError(
                f"shape must hold the process's parameters, which make it {y.shape}; got {shape}."
            )
        return y, v

    def from_normal_with_velocity(self, s: ArrayLike, n: ArrayLike) -> Pair:
        r"""The displacements $X(s, n)$ of normal variables, and their velocities $\partial_s X(s, n)$.

        On the atoms of the Kac process too, where `velocity` has to recognize them by `y`.

        Example:
            >>> kacjax.WienerProcess().from_normal_with_velocity(4.0, 1.0)
            (Array(2., dtype=float32), Array(0.25, dtype=float32))
        """
        s, n = align(s=s, n=n)
        return jax.jvp(lambda time: self.from_normal(time, n), (s,), (jnp.ones_like(s),))

    def sample(self, key: Key, s: ArrayLike, shape: Shape) -> Values:
        """Draws displacements at time `s`; see `sample_with_velocity`."""
        return self.sample_with_velocity(key, s, shape)[0]

    def to_normal(self, s: ArrayLike, y: ArrayLike) -> Values:
        """The inverse of `from_normal` in `n`, found by bisection unless a subclass knows it."""
        s, y = align(s=s, y=y)
        n = lax.stop_gradient(_bisect(self, s, y))
        # Newton steps from the bisection's end give its derivatives: one the first, two up to the third.
        for _ in range(2):
            value, slope = jax.jvp(lambda n: self.from_normal(s, n), (n,), (jnp.ones_like(n),))
            # Outside the support, and on an atom, the map is flat and the bisection's end stands.
            n = n + jnp.where(slope > 0, (y - value) / jnp.where(slope > 0, slope, 1), 0)
        return n

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Values:
        r"""The velocity field of the law, $v(s, y) = \partial_s X(s, n)$ where $X(s, n) = y$."""
        s, y = align(s=s, y=y)
        n = self.to_normal(s, y)
        s = jnp.broadcast_to(s, n.shape)
        return jax.jvp(lambda time: self.from_normal(time, n), (s,), (jnp.ones_like(s),))[1]

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Values:
        r"""Logarithm of the density of the continuous part, $\phi(n) / \partial_n X(s, n)$.

        It is $-\infty$ outside the support, and where the map is flat: on an atom.
        """
        s, y = align(s=s, y=y)
        n = self.to_normal(s, y)
        slope = jax.jvp(lambda n: self.from_normal(s, n), (n,), (jnp.ones_like(n),))[1]
        low, high = _edges(self, s, n)
        inside = (slope > 0) & (low < y) & (y < high)
        density = norm.logpdf(n) - jnp.log(jnp.where(inside, slope, 1))
        return jnp.where(inside | jnp.isnan(y), density, -jnp.inf)

    def density(self, s: ArrayLike, y: ArrayLike) -> Values:
        """Density of the continuous part of the law; see `log_density`."""
        return jnp.exp(self.log_density(s, y))

    def conditional_law(
        self, s: ArrayLike, y: ArrayLike, *, width: Scalar = 0.3, blur: Blur = None
    ) -> Pair:
        """The log-density and velocity that data are weighed with: no atoms, finite everywhere.

        Outside the support the log-density falls steeply and the velocity goes on linearly.

        Args:
            s: Process time, `s > 0`.
            y: Displacements.
            width: Relative width in (0, 1) of the layer that stands for an atom.
            blur: `(std, std_rate)`, the deviation of a Gaussian that is convolved with the law and
                its derivative in `s`; for Brownian motion only, else a `ValueError`.

        Example:
            >>> law = kacjax.KacProcess().conditional_law(0.1, jnp.array([0.2, 5.0]))
            >>> [bool(jnp.all(jnp.isfinite(part))) for part in law]
            [True, True]
        """
        refuse_blur(self, blur)
        s, y = align(s=s, y=y, positive=True)
        low, high = _edges(self, s, s)
        margin = 1 - 8 * jnp.finfo(y.dtype).eps
        nearest = jnp.clip(y, low * margin, high * margin)
        reach = jnp.abs(y) / jnp.maximum(jnp.where(y < 0, -low, high), 1e-25)
        log_density = self.log_density(s, nearest)
        log_density = jnp.where(jnp.isneginf(log_density), -1e3 - reach, log_density)
        beyond = jnp.where(y == nearest, 0, self.linear_velocity(s) * (y - nearest))
        excess = jnp.maximum(reach - 1, 0) * (1 / (EDGE * width))
        return log_density - excess, self.velocity(s, nearest) + beyond

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Values:
        """Distribution function, in the middle of its step at an atom."""
        n = self.to_normal(s, y)
        if not self.has_atoms:
            return ndtr(n)
        (s, y), half = align(s=s, y=y), self.atom_mass(s) / 2
        low, high = _edges(self, s, n)
        share = jnp.where((y <= low) & (half > 0), jnp.where(y < low, 0, half / 2), ndtr(n))
        return jnp.where((y >= high) & (half > 0), jnp.where(y > high, 1, 1 - half / 2), share)

    def quantile(self, s: ArrayLike, u: ArrayLike) -> Values:
        """The displacement whose distribution function is `u` in (0, 1), atoms included.

        It is accurate for the smallest `u`; the upper tail of a symmetric law is
        `quantile(s, 1 - u) = -quantile(s, u)`.
        """
        s, u = align(s=s, u=u)
        if is_concrete(u) and not np.all((np.asarray(u) >= 0) & (np.asarray(u) <= 1)):
            raise ValueError(f"u must lie in [0, 1], got {u}.")
        return _quantile(self, s, u)

    def atom_mass(self, s: ArrayLike) -> Values:
        """Total probability of the atoms, half of it at each end: zero unless there are some."""
        return jnp.zeros_like(align(s=s)[0])

    @property
    def has_atoms(self) -> bool:
        """Whether there are any: so it is where a subclass defines `atom_mass`."""
        return type(self).atom_mass is not Process.atom_mass

    def max_speed(self) -> ArrayLike:
        """A bound of the velocity's size at all times."""
        return jnp.inf

    def atom_terms(self, s: ArrayLike, y: ArrayLike) -> Pair:
        r"""What gradients of expectations need to know of the atoms, at displacements of samples.

        A sample that crosses the edge of an atom of probability $p$ changes its velocity by a jump, which
        derivatives at a fixed normal variable do not see. The gradient of $\mathbb E[\ell(Y, V)]$ lacks
        $\mathbb E[\partial \log p \, (\ell(Y, V) - \ell(Y, V - J))]$, which `flow_matching_loss` adds.

        Args:
            s: Process time.
            y: Displacements, as a sampler made them.

        Returns:
            The logarithm of the probability of the atom at `y`; and the jump $J$, the velocity on it
            less its limit beside it, zero where there is none.

        Example:
            >>> process = kacjax.KacProcess(a=2.0, c=3.0)
            >>> log_mass, jump = process.atom_terms(0.5, jnp.array([0.3, 1.5]))
            >>> jump, 2 * jnp.exp(log_mass[1]) == process.atom_mass(0.5)  # c and c as / (as + 2)
            (Array([0., 2.], dtype=float32), Array(True, dtype=bool))
        """
        s, y = align(s=s, y=y)
        zero = jnp.zeros_like(s + y)
        if not self.has_atoms:
            return zero, zero
        message = (
            "process must have kacjax.Process.atom_terms for a gradient in its parameters: the mass "
            f"of its atoms changes; got {type(self).__name__}."
        )
        return refuse_gradient(zero, (self, s), message), zero

    def linear_velocity(self, s: ArrayLike) -> Values:
        r"""The best linear predictor of the velocity, $\beta(s)$ in $v \approx \beta(s) y$.

        It is half the logarithmic derivative of the variance; a concrete `s` must be positive.
        """
        (s,) = align(s=s, positive=True)
        s = jnp.broadcast_to(s, self.variance(s).shape)
        # Where the variance underflows, s * beta is a constant, taken at a later time.
        later = lax.stop_gradient(_time_without_underflow(self, s))
        variance, change = jax.jvp(self.variance, (later,), (later,))
        limit = lax.stop_gradient(change / variance)
        safe = jnp.where(later > s, jnp.ones_like(s), s)
        variance, change = jax.jvp(self.variance, (safe,), (safe,))
        elasticity = jnp.where(later > s, limit, quotient(change, variance))
        return quotient(elasticity, 2 * s)


def refuse_blur(process: Process, blur: Blur) -> None:
    """Raises a `ValueError` if the law is to be blurred."""
    if blur is not None:
        raise ValueError(f"blur must be None but for Brownian motion, got {blur} for {process!r}.")


def _edges(process: Process, s: Array, like: Array) -> Pair:
    """The ends of the support, or of what floats can express of it, of the shape of `like`."""
    high, end = process.from_normal(s, jnp.full_like(like, _MAX_NORMAL)), -_MAX_NORMAL
    return -high if process.symmetric else process.from_normal(s, jnp.full_like(like, end)), high


@eqx.filter_jit
def _bisect(process: Process, s: Array, y: Array) -> Array:
    """The `n` with `X(s, n) = y`, to the precision of its type."""
    low = jnp.full_like(process.from_normal(s, jnp.zeros_like(s + y)), -_MAX_NORMAL)

    def halve(_, interval):
        low, high = interval
        middle = (low + high) / 2
        below = process.from_normal(s, middle) < y
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = lax.fori_loop(0, 6 + jnp.finfo(y.dtype).nmant, halve, (low, -low))
    return (low + high) / 2


@eqx.filter_jit
def _time_without_underflow(process: Process, s: Array) -> Array:
    """`s`, or where the variance or its slope underflows a larger time where they do not."""
    least = float(jnp.finfo(s.dtype).tiny / jnp.finfo(s.dtype).eps)
    grow = lambda _, s: jnp.where(process.variance(s) * s < least, 16 * s, s)  # noqa: E731
    return lax.fori_loop(0, 256 if s.dtype == jnp.float64 else 32, grow, s)


@eqx.filter_custom_jvp
def _quantile(process: Process, s: Array, u: Array) -> Array:
    return process.from_normal(s, ndtri(u))


@_quantile.def_jvp
def _quantile_jvp(primals, tangents):
    # In u by the density: the chain through the normal variable overflows.
    (process, s, u), (*others, u_dot) = primals, tangents
    n = ndtri(u)
    y = _quantile(process, s, u)
    _, y_dot = eqx.filter_jvp(lambda p, s: p.from_normal(s, n), (process, s), tuple(others))
    y_dot = jnp.zeros_like(y) if y_dot is None else y_dot
    if u_dot is not None:
        log_density = process.log_density(s, y)
        slope = jnp.where(jnp.isfinite(log_density), log_density, jnp.inf)
        y_dot = y_dot + jnp.exp(-slope) * u_dot
    return y, y_dot
