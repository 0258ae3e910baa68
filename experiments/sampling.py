"""The network of a run, trained or loaded, and generation with it."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

import kacjax
from experiments import runs
from experiments.command import UserError, user_errors
from experiments.config import SamplingConfig, TrainConfig
from experiments.datasets import Dataset
from kacjax._typing import Key
from kacjax.checkpoints import load_checkpoint, load_description, save_checkpoint
from kacjax.training import NetworkVelocity


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


def save_velocity(folder: Path, velocity: NetworkVelocity) -> None:
    """Writes the parameters of a trained velocity; the run's configuration has the rest."""
    arrays = _filled(velocity.parameters)
    with user_errors(ValueError, OSError):
        save_checkpoint(folder / runs.CHECKPOINT, arrays, {"shapes": _shapes(arrays)})


def load_velocity(folder: Path, config: TrainConfig, dim: int) -> NetworkVelocity:
    """The trained velocity of a run.

    Raises:
        UserError: If its checkpoint is missing or damaged, or does not fit the configuration.
    """
    graphdef, parameters = nnx.split(make_model(config, dim))
    arrays = _filled(parameters)
    with user_errors(ValueError):
        # Asked first: Orbax reports another shape from many threads at once.
        if load_description(folder / runs.CHECKPOINT).get("shapes") != _shapes(arrays):
            raise UserError(f"{folder} is damaged: its checkpoint is of another network.")
        loaded = iter(load_checkpoint(folder / runs.CHECKPOINT, arrays))
    parameters = jax.tree.map(lambda leaf: next(loaded) if leaf.size else leaf, parameters)
    path = config.model.make()
    return NetworkVelocity(parameters, path, graphdef, config.network.parameterisation)


def _filled(parameters: Any) -> list[Array]:
    """The arrays that hold something: Orbax refuses an empty one, such as no Fourier features."""
    return [leaf for leaf in jax.tree.leaves(parameters) if leaf.size]


def _shapes(arrays: list[Array]) -> list[list[int]]:
    return [list(array.shape) for array in arrays]


def draw_samples(
    velocity: NetworkVelocity, dataset: Dataset, key: Key, sampling: SamplingConfig
) -> tuple[Float[np.ndarray, "num dim"], int]:
    """Samples in the range of the data, and how often the network was evaluated for each.

    Raises:
        UserError: If the solver diverged.
    """
    samples, nfe = kacjax.generate(
        velocity,
        velocity.path,
        key,
        shape=(sampling.num_samples, dataset.dim),
        steps=sampling.solver_steps,
        solver=sampling.solver,
        grid=sampling.grid,
        return_nfe=True,
    )
    if not np.all(np.isfinite(samples)):
        raise UserError(
            f"generation diverged with {sampling.solver} and {sampling.solver_steps} steps; "
            "use more steps or another solver."
        )
    return dataset.finish(samples), int(nfe)


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
