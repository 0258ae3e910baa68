r"""How large and how rough a velocity is, at given points: the velocity explosion, measured.

Near the data a diffusion's velocity grows without bound, and so does its Jacobian; a Kac velocity
stays below $|f'| \, \|x_0\|_\infty + g' c$ in each component. Solvers and networks feel both: the size
of the velocity is what a network has to output, its Lipschitz constant limits a solver's step.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike
from kacjax._validation import check_count
from kacjax.losses import Velocity
from kacjax.paths import ProbabilityPath

# Up to this dimension the Jacobian is formed and decomposed.
_DENSE = 64
# Times are raised to this fraction of T: at 0 itself a velocity may be infinite.
_EARLIEST = 1e-8


def velocity_norm(
    velocity: Velocity, t: Float[Array, " batch"], x: Float[Array, "batch *event"]
) -> tuple[Float[Array, " batch"], Float[Array, " batch"]]:
    """The size of a velocity at points.

    Args:
        velocity: Any function `velocity(t, x)`.
        t: Times.
        x: Points.

    Returns:
        For each point the largest absolute component, and the Euclidean norm.
    """
    v = velocity(t, x).reshape(x.shape[0], -1)
    return jnp.max(jnp.abs(v), axis=-1), jnp.linalg.norm(v, axis=-1)


def lipschitz_constant(
    velocity: Velocity,
    t: Float[Array, " batch"],
    x: Float[Array, "batch *event"],
    *,
    iterations: int | None = None,
) -> Float[Array, " batch"]:
    r"""The local Lipschitz constant of a velocity in `x`: the largest singular value of its Jacobian.

    Up to 64 components the Jacobian is formed and decomposed. Beyond, power iteration with
    $J^\top J$ from a fixed random unit vector $u_0$ bounds it from below, by
    $\|J u\|$ with $u \propto (J^\top J)^{k - 1} u_0$. Of the $k$ iterations each takes a forward
    derivative and, but for the last, a backward one; the error falls like
    $(\sigma_2 / \sigma_1)^{4 (k - 1)}$.

    Args:
        velocity: Any differentiable function `velocity(t, x)`, in which each sample's velocity
            depends on that sample only.
        t: Times.
        x: Points.
        iterations: The number $k$; 1 gives $\|J u_0\|$. If missing, 30 beyond 64 components, and
            the exact value up to there.

    Returns:
        One value for each point.

    Raises:
        ValueError: If `iterations` is below 1.
    """
    batch, event = x.shape[0], x.shape[1:]
    dim = int(np.prod(event))
    if iterations is not None:
        check_count("iterations", iterations)
    _, forward = jax.linearize(lambda x: velocity(t, x), x)
    if iterations is None and dim <= _DENSE:
        basis = jnp.eye(dim, dtype=x.dtype).reshape(dim, 1, *event)
        basis = jnp.broadcast_to(basis, (dim, *x.shape))
        columns = jax.vmap(forward)(basis).reshape(dim, batch, dim)
        return jnp.linalg.svd(columns.swapaxes(0, 1), compute_uv=False)[:, 0]
    backward = jax.linear_transpose(forward, x)

    def size(u):
        return jnp.linalg.norm(u.reshape(batch, -1), axis=-1)

    def unit(u):
        length = jnp.maximum(size(u), jnp.finfo(x.dtype).tiny)
        return u / length.reshape(batch, *(1,) * len(event))

    start = unit(jax.random.normal(jax.random.key(0), x.shape, x.dtype))
    count = iterations or 30
    u = jax.lax.fori_loop(0, count - 1, lambda _, u: unit(backward(forward(u))[0]), start)
    return size(forward(u))


class FieldStatistics(NamedTuple):
    """Size and roughness of a velocity along trajectories, each of shape `(num_times,)`.

    Attributes:
        t: The times.
        max_component: Largest absolute component of the velocity over all points.
        mean_norm: Mean of its Euclidean norm.
        max_lipschitz: Largest local Lipschitz constant.
        mean_lipschitz: Mean of it.
    """

    t: Float[Array, " times"]
    max_component: Float[Array, " times"]
    mean_norm: Float[Array, " times"]
    max_lipschitz: Float[Array, " times"]
    mean_lipschitz: Float[Array, " times"]


def field_statistics(
    velocity: Velocity,
    path: ProbabilityPath,
    trajectory: Float[Array, "times num *event"],
    times: ArrayLike,
    *,
    iterations: int | None = None,
) -> FieldStatistics:
    """Size and roughness of a velocity along trajectories, one time after the other.

    Args:
        velocity: Any differentiable function `velocity(t, x)`.
        path: The path, for its `T`: at `t = 0` a velocity is asked at `1e-8 T`.
        trajectory: Positions at every time, as `trajectory` returns them.
        times: The times, of shape `(num_times,)`.
        iterations: As in `lipschitz_constant`.

    Raises:
        ValueError: If there are not as many times as positions.
    """
    times = jnp.asarray(times, trajectory.dtype)
    if times.shape != trajectory.shape[:1]:
        raise ValueError(
            f"times must hold one time for each position, {trajectory.shape[:1]}; got {times.shape}."
        )

    def measure(point):
        time, x = point
        earliest = _EARLIEST * jnp.asarray(path.T, x.dtype)
        t = jnp.full(x.shape[:1], jnp.maximum(time, earliest), x.dtype)
        largest, norm = velocity_norm(velocity, t, x)
        lipschitz = lipschitz_constant(velocity, t, x, iterations=iterations)
        return jnp.max(largest), jnp.mean(norm), jnp.max(lipschitz), jnp.mean(lipschitz)

    return FieldStatistics(times, *jax.lax.map(measure, (times, trajectory)))
