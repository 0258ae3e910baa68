"""Draws the Kac process: its paths, its law with the atoms, its velocity beside diffusion's.

python -m experiments.process --a 9 --c 3 --T 1 --out runs/process
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import tyro

import kacjax
from experiments.checks import check_count, check_positive
from experiments.command import parse_flags, run, user_errors
from experiments.config import check_seed
from experiments.runs import write_figure
from kacjax import plots


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
    """Writes the figures.

    Raises:
        UserError: If a number does not make sense or the folder cannot be written.
    """
    with user_errors(ValueError):
        process = kacjax.KacProcess(a=config.a, c=config.c)
        check_positive("T", config.T)
        check_count("--num-paths", config.num_paths)
        check_seed(config.seed)
    T = config.T
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
        write_figure(config.out / name, figure)
        print(config.out / name)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        draw(
            parse_flags(
                ProcessConfig,
                argv,
                "python -m experiments.process",
                "Draws the Kac process: paths, law with atoms, velocity beside diffusion's.",
            )
        )

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
