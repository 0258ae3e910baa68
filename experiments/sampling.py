"""The network of a run, trained or loaded, and generation with it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments import runs
from experiments.command import UserError, user_errors
from experiments.config import SamplingConfig, TrainConfig
from experiments.datasets import Dataset
from experiments.images.config import ImageConfig
from kacjax import Trainer, Velocity, sharding
from kacjax.training import default_optimizer
from kacjax.velocity import Guided


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
    return Trainer(make_model(config, dim), config.model.make(), **fit_options(config))


def fit_options(config: TrainConfig) -> dict[str, Any]:
    """The keywords of `kacjax.fit` and `kacjax.Trainer` for a run."""
    options = config.training
    return {
        "steps": options.steps,
        "batch_size": options.batch_size,
        "optimizer": default_optimizer(options.steps, options.learning_rate, options.warmup),
        "ema_decay": options.ema_decay,
        "time_power": options.time_power,
        "prediction": config.network.prediction,
    }


def save_velocity(folder: Path, velocity: Velocity, **notes: Any) -> None:
    """Writes a trained velocity into the folder of a run."""
    with user_errors(ValueError, OSError, saying="cannot write the network: "):
        kacjax.save_velocity(folder / runs.VELOCITY, velocity, notes)


def load_velocity(
    folder: Path, config: TrainConfig | ImageConfig, dim: int | None = None
) -> Velocity:
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
    # The file holds numbers as they were in training.
    paths = [jax.tree.map(np.float32, path) for path in (velocity.path, config.model.make())]
    fits = paths[0] == paths[1] and velocity.prediction == config.network.prediction
    if dim is not None and isinstance(config, TrainConfig):
        fits = fits and velocity.network.config == make_model(config, dim).config
    if not fits:
        raise UserError(f"{folder} is damaged: {runs.VELOCITY} is of another run.")
    return velocity


def local_mesh() -> Mesh | None:
    """This process's devices, over which samples are divided, where it has more than one."""
    devices = jax.local_devices()
    return sharding.make_mesh(devices=devices) if len(devices) > 1 else None


def draw(
    velocity: Velocity | Guided,
    key: Key,
    shape: tuple[int, ...],
    sampling: SamplingConfig,
    **options: Any,
) -> tuple[Float[np.ndarray, "num *event"], int]:
    """Samples, and how often the network was evaluated for each, at most.

    Args:
        velocity: The velocity, guided or not.
        key: Random key.
        shape: Shape of the samples.
        sampling: The solver.
        **options: More of `kacjax.generate`.

    Raises:
        UserError: If the solver diverged, or a label is none of the network's.
    """
    path = velocity.path
    assert path is not None  # Only of a guided function is it unknown.
    options = sampling.options() | {"mesh": local_mesh(), "return_nfe": True} | options
    with user_errors(ValueError):
        samples, nfe = kacjax.generate(velocity, path, key, shape, **options)
    if not np.all(np.isfinite(samples)):
        raise UserError(
            f"generation diverged with {sampling.solver} and {sampling.solver_steps} steps; "
            "use more steps or another solver."
        )
    return np.asarray(samples), int(np.max(nfe))


def draw_samples(
    velocity: Velocity, dataset: Dataset, key: Key, sampling: SamplingConfig
) -> tuple[Float[np.ndarray, "num dim"], int]:
    """Samples in the range of the data, and how often the network was evaluated for each.

    Raises:
        UserError: If the solver diverged.
    """
    shape = (sampling.num_samples, dataset.dim)
    samples, nfe = draw(velocity, key, shape, sampling)
    return dataset.finish(jnp.asarray(samples)), nfe


def draw_trajectory(
    velocity: Velocity | Guided,
    key: Key,
    shape: tuple[int, ...],
    sampling: SamplingConfig,
    labels: Int[Array, " num"] | None = None,
) -> tuple[Float[Array, "times num *event"], Float[np.ndarray, " times"]]:
    """Samples on their way, and the times, as many as a solver of fixed steps has stops.

    Args:
        velocity: The velocity, guided or not.
        key: Random key.
        shape: Shape of the samples.
        sampling: The solver.
        labels: Their classes.
    """
    path = velocity.path
    assert path is not None  # Only of a guided function is it unknown.
    u = np.linspace(1, 0, sampling.solver_steps + 1, dtype=np.float32)
    times = np.float32(path.T) * u**sampling.grid_power
    return kacjax.trajectory(
        velocity, path, key, shape, times, labels=labels, **sampling.options()
    ), times
