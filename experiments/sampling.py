"""The network of a run, trained or loaded, and generation with it."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import kacjax
from experiments import runs
from experiments.command import UserError, user_errors
from experiments.config import SamplingConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.images.config import ImageConfig
from kacjax._typing import Key
from kacjax.export import path_to_dict
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


def draw(
    velocity: NetworkVelocity,
    key: Key,
    shape: tuple[int, ...],
    sampling: SamplingConfig,
    **options: Any,
) -> tuple[Float[np.ndarray, "num *event"], int]:
    """Samples, and how often the network was evaluated for each, at most.

    Args:
        velocity: The velocity.
        key: Random key.
        shape: Shape of the samples.
        sampling: The solver.
        **options: More of `kacjax.generate`.

    Raises:
        UserError: If the solver diverged.
    """
    samples, nfe = kacjax.generate(
        velocity,
        velocity.path,
        key,
        shape=shape,
        steps=sampling.solver_steps,
        solver=sampling.solver,
        grid=sampling.grid,
        return_nfe=True,
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
    samples, nfe = draw(velocity, key, shape, sampling)
    return dataset.finish(jnp.asarray(samples)), nfe


def draw_trajectory(
    velocity: NetworkVelocity, dim: int, key: Key, sampling: SamplingConfig, num: int
) -> Float[Array, "times num dim"]:
    """Paths of generation, at the times at which a fixed-step solver stops."""
    return kacjax.trajectory(
        velocity,
        velocity.path,
        key,
        shape=(num, dim),
        times=kacjax.time_grid(sampling.grid, float(velocity.path.T), sampling.solver_steps),
        steps=sampling.solver_steps,
        solver=sampling.solver,
        grid=sampling.grid,
    )
