"""Trains one model on one data set, generates from it, and judges the samples.

python -m experiments.train digits
python -m experiments.train grid2d --path diffusion --seed 1 --out runs/first
python -m experiments.train cifar10 --size tiny --steps 200
python -m experiments.train images --data FOLDER --resume
"""

import logging
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import tyro

import kacjax
from experiments import report, runs
from experiments.command import MARKERS, parse, run, user_errors
from experiments.config import TrainConfig
from experiments.datasets import make_dataset
from experiments.defaults import DEFAULTS
from experiments.images import train as images
from experiments.images.config import NAMES, ImageConfig
from experiments.sampling import (
    draw_samples,
    draw_trajectory,
    fit_options,
    make_model,
    save_velocity,
)


def train(config: TrainConfig) -> Path:
    """Runs an experiment and returns its folder.

    Raises:
        UserError: If the configuration does not make sense, the folder holds something that would
            be lost, or it cannot be written. Nothing on disk has changed then.
    """
    with user_errors(ValueError):
        config.check()
        path = config.model.make()
    dataset = make_dataset(config.data)
    data_key, training_key, sampling_key = jax.random.split(jax.random.key(config.training.seed), 3)
    with runs.new_run(config.folder(), config) as folder:
        with user_errors(FloatingPointError):
            result = kacjax.fit(
                make_model(config, dataset.dim),
                path,
                dataset.training(data_key),
                training_key,
                **fit_options(config),
            )
        save_velocity(folder, result.velocity, data=config.data)

        start = time.perf_counter()
        samples, nfe = draw_samples(result.velocity, dataset, sampling_key, config.sampling)
        seconds = time.perf_counter() - start
        runs.write_array(folder / runs.SAMPLES, samples)
        for name, figure in dataset.figures({config.model.path: samples}).items():
            runs.write_figure(folder / name, figure)
        trajectories = dataset.trajectory_figure(
            lambda num: draw_trajectory(
                result.velocity, sampling_key, (num, dataset.dim), config.sampling
            )[0]
        )
        if trajectories is not None:
            runs.write_figure(folder / "trajectories.png", trajectories)
        rows = {
            "loss": float(result.losses[-1000:].mean()),
            "steps_per_second": result.steps_per_second,
            "compile_seconds": result.compile_seconds,
            "nfe": nfe,
            "generation_seconds_with_compile": seconds,
        }
        quality = dataset.quality(samples)
        runs.write_json(
            folder / runs.METRICS, {**rows, "quality": quality, **report.surroundings()}
        )

    title = f"{config.data}, {config.model.path}, {config.training.steps:,} steps"
    print(report.table(title, {**rows, **quality}))
    print(report.files(config.folder()))
    return config.folder()


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    argv = sys.argv[1:] if argv is None else argv
    # Orbax reports through them at length what an error says in a line.
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def body() -> None:
        config = parse(
            lambda: tyro.extras.overridable_config_cli(
                DEFAULTS,
                args=argv,
                prog="python -m experiments.train",
                description="Trains one model on one data set, generates, and judges the samples.",
                config=MARKERS,
            )
        )
        unused = config.model.unused(DEFAULTS[config.data][1].model)
        if unused:
            print(f"note: {config.model.path} does not use {', '.join(unused)}.", file=sys.stderr)
        if isinstance(config, ImageConfig):
            images.train(config, _continuing(argv))
        else:
            train(config)

    if argv and argv[0] in NAMES:
        return run(body, "interrupted: --resume goes on from the newest checkpoint.")
    return run(body)


def _continuing(argv: Sequence[str]) -> str:
    """The command line that goes on with a run."""
    flags = [flag for flag in argv if flag not in ("--overwrite", "--resume")]
    return shlex.join(["python", "-m", "experiments.train", *flags, "--resume"])


def _report_unraisable(details: Any) -> None:
    """Reports as Python does, but not of writes that end after a first one has failed."""
    if str(details.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(details)


if __name__ == "__main__":
    sys.unraisablehook = _report_unraisable
    sys.exit(main())
