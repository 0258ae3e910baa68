"""The folder of a comparison: one cell for each model and seed, named after its configuration.

    kac-seed0-1f2e3d4c5b/config.json               what was trained
                         step-000500/              after 500 steps
                             velocity.safetensors  the averaged network
                             training.json         loss and speed
                             judged-0a1b2c3d4e.json  samples-0a1b2c3d4e.npy
                         .lock                    held by the process that works here

A cell's name ends with a digest of everything that decides its network, and a judgement's with one
of everything that decides how it was judged. A changed configuration therefore has cells of its
own; nothing is ever mixed, and what is finished is never written again.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments import runs
from experiments.command import UserError, user_errors
from experiments.compare.config import CompareConfig, training_dict
from experiments.config import TrainConfig
from experiments.images.config import ImageConfig

FORMAT = "kacjax-compare-1"
_TRAINING = "training.json"
_DAMAGES = (OSError, ValueError, KeyError, TypeError)


class Cell(NamedTuple):
    """One model trained with one seed.

    Attributes:
        model: Name of the model.
        seed: The seed.
        run: Its training run.
        folder: Where it lies.
    """

    model: str
    seed: int
    run: TrainConfig | ImageConfig
    folder: Path


def make_cells(config: CompareConfig) -> list[Cell]:
    """All cells of a comparison: seed by seed, so that an early look has every model in it."""

    def folder(run: TrainConfig | ImageConfig) -> Path:
        name = f"{run.model.path}-seed{run.training.seed}-{digest(training_dict(run))}"
        return config.cells_folder() / name

    return [
        Cell(name, seed, run, folder(run))
        for seed in config.all_seeds()
        for name, run in config.runs(seed).items()
    ]


def digest(values: Mapping[str, Any]) -> str:
    """Ten hexadecimal digits that stand for a configuration."""
    text = json.dumps({"format": FORMAT, **values}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def open_cell(cell: Cell) -> None:
    """Writes the cell's configuration, or checks the one that lies there.

    Raises:
        UserError: If the folder holds another configuration, or cannot be written.
    """
    wanted = {"format": FORMAT, **training_dict(cell.run)}
    file = cell.folder / runs.CONFIG
    if not file.exists():
        runs.write_json(file, wanted)
        return
    with user_errors(*_DAMAGES, saying=f"{file} is damaged: "):
        found = json.loads(file.read_text())
    if found != wanted:
        raise UserError(
            f"{cell.folder} holds another configuration than its name says; move it away."
        )


def step_folder(cell: Cell, step: int) -> Path:
    """Where the network after so many steps lies."""
    return cell.folder / f"step-{step:06d}"


def has_network(cell: Cell, step: int) -> bool:
    """Whether the network after so many steps is there, whole."""
    return (step_folder(cell, step) / _TRAINING).is_file()


def save_network(
    cell: Cell, step: int, save: Callable[[Path], None], record: Mapping[str, Any]
) -> None:
    """Writes a network and a record of its training; the folder appears whole or not at all.

    Args:
        cell: The cell.
        step: Optimizer steps taken.
        save: Writes the network into a folder.
        record: Anything that JSON can hold.

    Raises:
        UserError: If it cannot be written.
    """
    target = step_folder(cell, step)
    if has_network(cell, step):
        return
    with user_errors(OSError, saying=f"cannot write {target}: "):
        cell.folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cell.folder))
        try:
            aside.chmod(0o755)
            save(aside)
            runs.write_json(aside / _TRAINING, dict(record))
            os.replace(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def is_judged(cell: Cell, step: int, config: CompareConfig) -> bool:
    """Whether the network after so many steps was judged in this way."""
    return _judgement(cell, step, config).is_file()


def is_finished(cell: Cell, config: CompareConfig) -> bool:
    """Whether there is nothing left to do."""
    return all(has_network(cell, step) and is_judged(cell, step, config) for step in config.steps())


def save_judgement(
    cell: Cell,
    step: int,
    config: CompareConfig,
    judgement: Mapping[str, Any],
    samples: np.ndarray,
) -> None:
    """Writes what was found, and the samples that are drawn; the JSON last: it says finished."""
    file = _judgement(cell, step, config)
    runs.write_array(_samples(file), samples)
    runs.write_json(
        file,
        {
            "evaluation": config.judgement(),
            **judgement,
        },
    )


def load_judgement(cell: Cell, step: int, config: CompareConfig) -> dict[str, Any]:
    """What was found.

    Raises:
        UserError: If the file is damaged.
    """
    found = _read(_judgement(cell, step, config))
    return {"model": cell.model, "seed": cell.seed, "step": step, **found}


def load_samples(cell: Cell, step: int, config: CompareConfig) -> np.ndarray:
    """The samples that are drawn.

    Raises:
        UserError: If the file is missing or damaged.
    """
    file = _samples(_judgement(cell, step, config))
    with user_errors(*_DAMAGES, saying=f"{file} is damaged, delete it and its JSON file: "):
        return np.load(file)


def strangers(config: CompareConfig) -> list[str]:
    """Cells in the folder that belong to other configurations; in one that is shared, none."""
    ours = {cell.folder.name for cell in make_cells(config)}
    found = [] if config.cells else config.cells_folder().glob("*/" + runs.CONFIG)
    return sorted(file.parent.name for file in found if file.parent.name not in ours)


def _judgement(cell: Cell, step: int, config: CompareConfig) -> Path:
    name = digest(config.judgement())
    return step_folder(cell, step) / f"judged-{name}.json"


def _samples(judgement: Path) -> Path:
    return judgement.with_name(judgement.name.replace("judged-", "samples-")).with_suffix(".npy")


def _read(file: Path) -> dict[str, Any]:
    with user_errors(*_DAMAGES, saying=f"{file} is damaged, delete it to compute it again: "):
        return json.loads(file.read_text())
