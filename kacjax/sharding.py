"""How state and batches lie on several devices and hosts.

A mesh has two axes. Batches are split over both. Parameters, their average and the optimiser's
state are whole on every device along `data`, and split along `fsdp`: each device keeps a part, and
a step gathers the whole parameters where it uses them. One device along `fsdp` is plain data
parallelism. Random numbers are functions of key and position, whatever the devices.

Source: S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models*, SC 2020.
"""

import importlib.util
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
    """
    devices = jax.devices() if devices is None else list(devices)
    check_count("fsdp", fsdp)
    if len(devices) % fsdp:
        raise ValueError(f"fsdp must divide the number of devices, {len(devices)}; got {fsdp}.")
    if data is None:
        data = len(devices) // fsdp
    check_count("data", data)
    if data * fsdp != len(devices):
        raise ValueError(
            f"data * fsdp must be the number of devices, {len(devices)}; got {data} * {fsdp}."
        )
    return jax.make_mesh((data, fsdp), (DATA, FSDP), (AxisType.Auto,) * 2, devices=devices)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """How a batch lies: its first axis split over all devices."""
    return NamedSharding(mesh, PartitionSpec((DATA, FSDP)))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def state_sharding(state: Tree, mesh: Mesh) -> Tree:
    """How a state lies: a tree of shardings of the same structure.

    Each array is split over `fsdp` along the longest of its axes that divides; those that have
    none, or fewer than 4096 numbers, are whole on every device.

    Args:
        state: Pytree of arrays or of `jax.ShapeDtypeStruct`.
        mesh: The mesh.
    """
    parts = mesh.shape[FSDP]

    def place(leaf):
        axes = [i for i, length in enumerate(leaf.shape) if length % parts == 0]
        if parts == 1 or not axes or math.prod(leaf.shape) < SMALLEST_SPLIT:
            return replicated(mesh)
        longest = max(axes, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, FSDP))

    return jax.tree.map(place, state)


def shard_state(state: Tree, mesh: Mesh) -> Tree:
    """Moves a state to where `state_sharding` says; every process passes the same state."""
    return jax.tree.map(_place, state, state_sharding(state, mesh))


def replicate(tree: Tree, mesh: Mesh) -> Tree:
    """Copies host arrays to every device; every process passes the same."""
    return jax.tree.map(lambda leaf: _place(leaf, replicated(mesh)), tree)


def global_batch(batch: Tree, mesh: Mesh) -> Tree:
    """Joins the parts of a batch that the processes hold, spread over the mesh."""
    where = batch_sharding(mesh)
    return jax.tree.map(
        lambda part: jax.make_array_from_process_local_data(where, np.asarray(part)), batch
    )


def constrain_batch(batch: Tree, mesh: Mesh | None) -> Tree:
    """Within `jit`: lays a batch out as `batch_sharding` says, and with it what it is made from."""
    if mesh is None:
        return batch
    return jax.lax.with_sharding_constraint(batch, batch_sharding(mesh))


def constrain_state(state: Tree, mesh: Mesh | None) -> Tree:
    """Within `jit`: lays a state out as `state_sharding` says."""
    if mesh is None:
        return state
    return jax.lax.with_sharding_constraint(state, state_sharding(state, mesh))


def gather(parameters: Tree, mesh: Mesh | None) -> Tree:
    """Within `jit`: the whole parameters on every device."""
    if mesh is None or mesh.shape[FSDP] == 1:
        return parameters
    return jax.lax.with_sharding_constraint(parameters, replicated(mesh))


def check_batch_size(batch_size: int, mesh: Mesh | None, accumulate: int = 1) -> None:
    """Refuses a batch that does not divide over the devices and micro-batches.

    Raises:
        ValueError: With the nearest sizes that do.
    """
    devices = 1 if mesh is None else mesh.size
    unit = devices * accumulate
    if batch_size % unit == 0:
        return
    if accumulate == 1:
        what = "devices"
    elif devices == 1:
        what = "micro-batches"
    else:
        what = f"{devices} devices times {accumulate} micro-batches"
    below = batch_size // unit * unit
    nearest = f"are {below} and {below + unit}" if below else f"is {unit}"
    raise ValueError(
        f"batch_size must be a multiple of {unit} ({what}), got {batch_size}; the nearest {nearest}."
    )


def bytes_per_device(tree: Any) -> int:
    """The bytes that a pytree of arrays takes on the fullest device of this process."""
    totals: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        for shard in leaf.addressable_shards:
            totals[shard.device] = totals.get(shard.device, 0) + shard.data.nbytes
    return max(totals.values(), default=0)


def initialise_distributed(
    coordinator: str | None = None, processes: int | None = None, process_id: int | None = None
) -> bool:
    """Joins the processes of a run; to be called before anything else of JAX.

    Without arguments, processes that Slurm, Open MPI, Kubernetes or a TPU pod started are found by
    JAX itself, and a process that is alone is left alone. A second call does nothing.

    Args:
        coordinator: `HOST:PORT` at which process 0 listens.
        processes: Number of processes; 1 turns the search for others off.
        process_id: Number of this one, from 0.

    Returns:
        Whether this process is one of several.

    Raises:
        ValueError: If only some of the arguments are given, or `process_id` is out of range.
    """
    if not jax.distributed.is_initialized():
        given = (coordinator, processes, process_id)
        if processes is not None:
            check_count("processes", processes)
        if processes == 1:
            return False
        if any(value is not None for value in given):
            if coordinator is None or processes is None or process_id is None:
                raise ValueError(
                    "coordinator, processes and process_id go together, "
                    f"got {coordinator}, {processes} and {process_id}."
                )
            if not 0 <= process_id < processes:
                raise ValueError(f"process_id must lie in 0 to {processes - 1}, got {process_id}.")
            jax.distributed.initialize(coordinator, processes, process_id)
        elif _is_in_cluster(os.environ):
            jax.distributed.initialize()
    return jax.distributed.is_initialized() and jax.process_count() > 1


def _is_in_cluster(environment) -> bool:
    """Whether something that JAX knows has started several processes, or may have."""

    def more_than_one(name: str, *others: str) -> bool:
        return all(other in environment for other in others) and (int(environment.get(name, 1)) > 1)

    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
    if more_than_one("SLURM_NTASKS", *slurm):
        return True
    if more_than_one("OMPI_COMM_WORLD_SIZE", "OMPI_MCA_orte_hnp_uri"):
        return True
    if "KUBERNETES_SERVICE_HOST" in environment and "JOB_COMPLETION_INDEX" in environment:
        return importlib.util.find_spec("kubernetes") is not None
    # JAX sets TPU_SKIP_MDS_QUERY where there are no TPU chips. Where there are, only JAX can ask
    # whether the machine is one of a pod.
    if importlib.util.find_spec("libtpu") is None:
        return False
    hosts = (
        environment.get(name, "") for name in ("TPU_PROCESS_ADDRESSES", "TPU_WORKER_HOSTNAMES")
    )
    return "TPU_SKIP_MDS_QUERY" not in environment or any("," in names for names in hosts)


def _place(leaf: Any, where: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding.is_equivalent_to(where, leaf.ndim):
        return leaf
    if jax.process_count() == 1:
        return jax.device_put(leaf, where)
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda x: x, out_shardings=where)(leaf)
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(
            _place(jax.random.key_data(leaf), where), impl=jax.random.key_impl(leaf)
        )
    value = np.asarray(leaf)
    return jax.make_array_from_callback(value.shape, where, lambda index: value[index])
