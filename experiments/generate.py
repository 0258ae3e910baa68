"""Generates samples from a finished run, or from a velocity's file.

Points are floats, images are bytes. Vectors may become a table, with the columns of the table that
they were learned from.

python -m experiments.generate --run runs/digits-kac --out x.npy --gif x.gif
python -m experiments.generate --run runs/mnist-kac --label 3 --out threes.npy
"""

import dataclasses
import math
import time
from pathlib import Path
from typing import Annotated, Any

import jax
import numpy as np
import tyro

import kacjax
from experiments import report, runs
from experiments.checks import check_group
from experiments.command import UserError, check_range, command, optional, start, user_errors
from experiments.config import SamplingConfig
from experiments.datasets import finish, make_known
from experiments.sampling import as_drawn, draw, draw_trajectory, event_of, in_turn
from kacjax import Velocity, plots
from kacjax.data import DIGITS_SIDE, TARGETS
from kacjax.export import load_notes

_ANIMATED = 64


@dataclasses.dataclass(frozen=True)
class GenerateConfig:
    """Samples from a finished run."""

    run: Annotated[Path, tyro.conf.arg(metavar="PATH")]
    """Folder of the run, or its velocity.safetensors alone."""
    out: Annotated[Path, tyro.conf.arg(metavar="FILE.npy|FILE.csv")]
    """File for the samples, replaced if it exists; a table where they are vectors."""
    sampling: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(num_samples=64)
    )
    label: Annotated[tuple[str, ...], optional("CLASS [CLASS ...]", "all")] = ()
    """Classes to draw, in turn, by name or number, where the network knows classes."""
    guidance: float = 1.0
    """Scale of classifier-free guidance; 1 is none."""
    guidance_interval: Annotated[tuple[float, float] | None, optional("FIRST LAST", "all")] = None
    """Times between which there is guidance."""
    gif: Annotated[Path | None, optional("FILE.gif", "none")] = None
    """Animation of the first samples on their way."""
    seed: int = 1
    """Seed of the noise."""


def generate(config: GenerateConfig) -> None:
    """Writes samples to a file."""
    check_group(config)
    runs.check_writable("--out", config.out, (".npy", ".csv"))
    runs.check_writable("--gif", config.gif, (".gif",))
    velocity, notes = load(config.run)
    event, num = event_of(velocity), config.sampling.num_samples
    shape = finish(notes, np.zeros((1, *event), np.float32)).shape[1:]
    as_table = config.out.suffix == ".csv"
    if as_table and len(shape) > 1:
        raise UserError(f"--out must name a .npy file for data of shape {shape}, got {config.out}.")
    drawn, sampling = as_drawn(velocity, config.sampling, notes.get("sampling", {}))
    function, labels = _classes(config, drawn, notes)
    key, start = jax.random.key(config.seed), time.perf_counter()
    samples, nfe = draw(function, key, num, event, sampling, labels, progress=True)
    seconds, samples = time.perf_counter() - start, finish(notes, samples)
    runs.write(config.out, _table(notes, samples, labels) if as_table else samples)
    if config.gif is not None:
        shown = min(num, _ANIMATED)
        first = None if labels is None else labels[:shown]
        way, times = draw_trajectory(function, key, shown, event, sampling, first)
        side = DIGITS_SIDE if notes.get("data") == "digits" else None
        with runs.atomic(config.gif) as temporary, user_errors(ValueError, saying="--gif: "):
            plots.trajectory_gif(temporary, np.asarray(way), np.asarray(times), side=side)
    rows = {"samples": num, "nfe": nfe, "seconds": seconds}
    if notes.get("data") in ("digits", *TARGETS):  # Their judge comes with the library.
        rows |= make_known(notes["data"]).quality(samples)
    model = notes.get("model", type(velocity.path.process).__name__)
    print(report.table(f"{notes.get('data', 'unknown data')}, {model}, from {config.run}", rows))
    print(*(file for file in (config.out, config.gif) if file is not None), sep="\n")


def load(source: Path) -> tuple[Velocity, dict[str, Any]]:
    """The velocity of a run or of a file, and what its file says beside it."""
    if source.is_dir() and not (source / runs.VELOCITY).exists():
        config = runs.load_config(source)
        raise UserError(f"{source} has no network yet: train {config.data} on with --resume.")
    with user_errors(ValueError, OSError):
        velocity, notes = kacjax.load_velocity(source), load_notes(source)
    damages = (AttributeError, KeyError, TypeError, ValueError, UserError)
    with user_errors(*damages, saying=f"the notes in {source} are damaged: "):
        finish(notes, np.zeros((1, *event_of(velocity)), np.float32))
        check_group(SamplingConfig().filled(**notes.get("sampling", {})))
        texts = {name: [str(each) for each in notes.get(name, [])] for name in ("classes", "names")}
        counts = {"classes": velocity.classes, "names": math.prod(event_of(velocity))}
        for name, expected in counts.items():
            # A network may know no classes where the data have some.
            if expected and texts[name] and len(texts[name]) != expected:
                raise ValueError(f"{name} must be {expected}, got {len(texts[name])}.")
        return velocity, {**notes, **texts}


def _classes(config: GenerateConfig, velocity: Any, notes: dict[str, Any]) -> tuple[Any, Any]:
    """The velocity, guided if asked for, and the samples' labels."""
    interval, count = config.guidance_interval, velocity.classes
    if not count:
        if config.label or config.guidance != 1 or interval is not None:
            raise UserError("--label and --guidance need a network that has learned classes.")
        return velocity, None
    if config.guidance != 1 and notes.get("label_dropout", 1) == 0:
        raise UserError("--guidance needs a network trained with --label-dropout, got 0.")
    if interval is not None:
        if config.guidance == 1:
            raise UserError("--guidance-interval needs a --guidance other than 1, got 1.")
        check_range("--guidance-interval", interval[0], 0, float(velocity.path.T))
        check_range("--guidance-interval", interval[1], interval[0], float(velocity.path.T))
    names = notes["classes"] or [str(i) for i in range(count)]
    chosen = [_number(name, names) for name in config.label] or range(count)
    labels = in_turn(chosen, config.sampling.num_samples)
    if config.guidance == 1:
        return velocity, labels
    with user_errors(ValueError):
        return kacjax.guided(velocity, config.guidance, count, interval), labels


def _table(notes: dict[str, Any], samples: np.ndarray, labels: Any) -> str:
    """Samples as the text of a table, in the digits that their type has; with their classes."""
    width = samples.shape[1]
    names = notes["names"] or [f"column {i}" for i in range(width)]
    # The shortest digits that tell each number from its neighbors.
    rows: list[list[Any]] = samples.astype(str).tolist()
    if labels is not None:
        label = str(notes.get("label", "class"))
        names = [*names, label + "_" * (label in names)]
        classes = notes["classes"]
        drawn = [classes[i] if classes else i for i in np.asarray(labels).tolist()]
        rows = [[*row, name] for row, name in zip(rows, drawn, strict=True)]
    return report.csv_text(names, rows)


def _number(name: str, names: list[str]) -> int:
    """The number of a class, by its name; or by its number, where no name is a number."""
    if name in names:
        return names.index(name)
    if name.isdecimal() and int(name) < len(names) and not any(map(str.isdecimal, names)):
        return int(name)
    shown = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
    raise UserError(f"--label must be one of the classes {shown}; got {name!r}.")


main = command(GenerateConfig, generate, "generate", __doc__)

if __name__ == "__main__":
    start(main)
