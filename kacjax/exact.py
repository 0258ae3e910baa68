r"""The exact marginal velocity of a path whose data are known: the reference for any network.

For data $x_j$ of weights $w_j$ it is the mean of conditional velocities over the posterior,

$$ u(t, x) = \sum_j \pi_j(t, x) \, u(t, x \mid x_j), \qquad
   \pi_j(t, x) \propto w_j \prod_i p\bigl(g(t), x_i - f(t) x_{ji}\bigr), $$

with the density $p$ of the noise in each component.

**The Kac process** has atoms, on the light cone of each datum. Strictly, the data on whose cones most
components of `x` lie decide; but a solver meets a cone with probability zero, and where cones cross
the exact flow is no function of position. Atoms are therefore weighed as a layer of relative width
$\omega$ just inside the cone (`Process.conditional_law`): the field is exactly the marginal velocity
of the Kac path whose atoms are spread so. On the cone a trajectory rides into the datum; outside all
cones the nearest one decides.

A layer narrower than a solver's step is overlooked, so that the data are reached in wrong shares; a
wide one blurs the atoms on the way. With the default, 100 Euler steps reach nine points in their
shares; 200 points need 400 (`benchmarks/exact_flow.py`).
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar, Vector
from kacjax._validation import (
    as_arrays,
    as_floats,
    check_count,
    check_nonnegative,
    check_positive,
    is_concrete,
)
from kacjax.paths import Points, ProbabilityPath, Times

# Elements of an intermediate array, at most, where no block size is given.
_ELEMENTS = 2**22


class ExactVelocity(eqx.Module):
    """The marginal velocity `velocity(t, x)` of finite data; made by `exact_velocity`.

    Example:
        >>> velocity = kacjax.exact_velocity(kacjax.diffusion_path(), jnp.zeros((1, 2)), std=1.0)
        >>> velocity.log_density(jnp.zeros(1), jnp.zeros((1, 2)))  # -log 2 pi
        Array([-1.837877], dtype=float32)
    """

    path: ProbabilityPath
    data: Float[Array, "num *event"]
    log_weights: Float[Array, " num"]
    std: Float[Array, " num"] | None
    width: Scalar
    block: int | None = eqx.field(static=True)

    def __call__(self, t: Times, x: Points) -> Points:
        """The velocity at `x`, of its shape; `t` holds one time per row."""
        _, total, velocity = _posterior(as_arrays(self), jnp.asarray(t), as_floats("x", x))
        return velocity / total.reshape(total.shape + (1,) * (velocity.ndim - 1))

    def log_density(self, t: Times, x: Points) -> Float[Array, " batch"]:
        """Log-density of the marginal law at `x`, its atoms spread, in nats."""
        largest, total, _ = _posterior(as_arrays(self), jnp.asarray(t), as_floats("x", x))
        return largest + jnp.log(total)


@eqx.filter_jit
def _posterior(exact: ExactVelocity, t: Array, x: Array) -> tuple[Array, Array, Array]:
    """Sums over the data: the largest log-density; densities and velocities relative to it."""
    num, event = exact.data.shape[0], exact.data.shape[1:]
    if x.shape[1:] != event:
        raise ValueError(f"x must have the data's event shape {event}, got {x.shape[1:]}.")
    block = min(num, exact.block or max(1, _ELEMENTS // max(1, x.size)))
    count = math.ceil(num / block)
    # The last block is filled up with copies of the first data, of weight zero.
    rows = jnp.arange(count * block)

    def blocks(part):
        return part[rows % num].reshape(count, block, *part.shape[1:]).astype(x.dtype)

    weights = jnp.where(rows.reshape(count, block) < num, blocks(exact.log_weights), -jnp.inf)
    std = None if exact.std is None else blocks(exact.std)

    def add(carry, part):
        largest, total, velocity = carry
        log_density, each = _conditional(exact, t, x, *part)
        new = jnp.maximum(largest, jnp.max(log_density, axis=1))
        reference = jnp.where(jnp.isneginf(new), 0, new)
        kept = jnp.exp(largest - reference)
        weights = jnp.exp(log_density - reference[:, None])
        mean = jnp.einsum("bn,bn...->b...", weights, each)
        velocity = kept.reshape(kept.shape + (1,) * (x.ndim - 1)) * velocity + mean
        return (new, kept * total + jnp.sum(weights, axis=1), velocity), None

    start = (jnp.full(x.shape[:1], -jnp.inf, x.dtype), jnp.zeros(x.shape[:1], x.dtype))
    return jax.lax.scan(add, (*start, jnp.zeros_like(x)), (blocks(exact.data), weights, std))[0]


def _conditional(
    exact: ExactVelocity, t: Array, x: Array, data: Array, log_weights: Array, std: Array | None
) -> tuple[Array, Array]:
    """Log-densities `(batch, num)` of `x` given each datum, weighted, and its velocities."""
    c = exact.path.coefficients(t.astype(x.dtype), x.ndim + 1)
    y = x[:, None] - c.f * data[None]
    # Where a clock stands still, as a sine's at T, the data's spread goes on.
    g_dot, blur = jnp.where(jnp.abs(c.g_dot) < 1e-20, 1e-20, c.g_dot), None
    if std is not None:
        deviation = std.reshape(1, -1, *(1,) * (x.ndim - 1))
        blur = (c.f * deviation, c.f_dot / g_dot * deviation)
    law = exact.path.process.conditional_law
    log_density, velocity = law(c.g, y, width=exact.width, blur=blur)
    total = jnp.sum(log_density.reshape(*log_density.shape[:2], -1), axis=-1)
    return log_weights[None] + total, c.f_dot * data[None] + g_dot * velocity


def exact_velocity(
    path: ProbabilityPath,
    data: Float[Array, "num *event"],
    weights: Vector | None = None,
    *,
    std: ArrayLike | None = None,
    width: Scalar = 0.3,
    block: int | None = None,
) -> ExactVelocity:
    r"""The marginal velocity for finite data, or a mixture of Gaussians, in closed form.

    Args:
        path: The path.
        data: Data, or centers of the mixture.
        weights: Positive weights, of shape `(num,)` and any sum; equal if missing.
        std: Deviation of Gaussians around the data, for Brownian motion: a number or `(num,)`.
        width: Relative width $\omega$ in (0, 1) of the layer over which an atom is spread.
        block: Data that are looked at together, by default as many as memory allows.

    Returns:
        A pytree, called as `velocity(t, x)`; `log_density(t, x)` is that of the law that it moves.

    Raises:
        ValueError: If `data` is empty, the shape or sign of another argument is wrong, `width`
            lies outside (0, 1), or the process does not go with `std`.

    Example:
        >>> velocity = kacjax.exact_velocity(kacjax.kac_path(), jnp.zeros((1, 2)))
        >>> velocity(jnp.array([0.5]), jnp.zeros((1, 2))).shape
        (1, 2)
    """
    data = as_floats("data", data)
    num = data.shape[0]
    if num == 0:
        raise ValueError(f"data must hold at least one datum, got shape {data.shape}.")
    weights = jnp.ones(num, data.dtype) if weights is None else jnp.asarray(weights, data.dtype)
    if weights.shape != (num,):
        raise ValueError(f"weights must have the shape {(num,)}, got {weights.shape}.")
    check_positive("weights", weights)
    if is_concrete(width) and not 0 < width < 1:
        raise ValueError(f"width must lie between 0 and 1, got {width}.")
    if block is not None:
        check_count("block", block)
    if std is not None:
        check_nonnegative("std", std)
        if jnp.shape(std) not in ((), (num,)):
            raise ValueError(f"std must be a number or of shape {(num,)}, got {jnp.shape(std)}.")
        # Refused here if the process cannot be blurred.
        jax.eval_shape(lambda: path.process.conditional_law(1.0, 0.0, blur=(1.0, 0.0)))
        std = jnp.broadcast_to(jnp.asarray(std, data.dtype), (num,))
    log_weights = jnp.log(weights) - jnp.log(jnp.sum(weights))
    return ExactVelocity(path, data, log_weights, std, width, block)
