"""The steps of a run, from where it stood to its end or to a wish to stop."""

import contextlib
import dataclasses
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from experiments import hosts, runs
from experiments.command import UserError, one_line, user_errors
from experiments.images.config import ImageConfig, ImageOptimizerConfig, differences, to_dict
from experiments.images.data import ImageSet
from experiments.images.log import Clock, Interval, Log, Progress
from experiments.interrupt import StopSignals
from kacjax import Trainer, TrainState, Velocity
from kacjax.checkpoints import Checkpoints
from kacjax.training import NonFiniteError

LONGEST_CALL = 200
"""Most steps in one call of the device."""
# A call should take about so many seconds: a signal waits for its end.
_CALL_SECONDS = 1.0


class Session:
    """One process's part in a run: its state, checkpoints and log.

    Args:
        config: The configuration.
        folder: The folder of the run.
        images: Its images.
        trainer: Its trainer.
        stop: Signals that ask to stop.
    """

    state: TrainState

    def __init__(
        self,
        config: ImageConfig,
        folder: Path,
        images: ImageSet,
        trainer: Trainer,
        stop: StopSignals,
    ):
        self.config, self.folder, self.images, self.trainer = config, folder, images, trainer
        self.step = self._saved = 0
        self.clock = Clock(trainer.batch_size)
        self._stop, self._interval = stop, Interval()
        self._rate = learning_rate(config.training)

    def train(
        self, network: Callable[[], nnx.Module], pictures: Callable[[Log | None], None]
    ) -> bool:
        """Trains until all steps are done; False if it was asked to stop before its end.

        Args:
            network: Makes the untrained network, if the run begins.
            pictures: Called as `pictures(log)` every so often, to show samples.

        Raises:
            UserError: If the checkpoints are of another run, something cannot be written, or the
                loss is no longer finite.
        """
        policy = self.config.checkpoints
        with _checkpoint_errors():
            checkpoints = Checkpoints(
                self.folder / runs.CHECKPOINTS, keep=policy.keep, keep_every=policy.keep_every
            )
        with checkpoints, contextlib.ExitStack() as stack:
            self.state = self._continue(checkpoints) or self._start(network)
            log = Log(self.folder, self.step) if hosts.is_first() else None
            if log is not None:
                stack.callback(log.close)
            bar = Progress(self.trainer.steps, self.step, shown=hosts.is_first())
            stack.callback(bar.close)
            source = self.images.source(self.trainer, self.config, self.step)
            for _ in self._calls(source, checkpoints, log):
                bar.update(self.step, self._interval.row()["loss"], self.clock.speed())
                if self._due(self.config.training.log_every) or self.step == self.trainer.steps:
                    self._write_row(log)
                if self._due(policy.checkpoint_every):
                    self._save(checkpoints, log)
                # The checkpoint's files are written meanwhile.
                if self._due(policy.sample_every) and self.step < self.trainer.steps:
                    pictures(log)
            self._save(checkpoints, log)
            with _checkpoint_errors():
                checkpoints.wait()
        # In the last call or while files were written: then the rest is left to --resume too.
        asked = bool(hosts.gather(np.array(self._stop.asked)).any())
        return self.step == self.trainer.steps and not asked

    def velocity(self) -> Velocity:
        """The averaged velocity on one device of this process; all processes must call this."""
        velocity = self.trainer.velocity(self.state)
        arrays, rest = eqx.partition(velocity.network, eqx.is_array)
        local = jax.tree.map(jnp.asarray, hosts.to_host(arrays))
        return dataclasses.replace(velocity, network=eqx.combine(local, rest))

    def _start(self, network: Callable[[], nnx.Module]) -> TrainState:
        trainer = dataclasses.replace(self.trainer, network=network())
        return trainer.init(jax.random.key(self.config.training.seed))

    def _continue(self, checkpoints: Checkpoints) -> TrainState | None:
        """The state to go on from, if there is one."""
        if not self.config.resume:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with user_errors(ValueError, OSError):
                found = checkpoints.restore(self.trainer.abstract_state())
        for warning in caught:
            tell(f"warning: {' '.join(str(warning.message).split())}")
        if found is None:
            tell("there is no whole checkpoint: beginning at step 0.")
            return None
        changes = differences(found.description["config"], to_dict(self.config))
        if changes:
            raise UserError(f"the checkpoints in {self.folder} are of a run whose {changes[0]}.")
        if found.description["images"] != self.images.fingerprint:
            raise UserError(f"these are not the images with which {self.folder} was begun.")
        self.step = self._saved = found.step
        self._interval = Interval(found.description["interval"])
        tell(f"going on at step {self.step:,}.")
        return found.state

    def _calls(self, source: Any, checkpoints: Checkpoints, log: Log | None) -> Iterator[None]:
        """Calls the device again and again; ends with the steps, or where a stop is asked for."""
        policy, every = self.config.checkpoints, self.config.training.log_every
        count = 1
        while self.step < self.trainer.steps:
            stops = (every, policy.checkpoint_every, policy.sample_every)
            until = min(self.step + count, *((self.step // n + 1) * n for n in stops))
            # All processes stop where one of them was asked to, and go as far as the first one.
            agreed = hosts.gather(np.array([self._stop.asked, min(until, self.trainer.steps)]))
            if agreed[:, 0].any():
                return
            before, start = self.trainer.compile_seconds, time.perf_counter()
            steps = self._advance(source, int(agreed[0, 1]), checkpoints, log)
            seconds = time.perf_counter() - start - (self.trainer.compile_seconds - before)
            self.clock.add(steps, seconds)
            count = int(min(2 * count, LONGEST_CALL, max(1.0, _CALL_SECONDS * steps / seconds)))
            yield

    def _advance(self, source: Any, until: int, checkpoints: Checkpoints, log: Log | None) -> int:
        """One call of the device; returns the number of its steps."""
        before = self.step
        try:
            # A source that comes to an end, or whose batches do not fit.
            with user_errors(ValueError):
                self.state, metrics = self.trainer.run(self.state, source, until)
        except NonFiniteError as error:
            self.state, self.step = error.state, int(error.state.step)
            self._interval.add(jax.tree.map(lambda rows: rows[:-1], error.metrics))
            self._save(checkpoints, log)
            with _checkpoint_errors():
                checkpoints.wait()
            raise UserError(
                f"{one_line(error)} The state before that step is saved; --resume goes on from "
                "there, with --on-nonfinite skip past it."
            ) from error
        self.step = int(self.state.step)
        self._interval.add(metrics)
        return self.step - before

    def _due(self, every: int) -> bool:
        return self.step % every == 0

    def _write_row(self, log: Log | None) -> None:
        row = self._interval.row()
        row["learning_rate"] = float(self._rate(self.step - 1))
        row["images_per_second"] = self.clock.new_row()
        self._interval = Interval()
        if log is not None:
            log.write(self.step, row)

    def _save(self, checkpoints: Checkpoints, log: Log | None) -> None:
        if self.step == self._saved:
            return
        if log is not None:
            log.sync()
        description = {
            "config": to_dict(self.config),
            "images": self.images.fingerprint,
            "interval": self._interval.sums,
        }
        with _checkpoint_errors():
            checkpoints.save(self.step, self.state, description)
        self._saved = self.step


def learning_rate(training: ImageOptimizerConfig) -> optax.Schedule:
    """The learning rate of `kacjax.training.default_optimizer` at each step, for the log."""
    peak, rise = training.learning_rate, min(training.warmup, training.steps // 2)
    if training.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, rise, training.steps)
    end = 0.0 if training.schedule == "linear" else peak
    after = optax.linear_schedule(peak, end, training.steps - rise)
    return optax.join_schedules([optax.linear_schedule(0.0, peak, rise), after], [rise])


@contextlib.contextmanager
def _checkpoint_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write a checkpoint: {one_line(error)}; those before it are whole."
        ) from error


def tell(line: str) -> None:
    """A line for the person who watches, once and not from every process."""
    if hosts.is_first():
        print(line, file=sys.stderr)
