r"""Brownian motion, $Y_s = \sigma \sqrt{s} N$: the noise of diffusion models.

Its velocity $v = y / (2 s)$ is unbounded as $s \to 0$: the explosion that the Kac process avoids.
"""

import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.scipy.stats import norm

from kacjax._random import normal
from kacjax._typing import Array, ArrayLike, Float, Key, Shape
from kacjax._validation import check_positive
from kacjax.processes.base import Process, align, align_time


class WienerProcess(Process):
    """Brownian motion of variance `sigma**2 * s`.

    Attributes:
        sigma: Volatility, positive; may be traced, and an array of one value per component.

    Raises:
        ValueError: If a concrete `sigma` is not positive and finite.
    """

    sigma: ArrayLike = 1.0

    def __check_init__(self):
        check_positive("sigma", self.sigma)

    def transport(self, s: ArrayLike, n: ArrayLike) -> Float[Array, "..."]:
        r"""The map $X(s, n) = \sigma \sqrt s \, n$."""
        s, n, sigma = align_time(s, n, self.sigma)
        return sigma * jnp.sqrt(s) * n

    def sample_with_velocity(
        self, key: Key, s: ArrayLike, shape: Shape
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""Draws displacements $y$ with their velocities $y / (2 s)$; infinite at `s = 0`."""
        s = self._time(s, shape)
        s, sigma = align(s, self.sigma, shape=shape)
        n = normal(key, shape, s.dtype)
        root = jnp.sqrt(s)
        return (sigma * root) * n, (sigma / (2 * root)) * n

    def sample(self, key: Key, s: ArrayLike, shape: Shape) -> Float[Array, "..."]:
        """Draws displacements at time `s`; see `sample_with_velocity`."""
        s, sigma = align(self._time(s, shape), self.sigma, shape=shape)
        return (sigma * jnp.sqrt(s)) * normal(key, shape, s.dtype)

    def normal_score(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""The standard normal variable $n = y / (\sigma \sqrt s)$ behind a displacement."""
        s, y, sigma = align_time(s, y, self.sigma)
        return y / (sigma * jnp.sqrt(s))

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""The velocity field $v(s, y) = y / (2 s)$."""
        s, y, sigma = align_time(s, y, self.sigma)
        return y / (2 * s) + jnp.zeros_like(sigma)

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""Logarithm of the normal density of variance $\sigma^2 s$."""
        s, y, sigma = align_time(s, y, self.sigma)
        return norm.logpdf(y, scale=sigma * jnp.sqrt(s))

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        """Distribution function."""
        return ndtr(self.normal_score(s, y))

    def linear_velocity(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""The velocity's factor $1 / (2 s)$, exact."""
        s, sigma = align_time(s, self.sigma)
        return 1 / (2 * s) + jnp.zeros_like(sigma)

    def variance(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""Variance $\sigma^2 s$."""
        s, sigma = align_time(s, self.sigma)
        return sigma**2 * s
