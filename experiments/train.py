"""Trains one model on one data set, generates from it, and judges the samples.

python -m experiments.train digits
python -m experiments.train digits --path diffusion --seed 1
"""

import contextlib
import dataclasses
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments import hosts, report, runs
from experiments.command import INTERRUPTED, STOPPED, continuing, parse, run, start, user_errors
from experiments.config import RunConfig, SamplingConfig, to_dict
from experiments.datasets import make_dataset
from experiments.defaults import DEFAULTS
from experiments.hosts import StopSignals, tell
from experiments.learning import memory_of, parameters_of
from experiments.sampling import (
    as_drawn,
    check_samples,
    draw,
    draw_trajectory,
    in_turn,
    save_velocity,
)
from experiments.session import Session
from kacjax import sharding

# Samples of the figures on the way.
_SHOWN = 64
# Steps of a dry run, after the first, which are timed.
_TRIED = 20
_FIGURE = "samples.png"


def train(config: RunConfig, command: str = "") -> bool:
    """Trains, or goes on training, and judges; False if it was stopped, to go on by `command`."""
    config = prepared(config)
    if unused := config.unused(DEFAULTS[config.data][1]):
        tell(f"note: this run does not use {', '.join(unused)}.")
    folder = config.folder()
    hosts.on_first(lambda: config.dry_run or runs.check_destination(folder, config))
    dataset, config = make_dataset(config, hosts.is_first()), config.resolved()
    with contextlib.ExitStack() as stack:
        stack.callback(dataset.close)
        if config.student is not None:
            runs.check_data(config.student.teacher.parent, dataset.fingerprint)
        session = Session(config, dataset, folder)
        check_samples(config.sampling.num_samples, dataset.event)
        if config.dry_run:
            print(dry_run(session))
            return True
        hosts.on_first(lambda: stack.enter_context(runs.open_run(folder, config)))
        # What comes after the last checkpoint may be interrupted as any program.
        with StopSignals() as stop:
            tell(headline(session))
            through = session.train(stop, visit=show_samples)
        if through:
            finish(session)
        elif hosts.is_first():
            print(f"stopped at step {session.step:,}; to go on:\n  {command}")
    return through


def prepared(config: RunConfig) -> RunConfig:
    """The configuration, checked, once this process has joined the others."""
    config.check()
    devices = config.devices
    # Before anything that JAX computes, and a path is.
    with user_errors(ValueError, RuntimeError, saying="cannot join the other processes: "):
        sharding.initialize_distributed(devices.coordinator, devices.processes, devices.process_id)
    config.model.make()
    if getattr(config.source, "labels", None) is not None and not config.network.conditional:
        network = dataclasses.replace(config.network, conditional=True)
        config = dataclasses.replace(config, network=network)
    return config


def headline(session: Session) -> str:
    """What is trained on what, in a line."""
    config, device = session.config, jax.devices()[0]
    devices = f"{jax.device_count()} x {device.device_kind}"
    return (
        f"{config.data}, {config.model.path}: {session.dataset.num:,} data, "
        f"{parameters_of(session.config, session.dataset):,} parameters, {devices}"
    )


def show_samples(session: Session) -> Path | None:
    """Samples of fixed noise as a figure, and the network that made them."""
    velocity = session.velocity()
    if not hosts.is_first():
        return None
    save_velocity(session.folder, velocity, **notes(session))
    samples, _ = _draw(session, velocity, min(_SHOWN, session.config.sampling.num_samples))
    figures = session.dataset.figures({session.config.model.path: samples})
    runs.write(session.folder / _FIGURE, figures.get(_FIGURE) or next(iter(figures.values())))
    return session.folder / _FIGURE


