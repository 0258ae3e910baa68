"""Draws the Kac process: paths, law with atoms, velocity beside diffusion's.

python -m experiments.process
python -m experiments.process --a 25 --c 2 --out runs/process-25
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

import kacjax
from experiments.checks import check_group
from experiments.command import UserError, command, start
from experiments.runs import write
from kacjax import plots

# Mean number of turns of a path that can be drawn.
_MOST_TURNS = 10_000


@dataclasses.dataclass(frozen=True)
class ProcessConfig:
    """Figures of the Kac process."""

    a: float = 9.0
    """Rate of jumps."""
    c: float = 3.0
    """Speed."""
    T: float = 1.0
    """Final time."""
    num_paths: int = 40
    """Paths to draw."""
    seed: int = 0
    """Seed of the paths."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/process")
    """Folder of the figures."""


def draw(config: ProcessConfig) -> None:
    """Writes the figures."""
    check_group(config)
    if config.a * config.T > _MOST_TURNS:
        raise UserError(
            f"--a times --T must be at most {_MOST_TURNS:,}, got {config.a * config.T:g}."
        )
    process, T = kacjax.KacProcess(a=config.a, c=config.c), config.T
    # Brownian motion of the same growth of variance at late times.
    brownian = kacjax.WienerProcess(sigma=config.c / config.a**0.5)
    times = jnp.linspace(0, T, 1001)
    positions = process.sample_path(jax.random.key(config.seed), times, (config.num_paths,))
    figures = {
        "paths.png": plots.paths_figure(process, times, positions),
        "density.png": plots.density_figure(process, (0.03 * T, 0.1 * T, 0.3 * T, T)),
        "velocity.png": plots.velocity_figure(process, brownian, 1e-5 * T, T),
    }
    for name, figure in figures.items():
        write(config.out / name, figure)
        print(config.out / name)


main = command(ProcessConfig, draw, "process", __doc__)

if __name__ == "__main__":
    start(main)
