"""Generation: the path's ordinary differential equation from noise to data.

Sample `i` starts from noise of its own key. With fixed steps, or with `per_sample_steps`, nothing
else but its label reaches it: a run is the same, up to rounding, in one batch, in chunks and on
several devices.
"""

import copy
from typing import Any, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float
from tqdm import tqdm

from kacjax._typing import Key, Scalar, Shape, Vector
from kacjax._validation import as_arrays, check_count, check_labels, check_path
from kacjax.generation.solve import Options, Velocity, integrate, point_slope, solve
from kacjax.generation.solvers import make_solver
from kacjax.paths import ProbabilityPath
from kacjax.processes.base import check_draw
from kacjax.sharding import with_automatic_axes

Samples = Array | np.ndarray


def initial_noise(
    path: ProbabilityPath, key: Key, shape: Shape, x0: Samples | None = None
) -> Float[Array, "num *event"]:
    """The draws of the prior from which `generate` starts, given the same key and shape.

    Sample `i` has the key `fold_in(key, i)`: the first ones of a longer run are those of a shorter.

    Args:
        path: The path.
        key: Random key.
        shape: Shape `(num, *event)`.
        x0: Data of that shape, where the path's signal does not vanish at `T`.

    Raises:
        ValueError: If the shape is none of samples, or as `ProbabilityPath.sample_prior`.

    Example:
        >>> kacjax.initial_noise(kacjax.kac_path(), jax.random.key(0), (2, 3)).shape
        (2, 3)
    """
    shape, x0 = _check_draw(key, shape, x0)
    return _draw(_decided(path), key, jnp.arange(shape[0]), shape[1:], x0)


def _decided(path: ProbabilityPath) -> ProbabilityPath:
    """The path with traceable numbers, which says all the same whether its prior is noise alone."""
    traceable = as_arrays(path)
    if path.prior_is_noise and not path.approximate_prior:
        traceable = copy.copy(traceable)
        object.__setattr__(traceable, "approximate_prior", True)
    return traceable


@eqx.filter_jit
def _draw(path, key, rows, event, x0):
    def one(row, x0):
        return path.sample_prior(jax.random.fold_in(key, row), (1, *event), x0)

    return jax.vmap(one)(rows, None if x0 is None else x0[:, None])[:, 0]


