"""The work of a comparison: trains what is missing, judges what is not judged, and says so."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

from experiments import runs
from experiments.command import user_errors
from experiments.compare import cells
from experiments.compare.cells import Cell
from experiments.compare.config import CompareConfig
from experiments.compare.evaluation import Judge
from experiments.compare.subjects import Subject
from experiments.compare.training import train
from experiments.sampling import save_velocity
from kacjax import Velocity

Say = Callable[[str], None]


def complete(config: CompareConfig, subject: Subject, say: Say, after_seed: Say) -> None:
    """Finishes all cells of a comparison; those that are finished are left alone.

    Where another process works on a cell, as another comparison with the same cells does, this one
    waits, and then finds finished what it has finished.

    Args:
        config: The comparison.
        subject: What it is on.
        say: Takes lines about the progress.
        after_seed: Called with a line whenever every model of a seed is finished.

    Raises:
        UserError: If a folder cannot be used or a loss stops being finite.
    """
    judge, todo = Judge(subject, config.evaluation), cells.make_cells(config)
    for number, cell in enumerate(todo, 1):
        title = f"[{number}/{len(todo)}] {cell.model}, seed {cell.seed}"
        cells.open_cell(cell)
        with _alone(config, cell, title, say):
            _train(config, subject, cell, title, say)
            _judge(config, subject, cell, judge, title, say)
        if number == len(todo) or todo[number].seed != cell.seed:
            after_seed(f"seed {cell.seed} is complete")


def _alone(
    config: CompareConfig, cell: Cell, title: str, say: Say
) -> contextlib.AbstractContextManager[None]:
    """No other process works on the cell meanwhile; one that is finished may be read by many."""
    if cells.is_finished(cell, config):
        return contextlib.nullcontext()
    return runs.locked(
        cell.folder, lambda other: say(f"{title}: {other} is at work on it; waiting.")
    )


def _train(config: CompareConfig, subject: Subject, cell: Cell, title: str, say: Say) -> None:
    missing = [step for step in config.steps() if not cells.has_network(cell, step)]
    if not missing:
        say(f"{title}: trained before")
        return
    begin = time.perf_counter()

    def keep(step: int, velocity: Velocity, record: dict[str, Any]) -> None:
        cells.save_network(cell, step, lambda folder: save_velocity(folder, velocity), record)
        speed = record["steps_per_second"]
        say(f"{title}: step {step:,}, loss {record['loss']:.4g}, {speed:.0f} steps/s")

    with user_errors(FloatingPointError, OSError, saying=f"{title}: "):
        train(*subject.begin(cell.run), missing, keep, cell.folder / "state")
    say(f"{title}: trained in {time.perf_counter() - begin:.0f} s")


def _judge(
    config: CompareConfig, subject: Subject, cell: Cell, judge: Judge, title: str, say: Say
) -> None:
    for step in config.steps():
        if cells.is_judged(cell, step, config):
            continue
        begin = time.perf_counter()
        velocity = subject.load(cells.step_folder(cell, step), cell.run)
        found = judge(cell.model, velocity, cell.seed)
        values = {"rows": found.rows, "field": found.field}
        cells.save_judgement(cell, step, config, values, found.samples)
        say(f"{title}: judged step {step:,} in {time.perf_counter() - begin:.0f} s")
