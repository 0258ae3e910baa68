"""Trains on images: a run that may be stopped at any moment, and goes on as if it had not been."""

import contextlib
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments import hosts, report, runs
from experiments.command import user_errors
from experiments.images.config import ImageConfig
from experiments.images.data import ImageSet, load
from experiments.images.log import Log, read_rows
from experiments.images.sampling import draw_images
from experiments.images.session import LONGEST_CALL, Session, tell
from experiments.interrupt import StopSignals
from experiments.sampling import save_velocity
from kacjax import Trainer, plots, sharding
from kacjax.training import default_optimizer

_GRID = 64


def train(config: ImageConfig, command: str) -> Path:
    """Trains, or goes on training, and returns the folder.

    Args:
        config: The configuration.
        command: The command line that continues the run, to be printed if it is stopped.

    Raises:
        UserError: If the configuration does not make sense, data are missing, the folder holds
            something that would be lost, it cannot be written, or the loss is no longer finite.
    """
    with user_errors(ValueError, TypeError):
        config.check()
        config.model.make()
    with user_errors(ValueError, RuntimeError, saying="cannot join the other processes: "):
        devices = config.devices
        sharding.initialize_distributed(devices.coordinator, devices.processes, devices.process_id)
    with user_errors(ValueError):
        mesh = (
            sharding.make_mesh(fsdp=devices.fsdp)
            if jax.device_count() > 1 or devices.fsdp > 1
            else None
        )
        sharding.check_batch_size(config.training.batch_size, mesh, config.training.accumulate)
    images = load(config, first=hosts.is_first())
    trainer = make_trainer(config, images, mesh)
    folder = config.folder()
    with contextlib.ExitStack() as stack:
        hosts.on_first(lambda: stack.enter_context(runs.open_run(folder, config)))
        stack.callback(images.close)
        network = lambda: make_network(config, images)  # noqa: E731
        # What comes after the last checkpoint may be interrupted as any program.
        with StopSignals() as stop:
            session = Session(config, folder, images, trainer, stop)
            tell(_headline(session))
            through = session.train(network, lambda log: show_samples(session, log))
        if through:
            finish(session)
        elif hosts.is_first():
            print(f"stopped at step {session.step:,}; to go on:\n  {command}")
    return folder


def make_trainer(config: ImageConfig, images: ImageSet, mesh: Mesh | None) -> Trainer:
    """The trainer of a run; the parameters of its network are zeros, see `make_network`.

    Raises:
        UserError: If the network does not fit the images or the numbers each other.
    """
    training, network = config.training, config.network
    # On the CPU convolutions in a loop are slow, and a call of one step costs little.
    longest = 1 if jax.default_backend() == "cpu" else min(LONGEST_CALL, training.steps)
    with user_errors(ValueError):
        return Trainer(
            kacjax.models.blank(lambda: make_network(config, images)),
            config.model.make(),
            steps=training.steps,
            batch_size=training.batch_size,
            optimizer=default_optimizer(
                training.steps,
                training.learning_rate,
                training.warmup,
                training.clip,
                training.schedule,
                training.b2,
            ),
            ema_decay=training.ema_decay,
            time_power=training.time_power,
            prediction=network.prediction,
            label_dropout=network.label_dropout if network.conditional else 0.0,
            flip=config.source.flip,
            accumulate=training.accumulate,
            on_nonfinite=training.on_nonfinite,
            steps_per_call=longest,
            mesh=mesh,
        )


def make_network(config: ImageConfig, images: ImageSet) -> kacjax.models.UNet:
    """The untrained network of a run.

    Raises:
        ValueError: If it does not fit the images.
    """
    T, seed = float(config.model.make().T), config.training.seed
    return config.network.make(images.shape, len(images.classes), T, seed)


def show_samples(session: Session, log: Log | None) -> None:
    """Samples of fixed noise in TensorBoard and `samples.png`, and the network that made them."""
    velocity = session.velocity()
    if log is None:
        return
    save_velocity(session.folder, velocity, **_notes(session))
    images, _ = draw_images(velocity, _sampling_key(session), session.config.sampling, _GRID)
    log.pictures(session.step, "samples", images)
    _draw_figure(session, images)


def finish(session: Session) -> None:
    """Writes the network, samples and figures, and prints the table."""
    velocity = session.velocity()
    if not hosts.is_first():
        return
    config, folder = session.config, session.folder
    save_velocity(folder, velocity, **_notes(session))
    start = time.perf_counter()
    images, nfe = draw_images(velocity, _sampling_key(session), config.sampling)
    seconds = time.perf_counter() - start
    runs.write_array(folder / runs.SAMPLES, images)
    _draw_figure(session, images)
    last = read_rows(folder / runs.LOG, session.step)[-1]
    rows = {
        "loss": last["loss"],
        "images_per_second": session.clock.speed() or last["images_per_second"],
        "compile_seconds": session.trainer.compile_seconds,
        "parameters": _parameters(velocity.network.params),
        "nfe": nfe,
        "generation_seconds_with_compile": seconds,
    }
    skipped = int(session.state.skipped)
    if skipped:
        rows["skipped_steps"] = skipped
    runs.write_json(folder / runs.METRICS, {**rows, "quality": {}, **report.surroundings()})
    title = f"{config.data}, {config.model.path}, {config.training.steps:,} steps"
    print(report.table(title, {name: value for name, value in rows.items() if value is not None}))
    print(report.files(folder))


def _draw_figure(session: Session, images: np.ndarray) -> None:
    """Real images beside samples."""
    sets = {"real images": session.images.shown, session.config.model.path: images}
    figure = plots.images_figure(sets)
    runs.write_figure(session.folder / "samples.png", figure)


def _notes(session: Session) -> dict[str, Any]:
    classes = list(session.images.classes)
    return {"data": session.config.data, "classes": classes, "step": session.step}


def _sampling_key(session: Session) -> Key:
    # The key of the run itself is that of training.
    return jax.random.fold_in(jax.random.key(session.config.training.seed), 1)


def _headline(session: Session) -> str:
    config, device = session.config, jax.devices()[0]
    count = _parameters(nnx.state(session.trainer.network, nnx.Param))
    devices = f"{jax.device_count()} x {device.device_kind}"
    num = session.images.num
    return f"{config.data}, {config.model.path}: {num:,} images, {count:,} parameters, {devices}"


def _parameters(parameters: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))
