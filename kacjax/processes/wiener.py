r"""Brownian motion, $Y_s = \sigma \sqrt{s} N$: the noise of diffusion models."""

import jax.numpy as jnp
from jax.scipy.stats import norm

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_positive
from kacjax.processes import base
from kacjax.processes.base import Blur, Pair, Process, Values, align


class WienerProcess(Process):
    r"""Brownian motion: normal displacements of variance $\sigma^2 s$ and velocity $y / (2 s)$.

    The velocity is unbounded as $s \to 0$: the explosion that the Kac process avoids.

    Attributes:
        sigma: Volatility, positive; may be traced, and an array of one value per component.

    Raises:
        ValueError: If a concrete `sigma` is not positive and finite.

    Example:
        >>> process = kacjax.WienerProcess(sigma=0.5)
        >>> process, float(process.variance(1.0))
        (WienerProcess(sigma=0.5), 0.25)
    """

    sigma: ArrayLike

    def __init__(self, sigma: ArrayLike = 1.0):
        self.sigma = base.as_numbers("sigma", sigma)
        check_positive("sigma", self.sigma)

    def from_normal(self, s: ArrayLike, n: ArrayLike) -> Values:  # noqa: D102
        s, n, sigma = align(s=s, n=n, sigma=self.sigma)
        return sigma * jnp.sqrt(s) * n

    def from_normal_with_velocity(self, s: ArrayLike, n: ArrayLike) -> Pair:  # noqa: D102
        s, n, sigma = align(s=s, n=n, sigma=self.sigma)
        root = jnp.sqrt(s)
        return (sigma * root) * n, (sigma / (2 * root)) * n

    def to_normal(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, sigma = align(s=s, y=y, sigma=self.sigma)
        return y / jnp.maximum(sigma * jnp.sqrt(s), jnp.finfo(y.dtype).tiny)

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, sigma = align(s=s, y=y, sigma=self.sigma)
        return y / (2 * s) + jnp.zeros_like(sigma)

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, sigma = align(s=s, y=y, sigma=self.sigma)
        scale = sigma * jnp.sqrt(s)
        # At 0 there is nothing but an atom.
        return jnp.where(s > 0, norm.logpdf(y, scale=jnp.where(s > 0, scale, 1)), -jnp.inf)

    def conditional_law(
        self, s: ArrayLike, y: ArrayLike, *, width: Scalar = 0.3, blur: Blur = None
    ) -> Pair:
        r"""Log-density and velocity; blurred, of $V = \sigma^2 s + \tau^2$ and $v = y V' / 2 V$.

        Example:
            >>> law = kacjax.WienerProcess().conditional_law(0.5, 1.0, blur=(0.5**0.5, 0.0))
            >>> round(float(law[0]), 3), round(float(law[1]), 3)
            (-1.419, 0.5)
        """
        std, rate = (0.0, 0.0) if blur is None else blur
        s, y, std, rate, sigma = align(
            s=s, y=y, std=std, rate=rate, sigma=self.sigma, positive=True
        )
        variance = jnp.square(sigma) * s + jnp.square(std)
        square = jnp.minimum(y * (y / variance), 1e30)
        log_density = -(square + jnp.log(2 * jnp.pi * variance)) / 2
        return log_density, (jnp.square(sigma) + 2 * std * rate) / (2 * variance) * y

    def linear_velocity(self, s: ArrayLike) -> Values:  # noqa: D102
        s, sigma = align(s=s, sigma=self.sigma, positive=True)
        return base.quotient(jnp.ones_like(s), 2 * s) + jnp.zeros_like(sigma)

    def variance(self, s: ArrayLike) -> Values:  # noqa: D102
        s, sigma = align(s=s, sigma=self.sigma)
        return sigma**2 * s
