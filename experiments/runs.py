"""The folder of a run: `config.json`, `metrics.json`, the network, `samples.npy` and figures.

A short run is built in a hidden folder next to its destination and moved into place whole: training
that fails leaves the destination as it was. A long one, which can be resumed, is written where it
stays, with `checkpoints/`, `metrics.jsonl` and `tensorboard/`, and every file of it at once.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.command import UserError, user_errors
from experiments.config import TrainConfig, from_dict, read_json, to_dict
from experiments.images import config as images
from experiments.images.config import ImageConfig

CONFIG, METRICS, SAMPLES = "config.json", "metrics.json", "samples.npy"
VELOCITY = "velocity.safetensors"
CHECKPOINTS, LOG, TENSORBOARD = "checkpoints", "metrics.jsonl", "tensorboard"
FIGURES = ("samples.png", "zoom.png", "trajectories.png")
_OURS = {CONFIG, METRICS, SAMPLES, VELOCITY, CHECKPOINTS, LOG, TENSORBOARD, *FIGURES}
_FORMAT, _LOCK = "kacjax-run-1", ".lock"


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run: its configuration says so."""
    try:
        return json.loads((folder / CONFIG).read_text())["format"] == _FORMAT
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_destination(folder: Path, overwrite: bool) -> None:
    """Refuses a destination where something would be lost.

    Raises:
        UserError: If there is a file, a folder that is not a run, or a run and no `overwrite`.
    """
    with user_errors(OSError, saying="cannot use the output folder: "):
        if not folder.exists() or (folder.is_dir() and all(map(_is_trace, folder.iterdir()))):
            return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --out.")
    if not is_run(folder):
        raise UserError(f"{folder} holds files that are not a run; choose another --out.")
    if not overwrite:
        raise UserError(
            f"{folder} holds another run; choose another --out, or replace it with --overwrite."
        )


def _is_trace(path: Path) -> bool:
    """Whether a file is all that is left of a run that was killed as it began."""
    return path.name == _LOCK or path.name.startswith(f".{CONFIG}.")


@contextlib.contextmanager
def new_run(folder: Path, config: TrainConfig) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` if the block ends well and vanishes if not.

    Raises:
        UserError: If the destination must not be touched or cannot be written.
    """
    check_destination(folder, config.overwrite)
    with user_errors(OSError, saying="cannot write the run: "):
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        # mkdtemp makes a private folder; a run is as readable as any other.
        aside.chmod(0o777 & ~_umask())
    try:
        write_json(aside / CONFIG, {"format": _FORMAT, **to_dict(config)})
        yield aside
        check_destination(folder, config.overwrite)
        with user_errors(OSError, saying="cannot write the run: "):
            _move_into_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def open_run(folder: Path, config: ImageConfig) -> Iterator[None]:
    """The folder of a run that is written in place: a new one, or one that is gone on with.

    Raises:
        UserError: If the destination must not be touched or cannot be written, if it holds a run
            of another configuration, or if another process trains there.
    """
    values = {"format": _FORMAT, **images.to_dict(config)}
    if config.resume and is_run(folder):
        changes = images.differences(_read_config(folder), values)
        if changes:
            raise UserError(f"{folder} was begun with other flags: {'; '.join(changes)}.")
    else:
        check_destination(folder, config.overwrite)
    with user_errors(OSError, saying="cannot write the run: "):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not config.resume and is_run(folder):
            # First of all what a later --resume would go on from.
            for name in (CHECKPOINTS, *sorted(_OURS - {CHECKPOINTS, CONFIG})):
                _remove(folder / name)
        write_json(folder / CONFIG, values)
        yield


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keeps other processes from working in the folder; the system ends the lock with us.

    Args:
        folder: The folder, which exists.
        waiting: Called with the name of the process that is at work there, which is then waited
            for; without it, the folder is refused.

    Raises:
        UserError: If another process is at work there, or the folder cannot be written.
    """
    with user_errors(OSError, saying=f"cannot write in {folder}: "):
        # Not "w": the name of a process that is at work is not ours to remove.
        file = (folder / _LOCK).open("ab+", buffering=0)
    with file:
        # Where a file system has no locks, or no space for our name, the work is done without.
        with contextlib.suppress(OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                other = file.read(200).decode(errors="replace") or "another process"
                if waiting is None:
                    raise UserError(f"{other} is training in {folder}.") from None
                waiting(other)
                fcntl.flock(file, fcntl.LOCK_EX)
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _remove(path: Path) -> None:
    with user_errors(OSError, saying="cannot replace the run: "):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def load_config(folder: Path) -> TrainConfig | ImageConfig:
    """The configuration of a run.

    Raises:
        UserError: If the folder is missing, not a run, or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}.")
    values = _read_config(folder)
    with user_errors(ValueError, KeyError, TypeError, saying=f"{folder / CONFIG} is damaged: "):
        return (images.from_dict if values["data"] in images.NAMES else from_dict)(values)


def _read_config(folder: Path) -> dict[str, Any]:
    with user_errors(OSError, ValueError, saying=f"{folder / CONFIG} is damaged: "):
        return read_json((folder / CONFIG).read_text())


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Writes readable JSON, atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text file, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_array(path: Path, array: np.ndarray) -> None:
    """Writes a `.npy` file, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)


def write_figure(path: Path, figure: Figure) -> None:
    """Writes a PNG, atomically."""
    with atomic(path) as temporary:
        figure.savefig(temporary, format="png")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends well.

    Raises:
        UserError: If it cannot be written.
    """
    # Its suffix is that of `path`: some writers choose a format by it.
    temporary = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        with user_errors(OSError, saying=f"cannot write {path}: "):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _move_into_place(aside: Path, folder: Path) -> None:
    """Puts the new run where the old one was; files in it that are no part of a run stay."""
    if not is_run(folder):
        os.replace(aside, folder)
        return
    old = aside.with_name(f"{aside.name}-old")
    os.replace(folder, old)
    os.replace(aside, folder)
    for entry in old.iterdir():
        if not (entry.name in _OURS or (folder / entry.name).exists()):
            os.replace(entry, folder / entry.name)
    shutil.rmtree(old)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
