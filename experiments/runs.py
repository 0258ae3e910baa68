"""The folder of a run: written aside and moved into place whole, so that nothing is half there.

A run holds `config.json`, `metrics.json`, `checkpoint/`, `samples.npy` and figures. It is built in
a hidden folder next to its destination. Training that fails leaves the destination as it was.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments.command import UserError, user_errors
from experiments.config import TrainConfig, from_dict, to_dict

CONFIG, METRICS, CHECKPOINT, SAMPLES = "config.json", "metrics.json", "checkpoint", "samples.npy"
FIGURES = ("samples.png", "zoom.png", "trajectories.png")
_OURS = {CONFIG, METRICS, CHECKPOINT, SAMPLES, *FIGURES}
_FORMAT = "kacjax-run-1"


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
        if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
            return
    if not folder.is_dir():
        raise UserError(f"{folder} is a file; choose another --out.")
    if not is_run(folder):
        raise UserError(f"{folder} holds files that are not a run; choose another --out.")
    if not overwrite:
        raise UserError(
            f"{folder} holds another run; choose another --out, or replace it with --overwrite."
        )


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


def load_config(folder: Path) -> TrainConfig:
    """The configuration of a run.

    Raises:
        UserError: If the folder is missing, not a run, or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}.")
    with user_errors(
        OSError, ValueError, KeyError, TypeError, saying=f"{folder / CONFIG} is damaged: "
    ):
        return from_dict(json.loads((folder / CONFIG).read_text()))


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
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
