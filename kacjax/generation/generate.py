r"""Generation: the path's ordinary differential equation from noise to data.

The marginal velocity $v(t, x)$ moves the path's law, so that a solution of $\dot x = v(t, x)$ from
$x_T$, a draw of the prior, back to $t = 0$ is a draw of the data. Time runs down from `T` itself:
a substituted time `T - t` would lose the small `t` at which the data's detail appears. What the solver
sees is that equation in straight coordinates, unless it is told otherwise: see
`kacjax.generation.coordinates`.

Sample `i` starts from noise of its own key (`initial_noise`). With fixed steps, or with
`control="sample"`, nothing else but its label reaches it, so that a run is the same, up to rounding,
in one batch, in chunks and on several devices.
"""

from collections.abc import Iterator
from typing import Any, Literal, Unpack, overload

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array
from tqdm import tqdm

from kacjax._pytrees import as_arrays
from kacjax._typing import Key, Scalar, Shape
from kacjax._validation import check_count
from kacjax.generation.fields import LabelledVelocity, Labels, VelocityField, check_labels
from kacjax.generation.integration import integrate
from kacjax.generation.noise import draw_rows
from kacjax.generation.plans import Options, make_plan
from kacjax.paths import ProbabilityPath

Samples = Array | np.ndarray


class ManyOptions(Options, total=False):
    """The keywords of `generate` that do not change what it returns."""

    x0: Samples | None
    labels: Labels | None
    chunk_size: int | None
    mesh: Mesh | None
    progress: bool


@overload
def generate(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    return_nfe: Literal[False] = False,
    **options: Unpack[ManyOptions],
) -> Samples: ...
@overload
def generate(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    return_nfe: Literal[True],
    **options: Unpack[ManyOptions],
) -> tuple[Samples, Samples]: ...
def generate(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    solver: str = "ab2",
    coordinates: str | None = None,
    grid: str | None = None,
    power: Scalar | None = None,
    x0: Samples | None = None,
    labels: Labels | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    control: str | None = None,
    chunk_size: int | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    return_nfe: bool = False,
) -> Samples | tuple[Samples, Samples]:
    """Generates samples from the prior.

    Args:
        velocity: Any function `velocity(t, x)`, with `t` of shape `(batch,)`. If it is a pytree,
            as `fit` returns it, calls of one shape share one compilation whatever its parameters.
            With `labels`, `velocity(t, x, label)`.
        path: The path that the velocity was learned for.
        key: Random key, for the prior; sample `i` starts from noise of `fold_in(key, i)`.
        shape: Shape `(num, *event)` of the samples.
        steps: Steps of a fixed-step solver.
        solver: `ab2` or `euler` (one evaluation a step), `heun`, `midpoint` (two) or `rk4` (four),
            with fixed steps; `tsit5`, `dopri5` or `dopri8`, adaptive; see
            `kacjax.generation.solvers`.
        coordinates: In which the equation is solved: `straight`, see
            `kacjax.generation.coordinates`, or `time`. If missing they are straight, but where
            components have processes of their own.
        grid: Grid of a fixed-step solver, `power` or `uniform`, see `time_grid`, in time or, in
            straight coordinates, in the place; if missing, the best one measured for the path,
            `default_grid(path, coordinates)`.
        power: Exponent of the grid, if another than the name's.
        x0: Data of that shape, where the path's signal does not vanish at `T`.
        labels: Class labels of shape `(num,)`; see `guided` for guidance.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of an adaptive solver.
        control: How an adaptive solver chooses its steps: `joint`, for the batch, by the
            root-mean-square error over all of it; or `sample`, for each on its own, where every
            evaluation is of the whole batch until the last sample is through. Joint steps make
            samples depend on their batch, so `sample` is the default with chunks or a mesh.
        chunk_size: Samples that are generated together. The result is then a NumPy array, filled
            chunk by chunk: the device holds one chunk however many samples there are.
        mesh: Devices over which samples are divided, along all axes of the mesh.
        progress: Whether to show a bar, one step a chunk.
        return_nfe: Whether to return the number of evaluations too.

    Returns:
        Samples, or `(samples, nfe)` with the number of function evaluations per sample: a
        scalar, or an array of shape `(num,)` where an adaptive solver gives samples different
        numbers, that is with chunks or `control="sample"`.

    Raises:
        ValueError: If a name is unknown, a count below 1, the prior needs data, an argument's
            shape is wrong, labels are not among the classes, or `chunk_size` is used under a
            transformation such as `jit`.
    """
    num = shape[0]
    if control is None:
        control = "joint" if chunk_size is None and mesh is None else "sample"
    plan = make_plan(
        path,
        steps,
        solver=solver,
        coordinates=coordinates,
        grid=grid,
        power=power,
        rtol=rtol,
        atol=atol,
        control=control,
    )
    labels = check_labels(labels, num, velocity)
    run = _Run(velocity, path, key, tuple(shape), plan, x0, labels, mesh)
    if chunk_size is None:
        x, nfe = run.chunk(0, num)
        return (x, nfe) if return_nfe else x
    samples: np.ndarray | None = None
    counts = np.zeros(num, np.int32)
    for first, x, nfe in run.chunks(chunk_size, progress):
        if samples is None:
            samples = np.empty(shape, x.dtype)
        samples[first : first + len(x)] = x
        counts[first : first + len(x)] = nfe
    assert samples is not None  # There is at least one sample.
    if not return_nfe:
        return samples
    return samples, counts if plan.adaptive else np.asarray(counts[0])


