"""The network of a run, trained or loaded, and generation with it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

import kacjax
from experiments import runs
from experiments.command import UserError, user_errors
from experiments.config import SamplingConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.images.config import ImageConfig
from kacjax import sharding
from kacjax._typing import Key
from kacjax.export import path_to_dict
from kacjax.generation.fields import LabelledVelocity
from kacjax.generation.grids import default_grid
from kacjax.training import NetworkVelocity, Trainer


def make_model(config: TrainConfig, dim: int) -> kacjax.models.MLP:
    """The untrained network of a run."""
    return kacjax.models.MLP(
        dim,
        rngs=nnx.Rngs(config.training.seed),
        width=config.network.width,
        depth=config.network.depth,
        fourier=config.network.fourier,
        T=float(config.model.make().T),
    )


def make_trainer(config: TrainConfig, dim: int) -> Trainer:
    """The trainer of a run, as `train` has it."""
    options = config.training
    return Trainer(
        make_model(config, dim),
        config.model.make(),
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        warmup=options.warmup,
        ema_decay=options.ema_decay,
        time_power=options.time_power,
        parameterisation=config.network.parameterisation,
    )


def save_velocity(folder: Path, velocity: NetworkVelocity, **notes: Any) -> None:
    """Writes a trained velocity into the folder of a run."""
    with user_errors(ValueError, OSError, saying="cannot write the network: "):
        kacjax.save_velocity(folder / runs.VELOCITY, velocity, notes)


def load_velocity(
    folder: Path, config: TrainConfig | ImageConfig, dim: int | None = None
) -> NetworkVelocity:
    """The trained velocity of a run.

    Args:
        folder: The run, or another folder that `save_velocity` filled.
        config: Its configuration.
        dim: Dimension of the data, where the network is one for vectors.

    Raises:
        UserError: If its file is missing or damaged, or does not fit the configuration.
    """
    with user_errors(ValueError, OSError):
        velocity = kacjax.load_velocity(folder / runs.VELOCITY)
    fits = (
        path_to_dict(velocity.path) == path_to_dict(config.model.make())
        and velocity.parameterisation == config.network.parameterisation
    )
    if dim is not None and isinstance(config, TrainConfig):
        fits = fits and network(velocity).config == make_model(config, dim).config
    if not fits:
        raise UserError(f"{folder} is damaged: {runs.VELOCITY} is of another run.")
    return velocity


def network(velocity: NetworkVelocity) -> Any:
    """The network of a velocity, with its `config`."""
    return nnx.merge(velocity.graphdef, velocity.parameters)


def local_mesh() -> Mesh | None:
    """This process's devices, over which samples are divided, where it has more than one."""
    devices = jax.local_devices()
    return sharding.make_mesh(devices=devices) if len(devices) > 1 else None


def draw(
    velocity: LabelledVelocity,
    path: kacjax.ProbabilityPath,
    key: Key,
    shape: tuple[int, ...],
    sampling: SamplingConfig,
    **options: Any,
) -> tuple[Float[np.ndarray, "num *event"], int]:
    """Samples, and how often the network was evaluated for each, at most.

    Args:
        velocity: The velocity, guided or not.
        path: Its path.
        key: Random key.
        shape: Shape of the samples.
        sampling: The solver.
        **options: More of `kacjax.generate`.

    Raises:
        UserError: If the solver diverged.
    """
    samples, nfe = kacjax.generate(
        velocity,
        path,
        key,
        shape=shape,
        mesh=local_mesh(),
        return_nfe=True,
        **sampling.options(),
        **options,
    )
    if not np.all(np.isfinite(samples)):
        raise UserError(
            f"generation diverged with {sampling.solver} and {sampling.solver_steps} steps; "
            "use more steps or another solver."
        )
    return np.asarray(samples), int(np.max(nfe))


def draw_samples(
    velocity: NetworkVelocity, dataset: Dataset, key: Key, sampling: SamplingConfig
) -> tuple[Float[np.ndarray, "num dim"], int]:
    """Samples in the range of the data, and how often the network was evaluated for each.

    Raises:
        UserError: If the solver diverged.
    """
    shape = (sampling.num_samples, dataset.dim)
    samples, nfe = draw(velocity, velocity.path, key, shape, sampling)
    return dataset.finish(jnp.asarray(samples)), nfe


def draw_trajectory(
    velocity: LabelledVelocity,
    path: kacjax.ProbabilityPath,
    key: Key,
    shape: tuple[int, ...],
    sampling: SamplingConfig,
    labels: Int[Array, " num"] | None = None,
    control: str = "joint",
) -> tuple[Float[Array, "times num *event"], Float[Array, " times"]]:
    """Samples on their way, and the times, as many as a solver of fixed steps has stops.

    Args:
        velocity: The velocity, guided or not.
        path: Its path.
        key: Random key.
        shape: Shape of the samples.
        sampling: The solver.
        labels: Their classes.
        control: How an adaptive solver chooses its steps, as `kacjax.generate` has it.
    """
    grid, power = (sampling.grid, None) if sampling.grid != "path" else default_grid(path)
    times = kacjax.time_grid(grid, float(path.T), sampling.solver_steps, power)
    return kacjax.trajectory(
        velocity,
        path,
        key,
        shape=shape,
        times=times,
        labels=labels,
        control=control,
        **sampling.options(),
    ), times
