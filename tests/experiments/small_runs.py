"""Small runs, in this process and in others, and what of them must be equal."""

import contextlib
import csv
import fcntl
import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from sklearn.datasets import load_breast_cancer

from experiments import train
from experiments.datasets import make_dataset
from experiments.log import read_rows
from experiments.runs import load_config
from experiments.session import make_trainer
from kacjax.checkpoints import Checkpoints
from kacjax.training import Trainer
from tests import compilation

STEPS = 10
# The smallest networks with everything in them, and runs with all of their events.
_EVENTS = [
    *("--steps", str(STEPS), "--log-every", "4", "--checkpoint-every", "3", "--keep", "2"),
    *("--solver-steps", "2"),
]
_IMAGES = [
    *("--size", "tiny", "--channels", "8", "--head-channels", "8", "--multipliers", "1"),
    *("--image-size", "8", "--batch-size", "4", "--dropout", "0.2", "--sample-every", "6"),
    *("--num-samples", "5", *_EVENTS),
]
_VECTORS = ["--width", "8", "--depth", "1", "--batch-size", "16", "--num-samples", "20", *_EVENTS]
SPECIES = ("iris", "poppy", "rose")


class Small(NamedTuple):
    """A finished run: its folder, the source of its data, and what it printed and said."""

    out: Path
    source: Path
    printed: str
    said: str


def draw_pictures(folder: Path) -> Path:
    """Fills a folder with 30 colored images in two classes."""
    random = np.random.default_rng(0)
    for i in range(30):
        file = folder / ("bright" if i % 2 else "dark") / f"{i}.png"
        file.parent.mkdir(exist_ok=True, parents=True)
        low = 128 * (i % 2)
        Image.fromarray(random.integers(low, low + 128, (8, 8, 3), np.uint8)).save(file)
    return folder


def write_table(folder: Path) -> Path:
    """Writes a table of 90 flowers of three kinds, in millimeters, grams and without a unit."""
    random, file = np.random.default_rng(0), folder / "flowers.csv"
    rows = random.normal((170, 0.02, -5), (30, 0.001, 1), (90, 3))
    lines = [f"{x},{y},{SPECIES[i % 3]},{z}\n" for i, (x, y, z) in enumerate(rows)]
    file.write_text("height,mass,species,charge\n" + "".join(lines))
    return file


def write_breast_cancer(folder: Path) -> Path:
    """Writes scikit-learn's table of 569 tumors, thirty numbers each, with their diagnosis."""
    found, file = load_breast_cancer(), folder / "breast-cancer.csv"
    names = [*found.feature_names, "species"]
    lines = [[*row, found.target_names[c]] for row, c in zip(found.data, found.target, strict=True)]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([names, *lines])
    return file


def arguments(source: Path | str, out: Path, *flags: object) -> list[str]:
    """The command line of a small run: on images if the source is a folder, or on a table.

    Or on a data set that comes with the library, if the source is its name.
    """
    if isinstance(source, str):
        chosen = [source, *_VECTORS]
    elif source.suffix == ".csv":
        chosen = ["arrays", "--data", str(source), "--labels", "species", *_VECTORS]
    else:
        chosen = ["images", "--data", str(source), *_IMAGES]
    return [*chosen, "--out", str(out), *map(str, flags)]


@contextlib.contextmanager
def surroundings(folder: Path) -> Iterator[None]:
    """What all runs have in common: caches, a quick compilation, and promotion as users have it.

    Each run makes its program anew, which is compiled only if no run has had it before. Optax's
    Adam does not train under strict promotion.
    """
    chosen = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(folder / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in chosen}
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for name, value in chosen.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        compilation.compile_quickly(patch)
        patch.setenv("KACJAX_CACHE", str(folder / "images"))
        try:
            yield
        finally:
            for name, value in before.items():
                jax.config.update(name, value)
            compilation_cache.reset_cache()


def train_once(folder: Path, name: str, write: Callable[[Path], Path]) -> Small:
    """A finished run, which is trained by the first process of the tests that asks for it."""
    data, out = folder / f"{name}-data", folder / "deep" / name
    texts = [folder / f"{name}-{stream}.txt" for stream in ("printed", "said")]
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not texts[-1].exists():
            shutil.rmtree(data, ignore_errors=True)
            data.mkdir()
            printed, said = io.StringIO(), io.StringIO()
            with (
                surroundings(folder),
                contextlib.redirect_stdout(printed),
                contextlib.redirect_stderr(said),
            ):
                status = train.main(arguments(write(data), out, "--overwrite"))
            assert status == 0, said.getvalue()
            for file, stream in zip(texts, (printed, said), strict=True):
                file.write_text(stream.getvalue())
    source = next(data.glob("*.csv"), data)
    return Small(out, source, *(file.read_text() for file in texts))


def state_of(folder: Path) -> dict[str, tuple[int, bytes | None]]:
    """When each file below a folder was written, and what small ones hold."""
    return {
        str(path.relative_to(folder)): (
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted(folder.rglob("*"))
    }


@contextlib.contextmanager
def at_step(step: int, action: Callable[[object], object]) -> Iterator[None]:
    """Does something before the first call of the device that would go beyond a step."""
    original, done = Trainer.run, []

    def run(self, state, source, until):
        if until > step and not done:
            done.append(True)
            action(state)
        return original(self, state, source, until)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        yield
    assert done


class Killed(BaseException):
    """Ends a run as abruptly as can be within the process."""


def kill(state: object) -> None:
    """Ends a run, for `at_step`."""
    raise Killed


def interrupted(source: Path | str, out: Path, step: int, *flags: object) -> None:
    """Begins a run that is killed before it goes beyond a step."""
    with at_step(step, kill), pytest.raises(Killed):
        train.main(arguments(source, out, *flags))


def fails(capsys, command, argv, *words: str) -> str:
    """The command ends with 2 and one error, a line that holds these words."""
    capsys.readouterr()
    assert command.main([str(argument) for argument in argv]) == 2
    *others, line = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert not any(other.startswith(("error", "Traceback")) for other in others)
    for word in words:
        assert word in line
    return line


def start(source: Path | str, out: Path, *flags: object, cache: Path | str) -> subprocess.Popen:
    """Begins a small run in another process, which compiles quickly, and once."""
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments(source, out, *flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(cache),
    )


def environment(cache: Path | str) -> dict[str, str]:
    """The variables of a process that compiles quickly, and once."""
    return {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + compilation.FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until a run has made a file or folder."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def finished(process: subprocess.Popen, status: int = 0) -> tuple[str, str]:
    """What a run printed, which must have ended well, or as is said."""
    printed, said = process.communicate(timeout=600)
    assert process.returncode == status, said
    return printed, said


def restore(folder: Path):
    """The newest checkpoint of a run."""
    config = load_config(folder)
    with contextlib.closing(make_dataset(config, first=False)) as dataset:
        trainer = make_trainer(config, dataset)
        with Checkpoints(folder / "checkpoints") as checkpoints:
            found = checkpoints.restore(trainer.abstract_state())
    assert found is not None
    return found


def rows(folder: Path, step: int):
    """The log but for what the clock says."""
    return [
        {name: value for name, value in row.items() if name != "steps_per_second"}
        for row in read_rows(folder / "metrics.jsonl", step)
    ]


def outcome(folder: Path):
    """All that must not depend on interruptions: the state bit for bit, the log, the network."""
    step, state, description = restore(folder)
    data = jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))
    leaves = [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(data)]
    network = (folder / "velocity.safetensors").read_bytes()
    return step, leaves, rows(folder, step), description["interval"], network
