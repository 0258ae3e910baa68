"""A trained velocity of a run, and generation with it."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments import runs
from experiments.command import UserError, available_memory, user_errors
from experiments.config import SamplingConfig, TrainingConfig
from kacjax import Velocity, few_step, sharding
from kacjax.diagnostics import field_statistics

# Images that are generated together, unless flags say otherwise.
_CHUNK = 256


def save_velocity(folder: Path, velocity: Velocity, **notes: Any) -> None:
    """Writes a trained velocity into the folder of a run."""
    with user_errors(ValueError, OSError, saying="cannot write the network: "):
        kacjax.save_velocity(folder / runs.VELOCITY, velocity, notes)


def event_of(velocity: Velocity) -> tuple[int, ...]:
    """The shape of what the network of a run takes."""
    about = velocity.network.config
    return tuple(about["shape"]) if "shape" in about else (about["dim"],)


def as_drawn(
    velocity: Velocity, sampling: SamplingConfig, own: Mapping[str, Any]
) -> tuple[Any, SamplingConfig]:
    """A velocity, a flow map by its steps, and how to draw from it; `own` says so of a student."""
    if not getattr(velocity.network, "config", {}).get("second_time"):
        return velocity, sampling.filled(**own)
    way = sampling.filled(solver="euler", solver_steps=4)
    way.check_for(TrainingConfig(objective="lsd"))
    steps = way.solver_steps, way.grid_power
    return few_step.stepwise(velocity, velocity.path, *steps), way


def check_samples(num: int, event: Sequence[int]) -> None:
    """Refuses so many samples that they, and what they are made of, cannot fit into memory."""
    size, memory = 4 * 3 * num * int(np.prod(event)), available_memory()
    if size > memory:
        raise UserError(
            f"--num-samples {num:,} of shape {tuple(event)} take {size / 2**30:,.0f} GiB with their "
            f"noise, and there are {memory / 2**30:.0f}: lower it."
        )


def chunk_size(asked: int | None, num: int, event: Sequence[int]) -> int | None:
    """Samples to generate together: all where there is no number."""
    return asked or (min(num, _CHUNK) if len(event) > 1 else None)


def draw(
    velocity: Any,
    key: Key,
    num: int,
    event: tuple[int, ...],
    sampling: SamplingConfig,
    labels: Int[Array, " num"] | None = None,
    progress: bool = False,
) -> tuple[Float[np.ndarray, "num *event"], int]:
    """Samples, and how often the network was evaluated for each, at most.

    With `progress`, there is a bar on a terminal where they come in chunks.
    """
    check_samples(num, event)
    chunk, devices = chunk_size(sampling.chunk_size, num, event), jax.local_devices()
    with user_errors(ValueError):
        samples, nfe = kacjax.generate(
            velocity,
            velocity.path,
            key,
            (num, *event),
            labels=labels,
            chunk_size=chunk,
            mesh=sharding.make_mesh(devices=devices) if len(devices) > 1 else None,
            return_nfe=True,
            progress=progress and sys.stderr.isatty() and chunk is not None and num > chunk,
            **sampling.options(),
        )
    if not np.all(np.isfinite(samples)):
        numbers = jax.tree.leaves(eqx.filter(velocity, eqx.is_inexact_array))
        if not all(np.all(np.isfinite(each)) for each in numbers):
            raise UserError("the network holds numbers that are not finite: it cannot generate.")
        raise UserError(
            f"generation diverged with {sampling.solver} and {sampling.solver_steps} steps; "
            "use more steps or another solver."
        )
    return np.asarray(samples), int(np.max(nfe))


def draw_trajectory(
    velocity: Any,
    key: Key,
    num: int,
    event: tuple[int, ...],
    sampling: SamplingConfig,
    labels: Int[Array, " num"] | None = None,
) -> tuple[Float[Array, "times num *event"], Float[np.ndarray, " times"]]:
    """Samples on their way, and the times, as many as a solver of fixed steps stops at."""
    u = np.linspace(1, 0, sampling.solver_steps + 1, dtype=np.float32)
    times = np.float32(velocity.path.T) * u**sampling.grid_power
    arguments = velocity, velocity.path, key, (num, *event), times
    return kacjax.trajectory(*arguments, labels=labels, **sampling.options()), times


def measure_field(
    velocity: Any, path: kacjax.ProbabilityPath, points: Any, times: Any
) -> dict[str, list[float]]:
    """Size and steepness of a velocity at points of each time, see `kacjax.diagnostics`."""
    found = _field_statistics(velocity, path, points, times)
    return {name: np.asarray(values).tolist() for name, values in found._asdict().items()}


_field_statistics = eqx.filter_jit(field_statistics)


def in_turn(classes: Sequence[int], num: int) -> Int[Array, " num"] | None:
    """A label for each of `num` samples: the classes in turn; none if there are no classes."""
    if not classes:
        return None
    return jnp.asarray(classes, jnp.int32)[jnp.arange(num) % len(classes)]