def finish(session: Session) -> None:
    """Writes the network first of all, then samples, figures and judgement; prints the table."""
    velocity = session.velocity()
    if not hosts.is_first():
        return
    config, folder, dataset = session.config, session.folder, session.dataset
    save_velocity(folder, velocity, **notes(session))
    start = time.perf_counter()
    samples, nfe = _draw(session, velocity, config.sampling.num_samples)
    seconds = time.perf_counter() - start
    runs.write(folder / runs.SAMPLES, samples)
    for name, figure in dataset.figures({config.model.path: samples}).items():
        runs.write(folder / name, figure)
    function, sampling = _drawn(session, velocity)
    key, event = session.sampling_key, dataset.event
    trajectories = dataset.trajectory_figure(
        lambda num: draw_trajectory(function, key, num, event, sampling)[0]
    )
    if trajectories is not None:
        runs.write(folder / "trajectories.png", trajectories)
    rows = {
        "loss": session.loss,
        "steps_per_second": session.clock.speed(),
        "compile_seconds": session.trainer.compile_seconds,
        "parameters": parameters_of(session.config, session.dataset),
        "nfe": nfe,
        "generation_seconds_with_compile": seconds,
    }
    if skipped := int(session.state.skipped):
        rows["skipped_steps"] = skipped
    with user_errors(ValueError, saying="the samples cannot be judged: "):
        quality = dataset.quality(samples)
    record = {**rows, "quality": quality, **report.surroundings()}
    runs.write(folder / runs.METRICS, record)
    title = f"{config.data}, {config.model.path}, {config.training.steps:,} steps"
    shown = {name: value for name, value in {**rows, **quality}.items() if value is not None}
    print(report.table(title, shown))
    print(report.files(config.shown_folder()))


def notes(session: Session) -> dict[str, Any]:
    """What the file of a velocity says beside the network."""
    config = session.config
    found = {**session.dataset.notes(), "model": config.model.path, "step": session.step}
    if config.student is not None:
        found["sampling"] = {"solver": "euler", "solver_steps": config.student.student_steps}
    if config.network.conditional:
        found["label_dropout"] = config.network.label_dropout
    return found


def _draw(session: Session, velocity: Any, num: int) -> tuple[np.ndarray, int]:
    """Samples as the data are, of the classes in turn where there are any."""
    dataset, labels = session.dataset, in_turn(range(velocity.classes or 0), num)
    function, sampling = _drawn(session, velocity)
    samples, nfe = draw(function, session.sampling_key, num, dataset.event, sampling, labels)
    return dataset.finish(samples), nfe


def _drawn(session: Session, velocity: Any) -> tuple[Any, SamplingConfig]:
    return as_drawn(velocity, session.config.sampling, notes(session).get("sampling", {}))


def dry_run(session: Session) -> str:
    """What the run would be and take, from a few steps of it; nothing is kept."""
    config = session.config
    with tempfile.TemporaryDirectory() as folder:
        few = dataclasses.replace(config.training, steps=min(config.training.steps, 1 + _TRIED))
        tried = Session(dataclasses.replace(config, training=few), session.dataset, Path(folder))
        tried.train(StopSignals(), said=False)
        speed, seconds = tried.clock.speed() or 1.0, tried.trainer.compile_seconds
    rows = {
        "training data": session.dataset.num,
        "parameters": parameters_of(config, session.dataset),
        "GiB of memory, at least": memory_of(config, session.dataset) / 2**30,
        "steps per second, at first": speed,
        "seconds to compile": seconds,
        "minutes of training": (config.training.steps / speed + seconds) / 60,
    }
    shown = json.dumps(to_dict(config), indent=2)
    title = f"{config.shown_folder()}: nothing was written"
    return f"{shown}\n{report.table(title, rows)}"


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""

    def body() -> int:
        needed = {"arrays": "--data table.csv", "images": "--data pictures"}
        config = parse(DEFAULTS, argv, "train", __doc__, needed)
        return 0 if train(config, continuing("train", argv)) else STOPPED

    return run(body, INTERRUPTED)


if __name__ == "__main__":
    start(main)
