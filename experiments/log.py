"""The log of a run: rows of `metrics.jsonl`, TensorBoard, and the progress on the screen.

A row sums up the steps since the one before. What the next row has so far is a part of the
checkpoint, so that a run may stop anywhere and its rows stay the same.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import runs
from experiments.command import user_errors
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
    """Steps per second, since the last row and since the process began; without compilation."""

    def __init__(self) -> None:
        self._row, self._whole = (0, 0.0), (0, 0.0)

    def add(self, steps: int, seconds: float) -> None:
        """Counts steps and how long they took."""
        self._row = (self._row[0] + steps, self._row[1] + seconds)
        self._whole = (self._whole[0] + steps, self._whole[1] + seconds)

    def speed(self) -> float | None:
        """The mean since the process began; None before the first step."""
        return self._whole[0] / self._whole[1] if self._whole[1] > 0 else None

    def new_row(self) -> float | None:
        """The mean since the last row, which this one becomes."""
        (steps, seconds), self._row = self._row, (0, 0.0)
        return steps / seconds if seconds > 0 else None


class Log:
    """Where rows and pictures go; opened at the step from which the run goes on.

    Events of TensorBoard are written before a call returns. The package's own writer has a thread
    and a queue: after an error of the disk the thread is gone, and whoever fills the queue waits
    for ever.
    """

    def __init__(self, folder: Path, step: int):
        from tensorboardX.proto import event_pb2, summary_pb2
        from tensorboardX.record_writer import RecordWriter

        self._event, self._summary = event_pb2.Event, summary_pb2.Summary
        self._file, board, self._flushed = folder / runs.LOG, folder / runs.TENSORBOARD, 0.0
        lines = read_rows(self._file, step)
        runs.write(self._file, "".join(json.dumps(row) + "\n" for row in lines))
        with user_errors(OSError, saying="cannot write the log: "):
            self._rows = self._file.open("a")
            board.mkdir(exist_ok=True)
            self._board = RecordWriter(str(board / f"events.out.tfevents.{time.time():.6f}.kacjax"))
            self._add(file_version="brain.Event:2")
            # What an earlier process has written from this step on is void.
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._add(step=step, session_log=start)

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
                    self._show(step, tag=tag, simple_value=number)

    def picture(self, step: int, name: str, png: Path) -> None:
        """Shows a figure in TensorBoard."""
        image = self._summary.Image(encoded_image_string=png.read_bytes())
        self._show(step, tag=name, image=image)

    def sync(self) -> None:
        """Waits until the rows are on the disk: no checkpoint may be ahead of its log."""
        with user_errors(OSError, saying=f"cannot write {self._file}: "):
            os.fsync(self._rows.fileno())

    def close(self) -> None:
        """Ends writing; what could not be written was said before."""
        for stream in (self._rows, self._board):
            with contextlib.suppress(OSError):
                stream.close()

    def _show(self, step: int, **value: Any) -> None:
        with user_errors(OSError, saying="cannot write the log of TensorBoard: "):
            self._add(step=step, summary=self._summary(value=[self._summary.Value(**value)]))

    def _add(self, **event: Any) -> None:
        now = time.time()
        self._board.write(self._event(wall_time=now, **event).SerializeToString())
        if now - self._flushed > _LINES:
            self._flushed = now
            self._board.flush()


def read_rows(file: Path, step: int) -> list[dict[str, Any]]:
    """The rows up to a step; a run that was killed may have left more, and half a one."""
    rows = []
    with user_errors(OSError, saying=f"cannot read {file}: ", ending="."):
        lines = file.read_text(errors="replace").splitlines() if file.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
            if isinstance(row["step"], int) and row["step"] <= step:
                rows.append(row)
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return rows


class Progress:
    """The bar on a terminal, or a line every half a minute elsewhere: loss, speed, time left."""

    def __init__(self, steps: int, step: int, *, shown: bool):
        self._bar = tqdm(
            total=steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._lines, self._last = shown and not sys.stderr.isatty(), time.monotonic()
        self._steps = steps

    def update(self, step: int, loss: float | None, speed: float | None) -> None:
        """Moves on to a step."""
        said = "" if loss is None else f"loss {loss:.4g}"
        self._bar.set_postfix_str(said, refresh=False)
        self._bar.update(step - self._bar.n)
        if self._lines and speed and time.monotonic() - self._last > _LINES:
            self._last, left = time.monotonic(), (self._steps - step) / speed / 60
            where = f"step {step:,} of {self._steps:,}"
            parts = (where, *[said] * bool(said), f"{speed:.3g} steps/s", f"{left:.0f} min left")
            print(", ".join(parts), file=sys.stderr)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()
