"""One training run that hands out its averaged network on the way, and goes on if it was stopped."""

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from kacjax import Trainer, TrainState, Velocity
from kacjax.checkpoints import Checkpoints

Begin = Callable[[], TrainState]
Keep = Callable[[int, Velocity, dict[str, Any]], None]

# Seconds of training that an interruption may cost.
_SAVE_EVERY = 60.0
# Steps between looks at the clock, unless the trainer has its own number of steps in a call.
_STEPS_PER_RUN = 200
# The record holds the mean loss of so many steps.
_RECENT = 1000


def train(
    trainer: Trainer,
    source: Any,
    begin: Begin,
    steps: Sequence[int],
    keep: Keep,
    folder: Path,
) -> None:
    """Trains, and hands the averaged velocity and a record to `keep` after each number of steps.

    A run that was stopped goes on from its last saved state, and gives the same networks. When all
    is done the saved states are removed.

    Args:
        trainer: The run.
        source: Its data, from `Trainer.device_data`.
        begin: Makes the state before the first step.
        steps: Numbers of steps, rising, at most the trainer's own.
        keep: Called with each of them, the velocity, and the record. Training goes on in the
            velocity's memory: it is to be used before the call returns.
        folder: For the state.

    Raises:
        FloatingPointError: If the loss stops being finite.
        OSError: If the state cannot be written.
    """
    done, state, losses = _restore(trainer, begin, steps[0], folder)
    first, start = done, time.perf_counter()
    last = start
    with Checkpoints(folder, keep=1) as checkpoints:
        for target in steps:
            while done < target:
                until = min(target, done + (trainer.steps_per_call or _STEPS_PER_RUN))
                state, metrics = trainer.run(state, source, until)
                done, losses = until, (losses + metrics.loss.tolist())[-_RECENT:]
                if time.perf_counter() - last > _SAVE_EVERY and done < steps[-1]:
                    checkpoints.save(done, state, {"losses": losses})
                    last = time.perf_counter()
            elapsed = time.perf_counter() - start - trainer.compile_seconds
            record = {
                "step": target,
                "loss": sum(losses) / len(losses),
                "steps_per_second": (done - first) / max(elapsed, 1e-9),
            }
            keep(target, trainer.velocity(state), record)
    shutil.rmtree(folder, ignore_errors=True)


def _restore(
    trainer: Trainer, begin: Begin, earliest: int, folder: Path
) -> tuple[int, TrainState, list[float]]:
    """Steps done, state and recent losses: those saved, unless they are past what is wanted."""
    if folder.exists():
        with Checkpoints(folder, keep=1) as checkpoints:
            saved = checkpoints.restore(trainer.abstract_state())
        if saved is not None and saved.step <= earliest:
            return saved.step, saved.state, saved.description["losses"]
        shutil.rmtree(folder, ignore_errors=True)
    return 0, begin(), []
