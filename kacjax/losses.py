r"""The conditional flow matching loss: one for every path.

$$ L(\theta) = \mathbb E \, w(t) \, \bigl| v_\theta(t, x_t) - u(t, x_t \mid x_0) \bigr|^2 / d $$

over data $x_0$, times $t$ and noise. Its minimiser is the marginal velocity
$\mathbb E[u \mid x_t]$ for every positive weight $w$ and every density of times: these decide only
where the network spends its capacity.

Source: Lipman et al., *Flow Matching for Generative Modeling*, arXiv 2210.02747.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import check_positive
from kacjax.paths import PathSample, ProbabilityPath

# 2^32 / golden ratio, an odd integer.
_GOLDEN = 2654435769

Velocity = Callable[[Float[Array, " batch"], Float[Array, "batch *event"]], Array]
"""Any function `velocity(t, x)`, with `t` of shape `(batch,)` and `x` of `(batch, *event)`."""


def sample_times(
    key: Key, path: ProbabilityPath, batch: int, power: float = 1.0
) -> Float[Array, " batch"]:
    r"""Draws times in `(0, T]` that are spread evenly: $t_i = T u_i^p$, $u_i = U + i / \varphi \bmod 1$.

    Each time has the law of $T U^p$ with uniform $U$, so that the loss keeps its mean; together
    they cover $(0, T]$ with gaps of at most $1.9 / n$ in $u$, so that it has less variance than with
    independent times. Neighbours in the batch are far apart in time, for the data may come in
    order. One random number and no sort, on any number of devices: additive recurrence with the
    golden ratio $\varphi$, whose multiples are the most evenly spread of all.

    Source: L. Kuipers, H. Niederreiter, *Uniform Distribution of Sequences* (1974), section 2.3;
    one shift for a batch as in D. Kingma et al., *Variational Diffusion Models*, arXiv 2107.00630.

    Args:
        key: Random key.
        path: The path, for its `T`.
        batch: Number of times.
        power: The exponent `p`; 1 is uniform, more crowds the times near the data.

    Raises:
        ValueError: If `power` is not positive.
    """
    check_positive("power", power)
    dtype = jnp.result_type(float)
    # Fractions of 2^32, where adding wraps around by itself; 24 bits of them are a float32.
    steps = jnp.arange(batch, dtype=jnp.uint32) * np.uint32(_GOLDEN)
    u = ((jax.random.bits(key, dtype=jnp.uint32) + steps >> 8).astype(dtype) + 1) / 2**24
    return jnp.asarray(path.T, dtype) * jnp.power(u, power)


def draw_points(
    path: ProbabilityPath, key: Key, x0: Float[Array, "batch *event"], time_power: float = 1.0
) -> PathSample:
    """Draws a time for each datum, see `sample_times`, and a point of the path at that time.

    Raises:
        ValueError: If `x0` is empty or not floating, or `time_power` is not positive.
    """
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        # The times take its type, and as integers they would all be 0.
        raise ValueError(f"x0 must be floating, got {x0.dtype}.")
    if x0.ndim < 1 or x0.size == 0:
        raise ValueError(f"x0 must hold at least one datum, got shape {x0.shape}.")
    time_key, noise_key = jax.random.split(key)
    t = sample_times(time_key, path, x0.shape[0], time_power).astype(x0.dtype)
    return path.sample(noise_key, t, x0)


def velocity_errors(velocity: Velocity, point: PathSample) -> Float[Array, " batch"]:
    """Squared error of the velocity at each point, a mean over its components.

    Raises:
        ValueError: If `velocity` returns another shape than that of the points.
    """
    predicted = velocity(point.t, point.x_t)
    shape = point.x_t.shape
    if predicted.shape != shape:
        raise ValueError(f"velocity must return shape {shape}, got {predicted.shape}.")
    return jnp.mean(jnp.square(predicted - point.velocity).reshape(shape[0], -1), axis=-1)


def flow_matching_errors(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    x0: Float[Array, "batch *event"],
    *,
    time_power: float = 1.0,
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """The times drawn for a batch and the squared errors there, of which the loss is the mean.

    Returns:
        Times and errors, one of each per datum; see `flow_matching_loss` for the arguments.
    """
    point = draw_points(path, key, x0, time_power)
    return point.t, velocity_errors(velocity, point)


def flow_matching_loss(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    x0: Float[Array, "batch *event"],
    *,
    weight: Callable[[Float[Array, " batch"]], Array] | None = None,
    time_power: float = 1.0,
) -> Float[Array, ""]:
    r"""The loss on one batch, a mean over data and components.

    The conditional velocity of a diffusion grows like $t^{-1/2}$, so that with uniform times and
    no weight its loss has a logarithmically infinite mean; a weight that falls to 0 with `t`, or
    gradient clipping, keeps training usable. The Kac velocity is bounded and needs neither.

    Args:
        velocity: The velocity to be judged.
        path: Path from data to noise.
        key: Random key, for times and noise.
        x0: Data.
        weight: Positive weight of each time; 1 if missing.
        time_power: Times are `T u**time_power` with uniform `u`; see `sample_times`.

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: If `velocity` returns another shape than that of `x0`, `weight` another than
            that of the times, or `x0` is empty or not floating.
    """
    t, errors = flow_matching_errors(velocity, path, key, x0, time_power=time_power)
    if weight is None:
        return jnp.mean(errors)
    weights = weight(t)
    if jnp.shape(weights) != t.shape:
        raise ValueError(f"weight must return shape {t.shape}, got {jnp.shape(weights)}.")
    return jnp.mean(weights * errors)
