"""How large and how rough a velocity is: its explosion near the data, measured."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike
from kacjax._validation import check_count
from kacjax.paths import ProbabilityPath

Field = Callable[[Array, Array], Array]
Values = Float[Array, " num"]


def velocity_norm(velocity: Field, t: Values, x: Array) -> tuple[Values, Values]:
    """The largest absolute component of `velocity(t, x)` and its Euclidean norm, for each point.

    Example:
        >>> t, x = jnp.ones(1), jnp.array([[3.0, -4.0]])
        >>> [size.item() for size in kacjax.diagnostics.velocity_norm(lambda t, x: 2 * x, t, x)]
        [8.0, 10.0]
    """
    v = velocity(t, x).reshape(x.shape[0], -1)
    return jnp.max(jnp.abs(v), axis=-1), jnp.linalg.norm(v, axis=-1)


def lipschitz_constant(
    velocity: Field, t: Values, x: Float[Array, "num *event"], *, iterations: int | None = None
) -> Values:
    r"""The local Lipschitz constant of a velocity in `x`: the largest singular value of its Jacobian.

    Power iteration from a random $u_0$ bounds it from below by $\|J u\|$, $u \propto (J^\top J)^{k - 1} u_0$,
    with an error like $(\sigma_2 / \sigma_1)^{4 (k - 1)}$.

    Args:
        velocity: Any differentiable `velocity(t, x)` that treats each sample by itself.
        t: Times.
        x: Points.
        iterations: The number $k$; by default the exact value up to 64 components, 30 beyond.

    Raises:
        ValueError: If `iterations` is below 1.

    Example:
        >>> field = lambda t, x: t[:, None] * x
        >>> kacjax.diagnostics.lipschitz_constant(field, jnp.array([5.0]), jnp.ones((1, 2)))
        Array([5.], dtype=float32)
    """
    num, dim = x.shape[0], int(np.prod(x.shape[1:]))
    if iterations is not None:
        check_count("iterations", iterations)
    _, forward = jax.linearize(lambda x: velocity(t, x), x)
    if iterations is None and dim <= 64:
        basis = jnp.eye(dim, dtype=x.dtype).reshape(dim, 1, *x.shape[1:])
        columns = jax.vmap(forward)(jnp.broadcast_to(basis, (dim, *x.shape)))
        jacobian = columns.reshape(dim, num, dim).transpose(1, 2, 0)
        return jnp.linalg.svd(jacobian, compute_uv=False)[:, 0]
    backward = jax.linear_transpose(forward, x)
    unit = jax.vmap(lambda u: u / jnp.maximum(jnp.linalg.vector_norm(u), jnp.finfo(x.dtype).tiny))
    start = unit(jax.random.normal(jax.random.key(0), x.shape, x.dtype))
    u = jax.lax.fori_loop(1, iterations or 30, lambda _, u: unit(backward(forward(u))[0]), start)
    return jax.vmap(jnp.linalg.vector_norm)(forward(u))


class FieldStatistics(NamedTuple):
    """Over points: the largest component, mean norm, largest and mean Lipschitz constant."""

    t: Values
    max_component: Values
    mean_norm: Values
    max_lipschitz: Values
    mean_lipschitz: Values


def field_statistics(
    velocity: Field, path: ProbabilityPath, trajectory: Array, times: ArrayLike
) -> FieldStatistics:
    """Size and roughness of a velocity along trajectories, one time after the other.

    Args:
        velocity: As in `lipschitz_constant`.
        path: The path: at `t = 0` the velocity is asked at `1e-8 path.T`.
        trajectory: Positions `(times, num, *event)`, as `kacjax.trajectory` returns them.
        times: The times, of shape `(times,)`.

    Raises:
        ValueError: If there are not as many times as positions.

    Example:
        >>> path, x, t = kacjax.kac_path(), jnp.ones((2, 5, 3)), jnp.array([1.0, 0.0])
        >>> kacjax.diagnostics.field_statistics(lambda t, x: x, path, x, t).max_lipschitz
        Array([1., 1.], dtype=float32)
    """
    times = jnp.asarray(times, trajectory.dtype)
    if times.shape != trajectory.shape[:1]:
        raise ValueError(f"times must have shape {trajectory.shape[:1]}, got {times.shape}.")
    earliest = 1e-8 * jnp.asarray(path.T, times.dtype)

    def measure(point):
        t = jnp.full(point[1].shape[:1], jnp.maximum(point[0], earliest), times.dtype)
        largest, norm = velocity_norm(velocity, t, point[1])
        lipschitz = lipschitz_constant(velocity, t, point[1])
        return jnp.max(largest), jnp.mean(norm), jnp.max(lipschitz), jnp.mean(lipschitz)

    return FieldStatistics(times, *jax.lax.map(measure, (times, trajectory)))
