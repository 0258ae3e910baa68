"""Generates samples from a run: points as floats, images as bytes.

python -m experiments.generate --run runs/grid2d-kac --num 1000 --steps 50 --out samples.npy
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import tyro

from experiments import report, runs
from experiments.command import UserError, parse_flags, run, user_errors
from experiments.config import Grid, SamplingConfig, Solver, check_seed
from experiments.datasets import make_dataset
from experiments.images.config import ImageConfig
from experiments.images.sampling import draw_images
from experiments.sampling import draw_samples, load_velocity
from kacjax._validation import check_count


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Samples from a finished run."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the run."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npy")]
    """File for the samples; replaced if it exists."""
    num: int = 1000
    """Samples to generate."""
    steps: int = 50
    """Solver steps; one evaluation each with euler."""
    solver: Solver = "euler"
    """Solver of the ODE."""
    grid: Grid = "power"
    """Its times: even, or crowded near the data."""
    seed: int = 1
    """Seed of the noise."""


def generate(config: GenerateConfig) -> None:
    """Writes samples to a file.

    Raises:
        UserError: If a flag does not make sense, the run is missing or damaged, or the file
            cannot be written.
    """
    with user_errors(ValueError):
        check_count("--num", config.num)
        check_count("--steps", config.steps)
        check_seed(config.seed)
    if config.out.suffix != ".npy" or config.out.is_dir():
        raise UserError(f"--out must name a .npy file, got {config.out}.")
    trained = runs.load_config(config.run)
    sampling = SamplingConfig(config.num, config.solver, config.steps, config.grid)
    key, quality = jax.random.key(config.seed), {}
    if isinstance(trained, ImageConfig):
        velocity = load_velocity(config.run, trained)
        start = time.perf_counter()
        samples, nfe = draw_images(velocity, key, sampling)
        seconds = time.perf_counter() - start
    else:
        dataset = make_dataset(trained.data)
        velocity = load_velocity(config.run, trained, dataset.dim)
        start = time.perf_counter()
        samples, nfe = draw_samples(velocity, dataset, key, sampling)
        seconds = time.perf_counter() - start
        quality = dataset.quality(samples)
    runs.write_array(config.out, samples)
    rows = {"samples": config.num, "nfe": nfe, "seconds": seconds, **quality}
    print(report.table(f"{trained.data}, {trained.model.path}, from {config.run}", rows))
    print(config.out)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        generate(
            parse_flags(
                GenerateConfig,
                argv,
                "python -m experiments.generate",
                "Generates samples from a finished run.",
            )
        )

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
