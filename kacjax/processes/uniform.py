r"""The uniform process, $Y_s = b (1 - e^{-s/b}) (2 U - 1)$: the noise of the MMD flow."""

import math

import jax.numpy as jnp
from jax.scipy.special import erf, erfinv

from kacjax._typing import Array, ArrayLike
from kacjax._validation import check_positive
from kacjax.processes import base
from kacjax.processes.base import Process, Values, align


class UniformProcess(Process):
    r"""Uniform displacements on $[-w, w]$, $w(s) = b (1 - e^{-s/b})$, whose edges move with $e^{-s/b}$.

    This is the Wasserstein gradient flow from a point of the maximum mean discrepancy with the
    distance kernel, towards the uniform law on $[-b, b]$. The speed never exceeds 1, which it has at
    the edges at $s = 0$. Outside the support the velocity goes on linearly.

    Attributes:
        b: Half-width as $s \to \infty$, positive; may be traced, and an array of one value per
            component.

    Raises:
        ValueError: If a concrete `b` is not positive and finite.

    Source: J. Chemseddine, G. Kornhardt, R. Duong, G. Steidl, *Adapting Noise to Data: Generative
    Flows from 1D Processes*, arXiv 2510.12636.

    Example:
        >>> process = kacjax.UniformProcess(b=2.0)
        >>> round(float(process.quantile(2.0, 0.75)), 3), round(float(process.density(2.0, 0.1)), 3)
        (0.632, 0.395)
    """

    b: ArrayLike

    def __init__(self, b: ArrayLike = 1.0):
        self.b = base.as_numbers("b", b)
        check_positive("b", self.b)

    def from_normal(self, s: ArrayLike, n: ArrayLike) -> Values:  # noqa: D102
        s, n, b = align(s=s, n=n, b=self.b)
        return _width(s, b) * erf(n * math.sqrt(0.5))

    def to_normal(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, b = align(s=s, y=y, b=self.b)
        # Beyond the edges it is the largest that is finite.
        largest = 1 - jnp.finfo(y.dtype).eps / 2
        return math.sqrt(2) * erfinv(jnp.clip(y / _width(s, b), -largest, largest))

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, b = align(s=s, y=y, b=self.b)
        return jnp.exp(-s / b) * y / _width(s, b)

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, b = align(s=s, y=y, b=self.b)
        width = _width(s, b)
        inside = (jnp.abs(y) <= width) & (width > 0)
        value = jnp.where(inside, -jnp.log(2 * jnp.where(inside, width, 1)), -jnp.inf)
        return jnp.where(jnp.isnan(y), y, value)

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, b = align(s=s, y=y, b=self.b)
        least = jnp.finfo(y.dtype).tiny
        return jnp.clip((1 + y / jnp.maximum(_width(s, b), least)) / 2, 0, 1)

    def variance(self, s: ArrayLike) -> Values:  # noqa: D102
        s, b = align(s=s, b=self.b)
        return jnp.square(_width(s, b)) / 3

    def linear_velocity(self, s: ArrayLike) -> Values:  # noqa: D102
        s, b = align(s=s, b=self.b, positive=True)
        # Of `s w' / w` at small `s / b` nothing underflows.
        u = s / b
        small = u < 1e-3
        safe = jnp.where(small, 1, u)
        elasticity = jnp.where(small, 1 - u / 2, safe / jnp.expm1(safe))
        return base.quotient(elasticity, s + jnp.zeros_like(b))


def _width(s: Array, b: Array) -> Array:
    return -b * jnp.expm1(-s / b)
