"""How state and batches lie on several devices and hosts, on a mesh of two axes.

Batches are split over both. Parameters, their average and the optimizer's state are split along
`fsdp`, and gathered where a step uses them. Random numbers do not depend on the devices.

Source: S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models*, SC 2020.
"""

import logging
import math
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from kacjax._validation import check_count

DATA, FSDP = "data", "fsdp"
# Arrays of fewer numbers are not worth a message of their own to gather them.
SMALLEST_SPLIT = 4096

Tree = TypeVar("Tree")


def make_mesh(data: int | None = None, fsdp: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes `data` and `fsdp`.

    Args:
        data: Devices along `data`; all that `fsdp` leaves if missing.
        fsdp: Devices along `fsdp`, over which the state is split.
        devices: The devices; those of all processes if missing.

    Raises:
        ValueError: If the axes do not use up the devices.

    Example:
        >>> dict(kacjax.sharding.make_mesh(devices=jax.devices()[:1]).shape)
        {'data': 1, 'fsdp': 1}
    """
    devices = jax.devices() if devices is None else list(devices)
    number = f"the number of devices, {len(devices)}"
    check_count("fsdp", fsdp)
    if len(devices) % fsdp:
        raise ValueError(f"fsdp must divide {number}; got {fsdp}.")
    data = len(devices) // fsdp if data is None else data
    check_count("data", data)
    if data * fsdp != len(devices):
        raise ValueError(f"data * fsdp must be {number}; got {data} * {fsdp}.")
    return jax.make_mesh((data, fsdp), (DATA, FSDP), (AxisType.Auto,) * 2, devices=devices)


def with_automatic_axes(mesh: Mesh) -> Mesh:
    """The mesh, along whose axes the compiler places what is in between; a `ValueError` for no mesh."""
    if not isinstance(mesh, Mesh):
        raise ValueError(f"mesh must be a jax.sharding.Mesh, got {mesh!r:.80}.")
    return Mesh(mesh.devices, mesh.axis_names)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies: its first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(state: Tree, mesh: Mesh) -> Tree:
    """How a state of arrays or `jax.ShapeDtypeStruct` lies: a tree of shardings.

    Each is split over `fsdp`, if the mesh has such an axis, along the longest of its own axes that
    divides, but for small ones.
    """
    parts = mesh.shape.get(FSDP, 1)

    def sharding(leaf: Any) -> NamedSharding:
        axes = [i for i, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP))

    return jax.tree.map(sharding, state)


def shard_state(state: Tree, mesh: Mesh | None) -> Tree:
    """Moves a state to where `state_sharding` says; every process passes the same state."""
    return state if mesh is None else jax.tree.map(_put, state, state_sharding(state, mesh))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """Copies host arrays to every device; every process passes the same."""
    return tree if mesh is None else jax.tree.map(lambda x: _put(x, replicated(mesh)), tree)


def global_batch(batch: Tree, mesh: Mesh | None) -> Tree:
    """Joins the parts of a batch that the processes hold, spread over the mesh."""
    if mesh is None:
        return batch
    join, where = jax.make_array_from_process_local_data, batch_sharding(mesh)
    return jax.tree.map(lambda part: join(where, np.asarray(part)), batch)


def constrain(tree: Tree, mesh: Mesh | None, how: Any = batch_sharding) -> Tree:
    """Within `jit`: lays arrays out as `how(mesh)` says, a batch if missing."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, how(mesh))


def constrain_state(state: Tree, mesh: Mesh | None) -> Tree:
    """Within `jit`: lays a state out as `state_sharding` says."""
    return constrain(state, mesh, lambda mesh: state_sharding(state, mesh))


def check_batch_size(batch_size: int, mesh: Mesh | None, accumulate: int = 1) -> None:
    """Raises a `ValueError`, with the nearest sizes, unless devices and micro-batches divide it."""
    devices = 1 if mesh is None else mesh.size
    unit = devices * accumulate
    if batch_size % unit:
        what = f"{devices} devices times {accumulate} micro-batches"
        if 1 in (devices, accumulate):
            what = "devices" if accumulate == 1 else "micro-batches"
        below = batch_size // unit * unit
        nearest = f"are {below} and {below + unit}" if below else f"is {unit}"
        asked = f"batch_size must be a multiple of {unit} ({what})"
        raise ValueError(f"{asked}, got {batch_size}; the nearest {nearest}.")


def initialize_distributed(
    coordinator: str | None = None,
    processes: int | None = None,
    process_id: int | None = None,
    timeout: int = 300,
) -> bool:
    """Joins the processes of a run, before anything else of JAX; returns if there are several.

    Without arguments JAX looks for processes that Slurm, Open MPI, Kubernetes or a TPU pod started;
    where it finds none, or is already in use, this process is alone, as in a step of Slurm that has
    one task. A second call does nothing.

    Args:
        coordinator: `HOST:PORT` at which process 0 listens.
        processes: Number of processes; 1 turns the search for others off.
        process_id: Number of this one, from 0.
        timeout: Seconds to wait for the others, of which a line on standard error tells.

    Raises:
        ValueError: If only some of the arguments are given, or `process_id` is out of range.
        RuntimeError: If the others do not come in time.

    Example:
        >>> kacjax.sharding.initialize_distributed(processes=1)
        False
    """
    if processes is not None:
        check_count("processes", processes)
    if not jax.distributed.is_initialized() and processes != 1:
        if coordinator is None and processes is None and process_id is None:
            # JAX counts the tasks of the job, also where this step of it has one alone.
            if os.environ.get("SLURM_STEP_NUM_TASKS") == "1":
                return False
            _tell_of_waiting(timeout)
            try:
                jax.distributed.initialize(initialization_timeout=timeout)
            except (ValueError, RuntimeError) as error:
                if "DEADLINE_EXCEEDED" in str(error):
                    raise
                return False  # There are no others, or JAX runs already.
        elif coordinator is None or processes is None or process_id is None:
            given = f"{coordinator}, {processes} and {process_id}"
            raise ValueError(f"coordinator, processes and process_id go together, got {given}.")
        elif not 0 <= process_id < processes:
            raise ValueError(f"process_id must lie in 0 to {processes - 1}, got {process_id}.")
        else:
            jax.distributed.initialize(
                coordinator, processes, process_id, initialization_timeout=timeout
            )
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _tell_of_waiting(timeout: int) -> None:
    names = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
    several = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name, "1") != "1"]
    if several:
        logging.getLogger(__name__).warning(
            "waiting up to %d s for the other processes (%s)", timeout, ", ".join(several)
        )


def _put(leaf: Any, where: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
        return leaf
    if jax.process_count() == 1:
        return jax.device_put(leaf, where)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=where)(leaf)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(jax.random.key_data(leaf), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])