def generate(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int | Vector = 50,
    *,
    solver: str | diffrax.AbstractSolver[Any] = "ab2",
    coordinates: str | None = None,
    grid_power: Scalar = 2.0,
    rtol: Scalar | None = None,
    atol: Scalar | None = None,
    per_sample_steps: bool | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    x0: Samples | None = None,
    labels: Any = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    return_nfe: bool = False,
) -> Any:
    r"""Generates samples from the prior.

    Args:
        velocity: As in `solve`. If it is a pytree, as `fit` returns it, calls of one shape compile
            once, whatever its parameters and those of the path.
        path: The path that the velocity was learned for.
        key: Random key, for the prior, see `initial_noise`.
        shape: Shape `(num, *event)` of the samples.
        steps: Number of fixed steps, or their times, from `T` down to 0.
        solver: `ab2` or `euler` (one evaluation a step), `heun`, `midpoint` (two) or `rk4` (four),
            with fixed steps; `tsit5`, `dopri5` or `dopri8`, adaptive; or any Diffrax solver, which
            takes fixed steps unless there is a tolerance or it is implicit.
        coordinates: `straight`, or `time`, the default where components differ in their process.
        grid_power: Exponent $p$ of fixed steps, which end at $\rho(T) (1 - k / n)^p$; in time likewise.
        rtol: Relative tolerance of adaptive steps; 1e-3 if only `atol` is given.
        atol: Absolute tolerance of adaptive steps; 1e-3 if only `rtol` is given.
        per_sample_steps: Whether adaptive steps are chosen for each sample, as by default with chunks
            or a mesh, or for the batch, on which samples then depend.
        adjoint: How Diffrax differentiates the solution: `diffrax.RecursiveCheckpointAdjoint()`, the
            default, or `diffrax.DirectAdjoint()` in reverse mode, `diffrax.ForwardMode()` for `jax.jvp`.
        x0: Data of that shape, where the path's signal does not vanish at `T`.
        labels: Class labels of shape `(num,)`, or conditions, as in `fit`; see `guided` for guidance.
        chunk_size: Samples that the device holds at a time; the result is then a NumPy array.
        mesh: Devices over which samples are divided, along all axes of the mesh.
        progress: Whether to show a bar, one step a chunk.
        return_nfe: Whether to return the number of evaluations too.

    Returns:
        Samples, or `(samples, nfe)` with the number of function evaluations per sample: a scalar,
        or an array of shape `(num,)` where samples may differ in it.

    Raises:
        ValueError: If an argument is out of range, the prior needs data, the velocity has another
            path, a tolerance is not reached (under `jit`, `vmap` or `grad` samples are NaN instead), or
            `chunk_size` is used there.

    Example:
        >>> path = kacjax.kac_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> x = kacjax.generate(velocity, path, jax.random.key(0), (5, 2), steps=20)
        >>> bool(jnp.allclose(jnp.abs(x[:, 0]), 1, atol=1e-2))
        True
    """
    check_path(velocity, path)
    shape, x0 = _check_draw(key, shape, x0)
    num, devices, split = shape[0], 1, None
    labels = check_labels(labels, num, getattr(velocity, "classes", None))
    if per_sample_steps is None:
        per_sample_steps = chunk_size is not None or mesh is not None
    options: Any = {"solver": solver, "coordinates": coordinates, "grid_power": grid_power}
    options |= {"rtol": rtol, "atol": atol, "per_sample_steps": per_sample_steps}
    options |= {} if adjoint is None else {"adjoint": adjoint}
    if mesh is not None:
        mesh = with_automatic_axes(mesh)
        split, devices = NamedSharding(mesh, PartitionSpec(mesh.axis_names)), mesh.size
        velocity, path, key = _put((velocity, path, key), NamedSharding(mesh, PartitionSpec()))

    def chunk(first: int, size: int) -> tuple[Any, Any]:
        # Samples past the last one, with the data of others, fill up what is divided.
        rows, known = jnp.arange(num), (x0, labels)
        if size < num or num % devices:
            rows = np.arange(first, first + -(-size // devices) * devices)
            known = jax.tree.map(lambda part: part[rows % num], known)
        index, data, label = _put((jnp.asarray(rows), *known), split)
        noise = _put(_draw(_decided(path), key, index, shape[1:], data), split)
        field, times = eqx.Partial(point_slope, velocity), (path.T, 0.0, steps)
        (x,), nfe = integrate(field, path, (noise,), label, times, options, None, return_nfe)
        kept = min(size, num - first)
        return _put(x, split)[:kept], nfe[:kept] if nfe.ndim else nfe

    if chunk_size is None:
        x, nfe = chunk(0, num)
        return (x, nfe) if return_nfe else x
    check_count("chunk_size", chunk_size)
    samples: Any = None
    counts: list[Any] = []
    size = min(chunk_size, num)
    for first in tqdm(range(0, num, size), desc="generate", disable=not progress):
        x, nfe = chunk(first, size)
        if isinstance(x, Tracer):
            raise ValueError(f"chunk_size must be None under jit, vmap, grad; got {chunk_size}.")
        samples = np.empty(shape, x.dtype) if samples is None else samples
        samples[first : first + len(x)] = x
        counts.append(np.broadcast_to(nfe, len(x)))
    nfe = np.concatenate(counts) if make_solver(solver, rtol, atol)[1] else counts[0][0]
    return (samples, nfe) if return_nfe else samples


def trajectory(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    times: Vector,
    steps: int | Vector = 50,
    *,
    x0: Samples | None = None,
    labels: Any = None,
    **options: Unpack[Options],
) -> Float[Array, "times num *event"]:
    """Generates the samples of `generate` and keeps them on their way, at the times given.

    Args:
        velocity: As in `generate`.
        path: The path.
        key: Random key.
        shape: Shape `(num, *event)` of the samples.
        times: Falling times in `[0, T]`; points between the solver's steps are interpolated.
        steps: Number of fixed steps, or their times.
        x0: Data, where the prior needs them.
        labels: Class labels.
        **options: `solver`, `coordinates`, `grid_power`, `rtol`, `atol`, `per_sample_steps`, `adjoint`.

    Returns:
        Points of shape `(num_times, *shape)`.

    Raises:
        ValueError: As `generate`, or if `times` do not fall or leave `[0, T]`.

    Example:
        >>> path = kacjax.kac_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)))
        >>> kacjax.trajectory(velocity, path, jax.random.key(0), (5, 2), [1.0, 0.5, 0.0]).shape
        (3, 5, 2)
    """
    noise = initial_noise(path, key, shape, x0)
    return solve(velocity, path, noise, path.T, 0.0, steps, labels=labels, saved=times, **options)


def _check_draw(key: Key, shape: Shape, x0: Any) -> tuple[Shape, Samples | None]:
    """The shape and the data of samples; data stay on the host if they were there."""
    check_draw(key, shape)
    if not shape or not all(shape):
        raise ValueError(f"shape must be (num, *event), of sizes of at least 1, got {shape}.")
    sizes: Any = tuple(n if jax.export.is_symbolic_dim(n) else int(n) for n in shape)
    shape, x0 = sizes, x0 if x0 is None or isinstance(x0, jax.Array) else np.asarray(x0)
    if x0 is not None and (x0.shape != shape or not jnp.issubdtype(x0.dtype, jnp.floating)):
        raise ValueError(f"x0 must hold floats of shape {shape}, got {x0.dtype} of {x0.shape}.")
    return shape, x0


def _put(tree: Any, sharding: NamedSharding | None) -> Any:
    """Places the arrays of a pytree, whatever else it holds."""
    if sharding is None:
        return tree
    arrays, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
    return eqx.combine(jax.device_put(arrays, sharding), rest)
