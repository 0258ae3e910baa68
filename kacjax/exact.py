r"""The exact marginal velocity of a path whose data are known: the reference for any network.

For data $x_j$ of weights $w_j$ the velocity that a network should learn is the mean of conditional
velocities over the posterior of the data,

$$ u(t, x) = \sum_j \pi_j(t, x) \, u(t, x \mid x_j), \qquad
   \pi_j(t, x) \propto w_j \prod_i p\bigl(g(t), x_i - f(t) x_{ji}\bigr), $$

with the density $p$ of the noise in each component. Generation with it has the solver's error only,
so that what a trained network does worse was lost in learning.

**Brownian motion** has the density everywhere. With `std` the data are a mixture of Gaussians
$\mathcal N(x_j, \tau^2 I)$, and $x_t$ given $j$ is normal with the variance
$V = \sigma^2 g + f^2 \tau^2$ and the velocity $f' x_j + \tfrac{V'}{2V} (x - f x_j)$.

**The Kac process** has atoms: a component has not turned yet with probability $e^{-ag}$, and sits on
the light cone of its datum. Strictly, the law is then a sum of measures of different dimension, and
the posterior at `x` is decided by the data on whose cones most components of `x` lie, whatever
density the others have there. Such a field cannot be used as it stands: a solver meets a cone with
probability zero, and the exact flow is no function of position. Atoms of one datum cross the cones of
others, where a part of the mass that reaches the atom has to stay and the rest to pass. Therefore:

- **Atoms are weighed as a layer** of relative width $\omega$ (`width`) just inside the cone,
  $(1 - \omega) \, cg \le |x_i - f x_{ji}| \le cg$, with the uniform density $e^{-ag} / (2 \omega cg)$.
  It outweighs any continuous density as $\omega \to 0$, component by component, which is the strict
  rule. The field is then exactly the marginal velocity of the Kac path whose atoms are spread so:
  the continuity equation holds for every $\omega$, and only the atoms themselves are displaced, by
  at most $\omega c g(t)$, which vanishes at the data. No tolerance in units of rounding is needed.
- **On the cone** the velocity is $f' x_{ji} \pm g' c$: a trajectory that comes near it rides it into the
  datum.
- **Outside the cone** of a datum its density is zero but for a steep slope, so that data whose cones
  contain `x` decide alone, and outside all cones the nearest one does (the smallest excess in units of
  `c g`, summed over components). Its velocity there is $f' x_{ji} + g' (x_i - f x_{ji}) / g$: at constant
  ratio to the cone, at speed `c` on it, into the datum.

A layer narrower than a solver's step is overlooked, so that too few trajectories stay on a cone and the
data are reached in wrong shares; a wide one blurs the atoms on the way. With the default, 100 Euler
steps reach nine points in their shares; 200 points need 400 (`benchmarks/exact_flow.py`). Atoms of the
*prior*, of probability $e^{-aT}$ a component, lie in one position each and cannot be divided among the
data by a deterministic flow: they ride outermost, to the outermost datum. For $aT = 9$ they are one in
8,000.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_count, check_nonnegative, check_positive, is_concrete
from kacjax.paths import ProbabilityPath
from kacjax.processes import WienerProcess

WIDTH = 0.3
"""Relative width of the layer that stands for an atom."""

# Elements of an intermediate array, at most, where no block size is given.
_ELEMENTS = 2**22


class ExactVelocity(eqx.Module):
    """The marginal velocity `velocity(t, x)` of finite data; make it by `exact_velocity`.

    Attributes:
        path: The path.
        data: Data, of shape `(num, *event)`.
        log_weights: Logarithms of their weights, which sum to 1.
        std: Deviation of a Gaussian around each datum.
        width: Relative width of the layer that stands for an atom.
        block: Data that are looked at together; by default as many as memory allows.
    """

    path: ProbabilityPath
    data: Float[Array, "num *event"]
    log_weights: Float[Array, " num"]
    std: Float[Array, " num"] | None
    width: Scalar
    block: int | None = eqx.field(static=True)

    @eqx.filter_jit
    def __call__(
        self, t: Float[Array, " batch"], x: Float[Array, "batch *event"]
    ) -> Float[Array, "batch *event"]:
        """The velocity at `x`, of its shape; `t` holds one time per row."""
        _, total, velocity = self._posterior(t, x)
        return velocity / total.reshape(total.shape + (1,) * (x.ndim - 1))

    @eqx.filter_jit
    def log_density(
        self, t: Float[Array, " batch"], x: Float[Array, "batch *event"]
    ) -> Float[Array, " batch"]:
        """Log-density of the marginal law at `x`, its atoms spread, in nats."""
        largest, total, _ = self._posterior(t, x)
        return largest + jnp.log(total)

    def _posterior(self, t: Array, x: Array) -> tuple[Array, Array, Array]:
        """Sums over the data: the largest log-density; densities and velocities relative to it."""
        if x.shape[1:] != self.data.shape[1:]:
            raise ValueError(
                f"x must have the data's event shape {self.data.shape[1:]}, got {x.shape[1:]}."
            )
        num = self.data.shape[0]
        block = min(num, self.block or max(1, _ELEMENTS // max(1, x.size)))
        parts = [self.data.astype(x.dtype), self.log_weights.astype(x.dtype)]
        if self.std is not None:
            parts.append(self.std.astype(x.dtype))
        count = math.ceil(num / block)
        # The last block is filled up with copies of the first data, of weight zero.
        rows = jnp.arange(count * block)
        blocks = [part[rows % num].reshape(count, block, *part.shape[1:]) for part in parts]
        blocks[1] = jnp.where(rows.reshape(count, block) < num, blocks[1], -jnp.inf)

        def add(carry, block):
            largest, total, velocity = carry
            log_density, each = self._conditional(t, x, *block)
            new = jnp.maximum(largest, jnp.max(log_density, axis=1))
            reference = jnp.where(jnp.isneginf(new), 0, new)
            kept = jnp.exp(largest - reference)
            weights = jnp.exp(log_density - reference[:, None])
            mean = jnp.einsum("bn,bn...->b...", weights, each)
            kept_each = kept.reshape(kept.shape + (1,) * (x.ndim - 1))
            return (
                new,
                kept * total + jnp.sum(weights, axis=1),
                kept_each * velocity + mean,
            ), None

        start = (jnp.full(x.shape[:1], -jnp.inf, x.dtype), jnp.zeros(x.shape[:1], x.dtype))
        carry = (*start, jnp.zeros_like(x))
        if count == 1:
            return add(carry, [part[0] for part in blocks])[0]
        return jax.lax.scan(add, carry, blocks)[0]

    def _conditional(
        self, t: Array, x: Array, data: Array, log_weights: Array, std: Array | None = None
    ) -> tuple[Array, Array]:
        """Log-densities `(batch, num)` of `x` given each datum, weighted, and its velocities."""
        f, f_prime, g, g_prime = self.path._schedules(t, x.ndim + 1)
        y = x[:, None] - f * data[None]
        process = self.path.process
        if isinstance(process, WienerProcess):
            spread = 0.0 if std is None else std.reshape(1, -1, *(1,) * (x.ndim - 1))
            blur = jnp.square(f * spread)
            rate = process.variance(g_prime) + 2 * f * f_prime * jnp.square(spread)
            variance = process.variance(g) + blur
            log_density = -(y * (y / variance) + jnp.log(2 * jnp.pi * variance)) / 2
            velocity = rate / (2 * variance) * y
        else:
            log_density, velocity = process.spread_law(g, y, self.width)
            velocity = g_prime * velocity
        total = jnp.sum(log_density.reshape(*log_density.shape[:2], -1), axis=-1)
        return log_weights[None] + total, f_prime * data[None] + velocity


def exact_velocity(
    path: ProbabilityPath,
    data: Float[Array, "num *event"],
    weights: ArrayLike | None = None,
    *,
    std: ArrayLike | None = None,
    width: Scalar = WIDTH,
    block: int | None = None,
) -> ExactVelocity:
    r"""The marginal velocity of a path for finite data, or a mixture of Gaussians, in closed form.

    See the module for what it is on, inside and outside the light cones of the Kac process.

    Args:
        path: The path.
        data: Data, or centres of the mixture.
        weights: Positive weights, of shape `(num,)`; equal if missing. They need not sum to 1.
        std: Deviation of the Gaussian around each datum, a number or of shape `(num,)`; only for
            paths of Brownian motion.
        width: For the Kac process, the relative width $\omega$ in (0, 1) of the layer inside the
            cone over which an atom is spread.
        block: Data that are looked at together; memory is `batch * block * event`. By default as
            many as keep an intermediate array within 4 million numbers.

    Returns:
        A pytree, called as `velocity(t, x)`; `log_density(t, x)` is the law that it moves.

    Raises:
        ValueError: If `data` is empty, the shape or sign of another argument is wrong, `width`
            lies outside (0, 1), or the process does not go with `std`.
    """
    if data.ndim < 1 or data.shape[0] == 0:
        raise ValueError(f"data must hold at least one datum, got shape {data.shape}.")
    num = data.shape[0]
    dtype = jnp.result_type(data.dtype, float)
    weights = jnp.ones(num, dtype) if weights is None else jnp.asarray(weights, dtype)
    if weights.shape != (num,):
        raise ValueError(f"weights must have the shape {(num,)}, got {weights.shape}.")
    check_positive("weights", weights)
    if is_concrete(width) and not 0 < width < 1:
        raise ValueError(f"width must lie between 0 and 1, got {width}.")
    if block is not None:
        check_count("block", block)
    if std is not None:
        check_nonnegative("std", std)
        if not isinstance(path.process, WienerProcess):
            raise ValueError(
                f"std must be None unless the noise is Brownian motion; the path's process is "
                f"{type(path.process).__name__}, for which only finite data have a closed form."
            )
        if jnp.shape(std) not in ((), (num,)):
            raise ValueError(f"std must be a number or of shape {(num,)}, got {jnp.shape(std)}.")
        std = jnp.broadcast_to(jnp.asarray(std, dtype), (num,))
    log_weights = jnp.log(weights) - jnp.log(jnp.sum(weights))
    return ExactVelocity(path, data.astype(dtype), log_weights, std, width, block)
