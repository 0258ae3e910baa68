"""The folder of a run, written where it stays: a run may be killed at any moment and gone on with.

- `config.json`: what decides the result
- `checkpoints/`: states of the training
- `metrics.jsonl` and `tensorboard/`: the log
- `velocity.safetensors`: the averaged network
- `samples.npy` and figures: what it generates
- `metrics.json`: the judgement, written last
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from matplotlib.figure import Figure

from experiments.checks import flag
from experiments.command import UserError, optional, user_errors
from experiments.config import RunConfig, differences, from_dict, to_dict
from experiments.defaults import DEFAULTS

CONFIG, METRICS, SAMPLES = "config.json", "metrics.json", "samples.npy"
VELOCITY = "velocity.safetensors"
CHECKPOINTS, LOG, TENSORBOARD = "checkpoints", "metrics.jsonl", "tensorboard"
# Says that there were checkpoints.
SAVED = ".saved"
_FIGURES = ("samples.png", "zoom.png", "trajectories.png", "marginals.png")
# The samples come last: while they are there, so may be the others.
RESULTS = (METRICS, *_FIGURES, SAMPLES)
_OURS = (CHECKPOINTS, SAVED, LOG, TENSORBOARD, VELOCITY, *RESULTS)
_FORMAT, _LOCK = "kacjax-run-2", ".lock"
# No file of a run that is read is larger.
_LARGEST = 64 * 2**20
# Seconds between looks at what another process does.
_WAIT = 1.0


@dataclasses.dataclass(frozen=True)
class PlaceConfig:
    """Where the data of a run are now, if not where they were."""

    data: Annotated[Path | None, optional("PATH", "as of the run")] = None
    """File or folder of your own data, which must be the same."""
    labels: Annotated[str | None, optional("FILE", "as of the run")] = None
    """File of their classes."""
    data_root: Annotated[Path | None, optional("DIR", "as of the run")] = None
    """Folder of the files of a known data set."""

    def of(self, config: RunConfig) -> RunConfig:
        """The configuration of a run with its data there."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        for name in given.keys() - vars(config.source).keys():
            raise UserError(f"{flag(name)} does not say where {config.data} is.")
        source = dataclasses.replace(config.source, **given)
        file = getattr(source, "data", None)
        if file is not None and not file.expanduser().exists():
            raise UserError(f"--data must say where the data of the run are now: not at {file}.")
        return dataclasses.replace(config, source=source)


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run: its configuration says so."""
    try:
        return read_json(folder / CONFIG)["format"] == _FORMAT
    except (UserError, KeyError, TypeError):
        return False


def check_destination(folder: Path, config: RunConfig) -> None:
    """Refuses a destination where something would be lost, or with which the run cannot go on."""
    if folder.is_file():
        raise UserError(f"{folder} is a file; choose another --out.")
    with user_errors(OSError, saying="cannot use the output folder: "):
        if not folder.exists() or all(map(_is_trace, folder.iterdir())):
            return
    if not is_run(folder):
        damaged = " (its config.json is damaged)" if (folder / CHECKPOINTS).is_dir() else ""
        raise UserError(f"{folder} holds files that are not a run{damaged}; choose another --out.")
    if config.resume:
        changes = differences(read_json(folder / CONFIG), to_dict(config))
        if changes:
            raise UserError(f"{folder} was begun with other flags: {'; '.join(changes)}.")
    elif not config.overwrite:
        state = "a finished run" if (folder / METRICS).exists() else "a run that is not finished"
        raise UserError(
            f"{folder} holds {state}: go on with it by --resume, replace it with --overwrite, or "
            "choose another --out."
        )


def _is_trace(path: Path) -> bool:
    """Whether a file is all that is left of a run that was killed as it began."""
    return path.name == _LOCK or path.name.startswith(f".{CONFIG}.")


@contextlib.contextmanager
def open_run(
    folder: Path, config: RunConfig, waiting: Callable[[str], None] | None = None
) -> Iterator[None]:
    """The folder of a run, locked as by `locked`: a new one, or one that is gone on with."""
    check_destination(folder, config)
    with user_errors(OSError, saying="cannot write the run: "):
        folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, waiting):
        check_destination(folder, config)
        if not config.resume or not is_run(folder):
            # First of all what a later --resume would go on from.
            forget(folder, _OURS)
            write_config(folder, config)
        yield


def forget(folder: Path, names: Iterable[str] = (CHECKPOINTS, SAVED)) -> None:
    """Removes what a run needs no more: its checkpoints, when its results are written."""
    with user_errors(OSError, saying="cannot remove a part of the run: "):
        for path in (folder / name for name in names):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_config(folder: Path, config: RunConfig, fingerprint: str | None = None) -> None:
    """Writes what decides the result of a run, and by what its data are known."""
    write(folder / CONFIG, {"format": _FORMAT, "fingerprint": fingerprint, **to_dict(config)})


def check_data(folder: Path, fingerprint: str) -> None:
    """Refuses data that are not those of the run, if it says which they were."""
    if read_json(folder / CONFIG).get("fingerprint") not in (None, fingerprint):
        raise UserError(f"these are not the data of {folder}; by --data say where those are.")


@contextlib.contextmanager
def locked(folder: Path, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keeps other processes from working in the folder; the system ends the lock with us.

    While another one is at work there, `waiting` is called every second with its name; without
    that, the folder is refused.
    """
    with user_errors(OSError, saying=f"cannot write in {folder}: "):
        # Not "w": the name of a process that is at work is not ours to remove.
        file = (folder / _LOCK).open("ab+", buffering=0)
    with file:
        while not _locks(file):
            file.seek(0)
            other = file.read(200).decode(errors="replace") or "another process"
            if waiting is None:
                raise UserError(f"{other} is training in {folder}.")
            waiting(other)
            time.sleep(_WAIT)
        # Where there is no space for our name, the work is done without.
        with contextlib.suppress(OSError):
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield


