"""How the times of a loss are drawn."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_positive
from kacjax.paths import ProbabilityPath, Times


def sample_times(key: Key, path: ProbabilityPath, batch: int, power: float = 1.0) -> Times:
    r"""Times in `(0, T]` that are spread evenly: $t_i = T u_i^p$, $u_i = U + i / \varphi \bmod 1$.

    Each has the law of $T U^p$ with uniform $U$; together they leave gaps of at most $1.9 / n$ in $u$,
    so that the loss has less variance than with independent times.

    Source: L. Kuipers, H. Niederreiter, *Uniform Distribution of Sequences* (1974), section 2.3;
    one shift for a batch as in D. Kingma et al., *Variational Diffusion Models*, arXiv 2107.00630.

    Example:
        >>> kacjax.losses.sample_times(jax.random.key(0), kacjax.kac_path(), 5, power=2.0).shape
        (5,)
    """
    check_positive("time_power", power)
    u = _spread(key, batch)
    return jnp.asarray(path.T, u.dtype) * jnp.power(u, power)


def _spread(key: Key, batch: int) -> Float[Array, " batch"]:
    """Numbers in `(0, 1]`, see `sample_times`."""
    dtype = jnp.result_type(float)
    # Fractions of 2^32, where adding wraps around, of 24 bits; the factor is 2^32 / golden ratio.
    steps = jnp.arange(batch, dtype=jnp.uint32) * np.uint32(2654435769)
    return ((jax.random.bits(key, dtype=jnp.uint32) + steps >> 8).astype(dtype) + 1) / 2**24


class LogNormalTimes(eqx.Module):
    r"""EDM's times, $t = \min(e^{\mu + s N}, T)$, spread as evenly as those of `sample_times`.

    On `edm_path` the time is the noise's deviation; EDM's $\mu = -1.2$, $s = 1.2$ are the defaults.

    Attributes:
        mean: Mean $\mu$ of the logarithm of the time.
        std: Its deviation $s$, positive.

    Source: T. Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*,
    arXiv 2206.00364, table 1.

    Example:
        >>> kacjax.losses.LogNormalTimes()(jax.random.key(0), kacjax.edm_path(), 5).shape
        (5,)
    """

    mean: ArrayLike = -1.2
    std: ArrayLike = 1.2

    def __check_init__(self) -> None:
        check_positive("std", self.std)

    def __call__(self, key: Key, path: ProbabilityPath, batch: int) -> Times:
        """Times of this law, at most `T`."""
        u = _spread(key, batch)
        t = jnp.exp(self.mean + self.std * ndtri(u))
        return jnp.minimum(t, jnp.asarray(path.T, u.dtype))