def generate_chunks(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    chunk_size: int,
    x0: Samples | None = None,
    labels: Labels | None = None,
    mesh: Mesh | None = None,
    progress: bool = False,
    **options: Unpack[Options],
) -> Iterator[np.ndarray]:
    """The samples of `generate` chunk by chunk, for what does not fit into memory.

    Args:
        velocity: As in `generate`, like all arguments.
        path: The path.
        key: Random key.
        shape: Shape `(num, *event)` of all samples together.
        steps: Steps of a fixed-step solver.
        chunk_size: Samples in a chunk; the last one may have fewer.
        x0: Data, where the prior needs them.
        labels: Class labels.
        mesh: Devices.
        progress: Whether to show a bar.
        options: The solver; `control` is `sample` where it is missing or None.

    Yields:
        NumPy arrays `(chunk, *event)`; joined they are what `generate` returns with the same
        arguments, `chunk_size` among them.

    Raises:
        ValueError: As `generate`.
    """
    plan = make_plan(path, steps, **{**options, "control": options.get("control") or "sample"})
    labels = check_labels(labels, shape[0], velocity)
    run = _Run(velocity, path, key, tuple(shape), plan, x0, labels, mesh)
    return (x for _, x, _ in run.chunks(chunk_size, progress))


class _Run:
    """One generation of `shape[0]` samples, of which any rows may be made."""

    def __init__(self, velocity, path, key, shape, plan, x0, labels, mesh):
        check_count("shape[0]", shape[0])
        if x0 is not None and x0.shape != shape:
            raise ValueError(f"x0 must have the shape {shape}, got {x0.shape}.")
        self.rows_sharding = None
        if mesh is not None:
            # The compiler places what lies between; a mesh may ask for explicit placement.
            automatic = (AxisType.Auto,) * len(mesh.axis_names)
            mesh = Mesh(mesh.devices, mesh.axis_names, axis_types=automatic)
            everywhere = NamedSharding(mesh, PartitionSpec())
            self.rows_sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
            velocity, path, key, plan = _put((velocity, path, key, plan), everywhere)
        self.multiple = 1 if mesh is None else mesh.size
        self.field, self.path, self.key, self.plan = (
            VelocityField(velocity),
            as_arrays(path),
            key,
            plan,
        )
        self.shape, self.x0, self.labels = shape, x0, labels

    def chunk(self, first: int, size: int) -> tuple[Array, Array]:
        """Samples `first` to `first + size`, those past the last left out, and their counts."""
        num = self.shape[0]
        padded = -(-size // self.multiple) * self.multiple
        rows = np.arange(first, first + padded)
        # Samples past the last one fill up a chunk of one shape, with the data of others.
        given = [None if part is None else part[rows % num] for part in (self.x0, self.labels)]
        rows, x0, labels = (jnp.asarray(rows), *given)
        if self.rows_sharding is not None:
            rows, x0, labels = _put((rows, x0, labels), self.rows_sharding)
        x_T = draw_rows(self.path, self.key, rows, self.shape[1:], x0)
        if self.rows_sharding is not None:
            x_T = jax.device_put(x_T, self.rows_sharding)
        x, nfe = integrate(self.field, self.plan, x_T, labels)
        kept = min(size, num - first)
        x = x[:kept] if kept < padded else x
        if self.rows_sharding is not None and kept == padded:
            x = jax.device_put(x, self.rows_sharding)
        return x, nfe[:kept] if nfe.ndim else nfe

    def chunks(self, size: int, progress: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The first row, samples and counts of every chunk, on the host."""
        check_count("chunk_size", size)
        _refuse_traced(size, (self.field, self.path, self.key, self.plan, self.x0, self.labels))
        return self._chunks(size, progress)

    def _chunks(self, size: int, progress: bool) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """What `chunks` returns once its arguments are checked: a generator checks nothing."""
        num, full = self.shape[0], min(size, self.shape[0])
        for first in tqdm(range(0, num, full), desc="generate", disable=not progress):
            x, nfe = self.chunk(first, full)
            # A velocity may be a function that holds traced values, unseen until now.
            _refuse_traced(size, x)
            yield first, np.asarray(x), np.asarray(nfe)


def _put(tree: Any, sharding: NamedSharding) -> Any:
    """Places the arrays of a pytree, whatever else it holds."""
    arrays, rest = eqx.partition(tree, lambda leaf: isinstance(leaf, jax.Array | np.ndarray))
    return eqx.combine(jax.device_put(arrays, sharding), rest)


def _refuse_traced(chunk_size: int, tree: Any) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        raise ValueError(
            f"chunk_size must be None under jit, vmap and grad, got {chunk_size}: chunks are "
            "gathered in the host's memory."
        )
