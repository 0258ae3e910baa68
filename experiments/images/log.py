"""The log of a run: rows of `metrics.jsonl`, TensorBoard, and the progress on the screen.

A row sums up the steps since the one before. What the next row has so far is a part of the
checkpoint, so that a run may stop anywhere and its rows stay the same.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from experiments import runs
from experiments.command import UserError, user_errors
from kacjax.training import StepMetrics

# Seconds between two lines of progress where they do not replace each other.
_LINES = 30.0


class Interval:
    """Sums over the steps since the last row, in their order."""

    def __init__(self, sums: dict[str, Any] | None = None):
        self.sums = {"steps": 0, "skipped": 0, "loss": 0.0, "gradient_norm": 0.0} | (sums or {})

    def add(self, metrics: StepMetrics) -> None:
        """Adds steps; of one whose numbers are not finite it counts only that."""
        for loss, norm, sums, counts, finite in zip(*map(np.asarray, metrics), strict=True):
            if not finite:
                self.sums["skipped"] += 1
                continue
            self.sums["steps"] += 1
            self.sums["loss"] += float(loss)
            self.sums["gradient_norm"] += float(norm)
            for name, bins in (("bin_sums", sums), ("bin_counts", counts)):
                before = self.sums.get(name, [0.0] * len(bins))
                self.sums[name] = [a + float(b) for a, b in zip(before, bins, strict=True)]

    def row(self) -> dict[str, Any]:
        """Means over the steps; None where there is nothing to average."""
        steps = self.sums["steps"]
        bins = zip(self.sums.get("bin_sums", []), self.sums.get("bin_counts", []), strict=True)
        return {
            "loss": self.sums["loss"] / steps if steps else None,
            "loss_by_time": [total / count if count else None for total, count in bins],
            "gradient_norm": self.sums["gradient_norm"] / steps if steps else None,
            "skipped": self.sums["skipped"],
        }


class Clock:
    """Images per second, since the last row and since the process began; without compilation."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._row, self._whole = (0, 0.0), (0, 0.0)

    def add(self, steps: int, seconds: float) -> None:
        """Counts steps and how long they took."""
        self._row = (self._row[0] + steps, self._row[1] + seconds)
        self._whole = (self._whole[0] + steps, self._whole[1] + seconds)

    def speed(self) -> float | None:
        """The mean since the process began; None before the first step."""
        return self._speed(*self._whole)

    def new_row(self) -> float | None:
        """The mean since the last row, which this one becomes."""
        row, self._row = self._row, (0, 0.0)
        return self._speed(*row)

    def _speed(self, steps: int, seconds: float) -> float | None:
        return steps * self._batch_size / seconds if seconds > 0 else None


class Log:
    """Where rows and pictures go; opened at the step from which the run goes on.

    Raises:
        UserError: If it cannot be written, or the extra `images` is not installed.
    """

    def __init__(self, folder: Path, step: int):
        try:
            from tensorboardX import SummaryWriter  # It comes with an extra.
        except ImportError as error:
            raise UserError(f'{error}: it comes with pip install "kacjax[images]".') from error
        self._file = folder / runs.LOG
        lines = read_rows(self._file, step)
        runs.write_text(self._file, "".join(json.dumps(row) + "\n" for row in lines))
        with user_errors(OSError, saying="cannot write the log: "):
            self._rows = self._file.open("a")
            self._board = SummaryWriter(
                str(folder / runs.TENSORBOARD), purge_step=step, flush_secs=30
            )

    def write(self, step: int, row: dict[str, Any]) -> None:
        """Writes a row."""
        with user_errors(OSError, saying=f"cannot write {self._file}: "):
            self._rows.write(json.dumps({"step": step, **row}) + "\n")
            self._rows.flush()
            for name, value in row.items():
                values = value if isinstance(value, list) else [value]
                names = [name] if len(values) == 1 else [f"{name}/{i}" for i in range(len(values))]
                for tag, number in zip(names, values, strict=True):
                    if number is not None:
                        self._board.add_scalar(tag, number, step)

    def pictures(self, step: int, name: str, images: np.ndarray) -> None:
        """Shows images of shape `(num, height, width, channels)` in TensorBoard."""
        with user_errors(OSError, saying="cannot write the log: "):
            self._board.add_images(name, images, step, dataformats="NHWC")

    def sync(self) -> None:
        """Waits until the rows are on the disk: no checkpoint may be ahead of its log."""
        with user_errors(OSError, saying=f"cannot write {self._file}: "):
            os.fsync(self._rows.fileno())

    def close(self) -> None:
        """Ends writing."""
        self._rows.close()
        self._board.close()


def read_rows(file: Path, step: int) -> list[dict[str, Any]]:
    """The rows up to a step; a run that was killed may have left more, and half a one."""
    rows = []
    try:
        lines = file.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
            if row["step"] <= step:
                rows.append(row)
        except (ValueError, TypeError, KeyError):
            continue
    return rows


class Progress:
    """The bar: steps, images per second, time left."""

    def __init__(self, steps: int, step: int, *, shown: bool):
        self._bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not shown,
            mininterval=0.1 if sys.stderr.isatty() else _LINES,
        )

    def update(self, step: int, loss: float | None, speed: float | None) -> None:
        """Moves on to a step."""
        said = [] if loss is None else [f"loss {loss:.4g}"]
        said += [] if speed is None else [f"{speed:,.0f} images/s"]
        self._bar.set_postfix_str(", ".join(said), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
