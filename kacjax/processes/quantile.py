r"""Learned noise: a process whose quantile function is a spline with parameters.

The map of a standard normal variable is a monotone rational-quadratic spline $Q$ with linear tails,

$$ Y_s = s^p \, Q(N), \qquad Q = y_k + \frac{h_k (\delta_k \theta^2 + d_k \theta (1 - \theta))}
   {\delta_k + (d_k + d_{k+1} - 2 \delta_k) \, \theta (1 - \theta)} $$

on the interval $k$, of width $w$ and height $h_k$, with $\delta_k = h_k / w$, $\theta$ the part of the
interval and $d_k$ the slopes at its ends. Its velocity is $v = p \, y / s$.

Sources: J. Gregory, R. Delbourgo, *Piecewise rational quadratic interpolation to monotonic data* (1982);
C. Durkan et al., *Neural Spline Flows*, arXiv 1906.04032; J. Chemseddine, G. Kornhardt, R. Duong,
G. Steidl, *Adapting Noise to Data: Generative Flows from 1D Processes*, arXiv 2510.12636.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.stats import norm
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar, Shape
from kacjax._validation import check_count, check_positive
from kacjax.processes import base
from kacjax.processes.base import Process, Values, align


class QuantileProcess(Process):
    r"""A process of any law with a density, as a spline of a normal variable: noise that is learned.

    Its parameters are free of constraints, for any optimizer. `QuantileProcess.gaussian` makes one to
    start from, and `kacjax.training.fit_path` learns it together with a network.

    Attributes:
        log_heights: Logarithms of the heights of the intervals, of shape `(*event, bins)`: `(bins,)` is
            shared by all components.
        log_slopes: Logarithms of the slopes at their ends, of shape `(*event, bins + 1)`.
        bound: The intervals share `[0, bound]` evenly in a symmetric process, else `[-bound, bound]`;
            what lies beyond is a tail in which the map is linear.
        power: The exponent $p$ of the scale; 1 is linear interpolation, 1/2 grows as Brownian motion.
        odd: Whether the law is symmetric; if not, the mean is subtracted.

    Raises:
        ValueError: If shapes do not fit, or a concrete `bound` or `power` is not positive.

    Example:
        >>> process = kacjax.QuantileProcess.gaussian(sigma=2.0, bins=4)
        >>> round(float(process.from_normal(1.0, 0.7)), 5), round(float(process.variance(0.5)), 4)
        (1.4, 1.0)
        >>> process.log_heights.shape, process.log_slopes.shape
        ((4,), (5,))
    """

    log_heights: Float[Array, "*event bins"]
    log_slopes: Float[Array, "*event ends"]
    bound: ArrayLike
    power: ArrayLike
    odd: bool = eqx.field(static=True)

    def __init__(
        self,
        log_heights: Any,
        log_slopes: Any,
        bound: ArrayLike = 4.0,
        power: ArrayLike = 1.0,
        odd: bool = True,
    ):
        self.log_heights = jnp.asarray(base.as_numbers("log_heights", log_heights))
        self.log_slopes = jnp.asarray(base.as_numbers("log_slopes", log_slopes))
        heights, slopes = self.log_heights.shape, self.log_slopes.shape
        if len(heights) < 1 or slopes != (*heights[:-1], heights[-1] + 1):
            wanted = "have the shape (*event, bins + 1) where log_heights have (*event, bins)"
            raise ValueError(f"log_slopes must {wanted}, got {slopes} and {heights}.")
        for name, value in (("bound", bound), ("power", power)):
            check_positive(name, value)
            if np.shape(value) != ():
                raise ValueError(f"{name} must be a number, got shape {np.shape(value)}.")
        self.bound = base.as_numbers("bound", bound)
        self.power, self.odd = base.as_numbers("power", power), odd

    @classmethod
    def gaussian(
        cls,
        shape: Shape = (),
        *,
        sigma: ArrayLike = 1.0,
        bins: int = 16,
        bound: Scalar = 4.0,
        power: Scalar = 1.0,
        odd: bool = True,
    ) -> "QuantileProcess":
        """The Gaussian of deviation `sigma` at `s = 1` as such a process, to start learning from.

        Args:
            shape: The event shape of the data, for a law of each component's own; `()` shares one.
            sigma: Deviation, positive, a number or of this shape.
            bins: Number of intervals.
            bound: As in the class.
            power: As in the class.
            odd: As in the class.

        Raises:
            ValueError: If a number is out of its range.

        Example:
            >>> kacjax.QuantileProcess.gaussian((3,), odd=False).sample(
            ...     jax.random.key(0), 1.0, (5, 3)).shape
            (5, 3)
        """
        check_count("bins", bins)
        check_positive("sigma", sigma)
        level = jnp.broadcast_to(jnp.log(jnp.asarray(sigma, jnp.result_type(float))), shape)
        width = bound * (1 if odd else 2) / bins
        heights = jnp.repeat((level + np.log(width))[..., None], bins, axis=-1)
        slopes = jnp.repeat(level[..., None], bins + 1, axis=-1)
        return cls(heights, slopes, bound, power, odd)

    @property
    def symmetric(self) -> bool:
        """Whether it is `odd`."""
        return self.odd

    def shape_from_normal(self, n: ArrayLike) -> Values:
        """The map at `s = 1`, $Q(n)$."""
        n, bound, mean, _ = self._align(n=n, bound=self.bound, mean=self._moments()[0])
        if self.odd:
            sign = _sign(n)
            return sign * self._spline(sign * n)
        return self._spline(n + bound) - mean

    def log_slope(self, n: ArrayLike) -> Values:
        r"""The logarithm of $Q'(n)$, to penalize a law that degenerates.

        Example:
            >>> process = kacjax.QuantileProcess.gaussian(sigma=2.0)
            >>> round(float(process.log_slope(0.3)), 4), round(float(jnp.log(2.0)), 4)
            (0.6931, 0.6931)
        """
        n, event = self._align(n=n)
        n = n + event
        return jnp.log(jax.jvp(self.shape_from_normal, (n,), (jnp.ones_like(n),))[1])

    def from_normal(self, s: ArrayLike, n: ArrayLike) -> Values:  # noqa: D102
        s, n, power, _ = self._align(s=s, n=n, power=self.power)
        return jnp.power(s, power) * self.shape_from_normal(n)

    def to_normal(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        numbers: dict[str, Any] = {
            "power": self.power,
            "bound": self.bound,
            "mean": self._moments()[0],
        }
        s, y, power, bound, mean, _ = self._align(s=s, y=y, **numbers)
        y = y / jnp.maximum(jnp.power(s, power), jnp.finfo(y.dtype).tiny)
        if self.odd:
            sign = _sign(y)
            return sign * self._inverse(sign * y)
        return self._inverse(y + mean) - bound

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, power, event = self._align(s=s, y=y, power=self.power)
        return power * y / s + event

    def variance(self, s: ArrayLike) -> Values:  # noqa: D102
        mean, square = self._moments()
        own = square - jnp.square(mean)
        s, power, own, _ = self._align(s=s, power=self.power, own=own)
        return jnp.square(jnp.power(s, power)) * own

    def linear_velocity(self, s: ArrayLike) -> Values:  # noqa: D102
        (s,) = align(s=s, positive=True)
        s, power, event = self._align(s=s, power=self.power)
        return base.quotient(power + jnp.zeros_like(s), s) + event

    def _align(self, **values: Any) -> tuple[Array, ...]:
        """The values, and zeros of the event shape that the parameters have."""
        event = jnp.zeros(self.log_heights.shape[:-1], self.log_heights.dtype)
        return align(**values, event=event)

    def _tables(self, dtype: Any) -> tuple[Array, Array, Array, Array]:
        """Width of the intervals, where they begin, their heights, and the slopes at all ends."""
        bound, bins = jnp.asarray(self.bound, dtype), self.log_heights.shape[-1]
        heights, slopes = (jnp.exp(p).astype(dtype) for p in (self.log_heights, self.log_slopes))
        width = bound * (1 if self.odd else 2) / bins
        return width, jnp.cumsum(heights, axis=-1) - heights, heights, slopes

    def _spline(self, x: Array) -> Array:
        """The spline of the distance `x` from its first knot; linear outside."""
        width, starts, heights, slopes = self._tables(x.dtype)
        bins = heights.shape[-1]
        position = x / width
        index = jnp.clip(jnp.floor(position), 0, bins - 1)
        start, height, low, high = _pick(index, starts, heights, slopes[..., :-1], slopes[..., 1:])
        inside = (position >= 0) & (position <= bins)
        theta = jnp.where(inside, position - index, jnp.where(position < 0, 0, 1))
        both, slope = theta * (1 - theta), height / width
        part = (slope * jnp.square(theta) + low * both) / (slope + (low + high - 2 * slope) * both)
        beyond = jnp.where(position < 0, low * x, high * (x - bins * width))
        return start + height * part + jnp.where(inside, 0, beyond)

    def _inverse(self, y: Array) -> Array:
        """The distance from the first knot at which the spline is `y`: a root of a quadratic."""
        width, starts, heights, slopes = self._tables(y.dtype)
        bins = heights.shape[-1]
        # Tables have one axis more than the event.
        knots = starts[..., 1:].reshape((1,) * (y.ndim - starts.ndim + 1) + starts[..., 1:].shape)
        index = jnp.sum(y[..., None] >= knots, axis=-1).astype(y.dtype)
        start, height, low, high = _pick(index, starts, heights, slopes[..., :-1], slopes[..., 1:])
        rise, slope = y - start, height / width
        # Rounding may leave a knot a little below the interval that ends there.
        below, above = y < 0, (rise > height) & (index == bins - 1)
        inside = ~(below | above)
        # jnp.clip has half the derivative at its ends, where knots are.
        rise = jnp.where(rise < 0, 0, jnp.where(rise > height, height, rise))
        rise = jnp.where(inside, rise, 0)
        change = rise * (low + high - 2 * slope)
        a, b = height * (slope - low) + change, height * low - change
        theta = 2 * slope * rise / (b + jnp.sqrt(jnp.maximum(b * b + 4 * a * slope * rise, 0)))
        outside = jnp.where(
            y < start, (y - start) / low, bins * width + (y - start - height) / high
        )
        return jnp.where(inside, (index + theta) * width, outside)

    def _moments(self) -> tuple[Array, Array]:
        """Mean and mean square of `Q(N)` before centering, by quadrature between the knots."""
        bins, rank = self.log_heights.shape[-1], self.log_heights.ndim - 1
        dtype = self.log_heights.dtype
        first = 0 if self.odd else -1
        ends = np.linspace(first, 1, bins + 1)
        nodes, weights = np.polynomial.legendre.leggauss(max(6, 64 // bins))
        nodes = (ends[:-1, None] + np.diff(ends)[:, None] * (nodes + 1) / 2).ravel()
        weights = (np.diff(ends)[:, None] * weights / 2).ravel()
        bound = jnp.asarray(self.bound, dtype)
        n, w = bound * jnp.asarray(nodes, dtype), bound * jnp.asarray(weights, dtype)
        # The tails, in which the Gaussian falls below all precision within 9.
        nodes, weights = (jnp.asarray(v, dtype) for v in np.polynomial.legendre.leggauss(32))
        tail, tail_w = bound + 4.5 * (nodes + 1), 4.5 * weights
        n, w = jnp.concatenate([n, tail]), jnp.concatenate([w, tail_w])
        if not self.odd:
            n, w = jnp.concatenate([n, -tail]), jnp.concatenate([w, tail_w])
        w = w * norm.pdf(n) * (2 if self.odd else 1)
        event = (-1,) + (1,) * rank
        value = self._spline(n.reshape(event) - first * bound)
        mean = jnp.sum(w.reshape(event) * value, axis=0)
        square = jnp.sum(w.reshape(event) * jnp.square(value), axis=0)
        return jnp.zeros_like(mean) if self.odd else mean, square


def _sign(x: Array) -> Array:
    """The sign, 1 at 0, without a derivative."""
    return jnp.where(x < 0, -1, jnp.ones_like(x))


def _pick(index: Array, *tables: Array) -> list[Array]:
    """Entries of tables of shape `(*event, bins)`, whose event the shape of the index ends with."""
    chosen = jax.nn.one_hot(index.astype(jnp.int32), tables[0].shape[-1], dtype=bool)
    one_rank = lambda t: t.reshape((1,) * (chosen.ndim - t.ndim) + t.shape)  # noqa: E731
    return [jnp.sum(jnp.where(chosen, one_rank(table), 0), axis=-1) for table in tables]