def _locks(file: IO[bytes]) -> bool:
    """Whether the lock is ours now, or there are none in this file system."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def load_config(folder: Path) -> RunConfig:
    """The configuration of a run."""
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}.")
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder} is not a run: it has no {CONFIG}.")
    values = read_json(folder / CONFIG)
    damages = (KeyError, TypeError, ValueError, AttributeError, UserError)
    with user_errors(*damages, saying=f"{folder / CONFIG} is damaged: "):
        if values["format"] != _FORMAT:
            raise ValueError(f"its format is {values['format']!r:.50}, not {_FORMAT!r}.")
        return from_dict(values, DEFAULTS[values["data"]][1])


def read_json(file: Path) -> Any:
    """What a JSON file says."""
    damages = (OSError, ValueError, RecursionError)
    with user_errors(*damages, saying=f"{file} cannot be read: "):
        if not file.is_file():
            raise ValueError("there is no such file.")
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes.")
        return json.loads(file.read_text(encoding="utf-8-sig"))


def check_writable(flag: str, path: Path | None, suffixes: Sequence[str]) -> None:
    """Refuses a file of another kind or that cannot be written, before its content is computed."""
    if path is None:
        return
    if path.suffix not in suffixes or path.is_dir():
        raise UserError(f"{flag} must name a {' or '.join(suffixes)} file, got {path}.")
    probe = path.with_name(f".{path.name}.probe")
    with atomic(probe) as temporary:
        temporary.touch()
    probe.unlink()


def write(path: Path, content: str | np.ndarray | Figure | dict[str, Any]) -> None:
    """Writes a text, an array as `.npy`, a figure as PNG, or readable JSON, atomically."""
    with atomic(path) as temporary:
        match content:
            case np.ndarray():
                with temporary.open("wb") as file:
                    np.save(file, content)
            case Figure():
                content.savefig(temporary, format="png")
            case dict():
                temporary.write_text(json.dumps(content, indent=2, default=str) + "\n")
            case _:
                temporary.write_text(content)


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that replaces it when the block ends well."""
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
