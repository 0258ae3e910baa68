"""Generates samples from a run, or from a velocity's file: points as floats, images as bytes.

python -m experiments.generate --run runs/grid2d-kac --num 1000 --steps 50 --out samples.npy
python -m experiments.generate --run velocity.safetensors --label 3 --guidance 2 --out threes.npy
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import Array, Int

import kacjax
from experiments import report, runs
from experiments.checks import check_count
from experiments.command import UserError, parse_flags, run, user_errors
from experiments.config import DATA, SamplingConfig, Solver, check_seed
from experiments.datasets import Dataset, make_dataset
from experiments.images.config import ImageConfig
from experiments.images.sampling import CHUNK, in_turn
from experiments.sampling import draw, draw_trajectory, load_velocity
from kacjax import Velocity, plots
from kacjax.data import DIGITS_SIDE, to_uint8
from kacjax.export import load_notes
from kacjax.velocity import Guided

_ANIMATED = 64


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Samples from a finished run."""

    run: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Folder of the run, or its velocity.safetensors alone."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npy")]
    """File for the samples; replaced if it exists."""
    num: int = 1000
    """Samples to generate."""
    steps: int = 50
    """Steps of a solver that is not adaptive; one evaluation each with ab2 and euler."""
    solver: Solver = "ab2"
    """Solver of the ODE."""
    tolerance: float = 1e-3
    """Tolerance of an adaptive solver."""
    grid_power: float = 2.0
    """Steps go like (1 - k / n)^power: 1 even, 2 short near the data."""
    label: Annotated[
        tuple[int, ...],
        tyro.conf.arg(metavar="INT [INT ...]", help_behavior_hint="(default: all)"),
    ] = ()
    """Classes to draw, in turn, where the network has learned classes."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none."""
    guidance_interval: Annotated[
        tuple[float, float] | None,
        tyro.conf.arg(metavar="FIRST LAST", help_behavior_hint="(default: all)"),
    ] = None
    """Times between which there is guidance."""
    chunk_size: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 256 images)")
    ] = None
    """Samples to generate together."""
    gif: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE.gif", help_behavior_hint="(default: none)")
    ] = None
    """Animation of the first samples on their way."""
    seed: int = 1
    """Seed of the noise."""


def generate(config: GenerateConfig) -> None:
    """Writes samples to a file.

    Raises:
        UserError: If a flag does not make sense, the run is missing or damaged, or a file cannot
            be written.
    """
    with user_errors(ValueError):
        for flag, value in (
            ("--num", config.num),
            ("--steps", config.steps),
            ("--chunk-size", config.chunk_size or 1),
        ):
            check_count(flag, value)
        sampling = SamplingConfig(
            config.num, config.solver, config.steps, config.tolerance, config.grid_power
        )
        sampling.check()
        check_seed(config.seed)
    for flag, file, suffix in (("--out", config.out, ".npy"), ("--gif", config.gif, ".gif")):
        if file is not None and (file.suffix != suffix or file.is_dir()):
            raise UserError(f"{flag} must name a {suffix} file, got {file}.")
    velocity, data, model = _load(config.run)
    about = velocity.network.config
    images = "shape" in about
    event = tuple(about["shape"]) if images else (about["dim"],)
    dataset = make_dataset(data) if data in DATA else None
    function, labels = _classes(config, velocity)
    chunk = config.chunk_size or (CHUNK if images else None)
    key = jax.random.key(config.seed)
    start = time.perf_counter()
    samples, nfe = draw(
        function,
        key,
        (config.num, *event),
        sampling,
        labels=labels,
        chunk_size=chunk,
        progress=chunk is not None and config.num > chunk,
    )
    seconds = time.perf_counter() - start
    samples, quality = _finish(samples, dataset, images)
    runs.write_array(config.out, samples)
    if config.gif is not None:
        shown = min(config.num, _ANIMATED)
        first = None if labels is None else labels[:shown]
        positions, times = draw_trajectory(function, key, (shown, *event), sampling, first)
        _animate(config.gif, positions, times, data)
    rows = {"samples": config.num, "nfe": nfe, "seconds": seconds, **quality}
    print(report.table(f"{data}, {model}, from {config.run}", rows))
    print(*(file for file in (config.out, config.gif) if file is not None), sep="\n")


def _load(source: Path) -> tuple[Velocity, str, str]:
    """The velocity of a run or of a file, and the names of its data and of its model."""
    if source.is_file():
        with user_errors(ValueError, OSError):
            velocity, notes = kacjax.load_velocity(source), load_notes(source)
        process = type(velocity.path.process).__name__
        return velocity, notes.get("data", "unknown data"), process
    trained = runs.load_config(source)
    dim = None if isinstance(trained, ImageConfig) else make_dataset(trained.data).dim
    return load_velocity(source, trained, dim), trained.data, trained.model.path


def _classes(
    config: GenerateConfig, velocity: Velocity
) -> tuple[Velocity | Guided, Int[Array, " num"] | None]:
    """The velocity, guided if asked for, and the samples' labels."""
    interval, classes = config.guidance_interval, velocity.classes
    if not classes:
        if config.label or config.guidance != 1 or interval is not None:
            raise UserError("--label and --guidance need a network that has learned classes.")
        return velocity, None
    if interval is not None and config.guidance == 1:
        raise UserError("--guidance-interval needs a --guidance other than 1, got 1.")
    labels = in_turn(config.label or range(classes), config.num)
    if config.guidance == 1:
        return velocity, labels
    with user_errors(ValueError):
        times = (interval,) if interval is not None else ()
        return kacjax.guided(velocity, config.guidance, classes, *times), labels


def _finish(
    samples: np.ndarray, dataset: Dataset | None, images: bool
) -> tuple[np.ndarray, dict[str, float]]:
    """The samples in the range of the data, and a judgement where there is a judge."""
    if images:
        return to_uint8(samples), {}
    if dataset is None or samples.shape[1:] != dataset.event:
        return samples, {}
    samples = dataset.finish(jnp.asarray(samples))
    return samples, dataset.quality(samples)


def _animate(file: Path, trajectory: Array, times: np.ndarray, data: str) -> None:
    """Writes the animation."""
    side = DIGITS_SIDE if data == "digits" else None
    with runs.atomic(file) as temporary, user_errors(ValueError, saying="--gif: "):
        plots.trajectory_gif(temporary, np.asarray(trajectory), np.asarray(times), side=side)


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
