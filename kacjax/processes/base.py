r"""One-dimensional noising processes, as monotone maps of one Gaussian.

A process gives every time `s >= 0` a distribution of displacements `y`. Any such family without
a preferred direction is a monotone map of a standard normal variable, $Y_s = X(s, N)$, and
everything follows from the map:

- a **sample** is $X(s, N)$ with $N \sim \mathcal N(0, 1)$;
- its **velocity** is $\partial_s X(s, N)$ at fixed $N$, because quantiles move with the flow: the
  law then satisfies the continuity equation $\partial_s p + \partial_y (v p) = 0$;
- the **distribution function** is $F(s, y) = \Phi(X^{-1}(s, y))$, the density its derivative.

Processes act on each component of an array independently. A subclass has to define `transport`
and `variance`; where it knows better formulas it overrides the rest. One with atoms has to define
`atom_mass` and `spread_law` too.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jax.scipy.stats import norm

from kacjax._random import normal
from kacjax._typing import Array, ArrayLike, Float, Key, Scalar, Shape
from kacjax._validation import check_nonnegative, is_concrete

# |N| beyond this has probability below the smallest positive float64 normal.
_MAX_NORMAL = 38.0


def align(*values: ArrayLike, shape: Shape | None = None) -> tuple[Array, ...]:
    """Converts to floating arrays of one dtype and one rank, without broadcasting them.

    Args:
        values: Numbers or arrays that broadcast together, NumPy fashion.
        shape: If given, the rank and the broadcast target that the values must fit.

    Returns:
        The values as arrays, padded with leading axes of size one. The computation stays valid
        under `jax.numpy_rank_promotion("raise")`, and small arrays stay small.

    Raises:
        ValueError: If the values do not broadcast against each other, or against `shape`.
    """
    dtype = jnp.result_type(*values)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    shapes = [jnp.shape(value) for value in values]
    try:
        together = jnp.broadcast_shapes(*shapes)
        fits = shape is None or jnp.broadcast_shapes(together, shape) == tuple(shape)
    except ValueError:
        fits = False
    if not fits:
        target = "each other" if shape is None else f"shape {tuple(shape)}"
        raise ValueError(f"arguments of shapes {shapes} do not broadcast against {target}.")
    rank = max(map(len, shapes)) if shape is None else len(shape)
    return tuple(
        jnp.asarray(value, dtype).reshape((1,) * (rank - len(own)) + own)
        for value, own in zip(values, shapes, strict=True)
    )


def align_time(s: ArrayLike, *values: ArrayLike, shape: Shape | None = None) -> tuple[Array, ...]:
    """`align`, after a check that a concrete process time `s` is not negative."""
    check_nonnegative("s", s)
    return align(s, *values, shape=shape)


def check_level(u: ArrayLike) -> None:
    """Raises a `ValueError` unless every concrete level of a quantile lies in `[0, 1]`."""
    if is_concrete(u) and not np.all((np.asarray(u) >= 0) & (np.asarray(u) <= 1)):
        raise ValueError(f"u must lie in [0, 1], got {u}.")


class Process(eqx.Module):
    """A noising process of one component: a monotone map of a standard normal variable.

    Its floats, like those of signals and clocks, may be traced: `eqx.field(static=True)` keeps one
    that decides what is computed.
    """

    @abc.abstractmethod
    def transport(self, s: ArrayLike, n: ArrayLike) -> Float[Array, "..."]:
        """The map `y = X(s, n)`: odd and nondecreasing in `n`, a quantile where `n` is one.

        Args:
            s: Process time, `s >= 0`.
            n: Standard normal variables.

        Returns:
            Displacements, of the shape that the arguments broadcast to.
        """

    def sample_with_velocity(
        self, key: Key, s: ArrayLike, shape: Shape
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""Draws displacements together with the velocity $\partial_s X(s, N)$ at each.

        Args:
            key: Random key. Processes given the same key are coupled through the same normals.
            s: Process time, `s >= 0`, broadcast against `shape`.
            shape: Shape of the result.

        Returns:
            `(displacement, velocity)`, both of `shape`.

        Raises:
            ValueError: If a concrete `s` is negative or does not broadcast against `shape`.
        """
        s = self._time(s, shape)
        n = normal(key, shape, s.dtype)
        y, v = jax.jvp(lambda time: self.transport(time, n), (s,), (jnp.ones_like(s),))
        return _of_shape(y, shape), v

    def sample(self, key: Key, s: ArrayLike, shape: Shape) -> Float[Array, "..."]:
        """Draws displacements at time `s`; see `sample_with_velocity`."""
        s = self._time(s, shape)
        return _of_shape(self.transport(s, normal(key, shape, s.dtype)), shape)

    def normal_score(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        """The inverse of `transport` in `n`, found by bisection unless a subclass knows it."""
        s, y = align_time(s, y)
        low = jnp.full(jnp.broadcast_shapes(s.shape, y.shape), -_MAX_NORMAL, y.dtype)

        def halve(_, interval):
            low, high = interval
            middle = (low + high) / 2
            below = self.transport(s, middle) < y
            return jnp.where(below, middle, low), jnp.where(below, high, middle)

        steps = 6 + jnp.finfo(y.dtype).nmant
        low, high = jax.lax.fori_loop(0, steps, halve, (low, -low))
        # The bisection finds the point; one Newton step gives it the exact derivatives.
        n = jax.lax.stop_gradient((low + high) / 2)
        value, slope = jax.jvp(lambda n: self.transport(s, n), (n,), (jnp.ones_like(n),))
        # Outside the support, and on an atom, the map is flat and the bisection's end stands.
        return n + jnp.where(slope > 0, (y - value) / jnp.where(slope > 0, slope, 1), 0)

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""The velocity field of the law, $v(s, y) = \partial_s X(s, n)$ where $X(s, n) = y$."""
        s, y = align_time(s, y)
        n = self.normal_score(s, y)
        s = jnp.broadcast_to(s, n.shape)
        return jax.jvp(lambda time: self.transport(time, n), (s,), (jnp.ones_like(s),))[1]

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""Logarithm of the density of the continuous part, $\phi(n) / \partial_n X(s, n)$.

        It is $-\infty$ outside the support, and where the map is flat: on an atom.
        """
        s, y = align_time(s, y)
        n = self.normal_score(s, y)
        slope = jax.jvp(lambda n: self.transport(s, n), (n,), (jnp.ones_like(n),))[1]
        edge = jnp.abs(self.transport(s, jnp.full_like(n, _MAX_NORMAL)))
        inside = (slope > 0) & (jnp.abs(y) < edge)
        density = norm.logpdf(n) - jnp.log(jnp.where(inside, slope, 1))
        return jnp.where(inside | jnp.isnan(y), density, -jnp.inf)

    def density(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        """Density of the continuous part of the law; see `log_density`."""
        return jnp.exp(self.log_density(s, y))

    def spread_law(
        self, s: ArrayLike, y: ArrayLike, width: Scalar
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """Log-density and velocity of a law without atoms that stands for this one.

        Where a process has atoms they are spread over a layer of relative width `width`, with a
        velocity that satisfies the continuity equation; otherwise it is the law itself.
        """
        del width
        return self.log_density(s, y), self.velocity(s, y)

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        """Distribution function, in the middle of its step at an atom."""
        return ndtr(self.normal_score(s, y))

    def quantile(self, s: ArrayLike, u: ArrayLike) -> Float[Array, "..."]:
        """Quantile function: the displacement whose distribution function is `u` in (0, 1)."""
        check_level(u)
        s, u = align_time(s, u)
        return self.transport(s, jax.scipy.special.ndtri(u))

    def atom_mass(self, s: ArrayLike) -> Float[Array, "..."]:
        """Total probability of the atoms: zero unless the process has some."""
        return jnp.zeros_like(align_time(s)[0])

    @abc.abstractmethod
    def variance(self, s: ArrayLike) -> Float[Array, "..."]:
        """Variance of the displacement at time `s`."""

    def linear_velocity(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""The best linear predictor of the velocity, $\beta(s)$ in $v \approx \beta(s) y$.

        Since $\partial_s \mathbb E[Y^2] = 2 \mathbb E[v Y]$, it is half the logarithmic derivative of
        the variance: $1/(2s)$ for Brownian motion, where it is exact, and for the Kac process
        $1/s$ as long as the path has hardly turned.
        """
        (s,) = align_time(s)
        variance, slope = jax.jvp(self.variance, (s,), (jnp.ones_like(s),))
        return slope / (2 * variance)

    def _time(self, s: ArrayLike, shape: Shape) -> Float[Array, "..."]:
        """Validates a process time and gives it the rank of `shape`."""
        return align_time(s, shape=shape)[0]


def _of_shape(y: Array, shape: Shape) -> Array:
    """Checks that the process's own parameters fit the shape asked for."""
    if y.shape != tuple(shape):
        raise ValueError(
            f"shape must hold the process's parameters, which make it {y.shape}; got {shape}."
        )
    return y
