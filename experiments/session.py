"""The steps of a run, from where it stood to its end or to a wish to stop."""

import contextlib
import dataclasses
import hashlib
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import kacjax
from experiments import hosts, runs
from experiments.command import UserError, one_line, user_errors
from experiments.config import RunConfig, differences, to_dict
from experiments.datasets import Dataset
from experiments.hosts import StopSignals, tell
from experiments.learning import check_memory, load_teacher, make_network, make_objective
from experiments.log import Clock, Interval, Log, Progress
from kacjax import Trainer, TrainState, Velocity, sharding
from kacjax.checkpoints import Checkpoints
from kacjax.training import NonFiniteError, default_optimizer, learning_rate_schedule

# A call of the device has at most so many steps, and should take about so many seconds: a signal
# waits for its end.
_LONGEST_CALL, _CALL_SECONDS = 200, 1.0
# Seconds of training that a kill may cost, unless flags say otherwise.
_SAVE_EVERY = 60.0


class Session:
    """One process's part in a run: its state, checkpoints and log, in a folder that exists."""

    trainer: Trainer  # Its own network is blank.
    step: int  # The steps done.
    state: TrainState  # After them.
    loss: float | None = None  # The mean of the last row of the log.
    _checkpoints: Checkpoints
    _log: Log | None

    def __init__(self, config: RunConfig, dataset: Dataset, folder: Path):
        self.config, self.dataset, self.folder = config, dataset, folder
        self.step = self._saved = 0
        self._last_saved = time.monotonic()
        self.clock, self._interval = Clock(), Interval()
        training = config.training
        self._rate = learning_rate_schedule(
            training.steps, training.learning_rate, training.warmup, training.schedule
        )
        seed = jax.random.key(training.seed)
        self._data_key, self._training_key, self.sampling_key = jax.random.split(seed, 3)
        if config.network.conditional and not dataset.classes:
            raise UserError("--conditional needs classes, and these data have none.")
        check_memory(config, dataset)
        self.trainer = make_trainer(config, dataset)
        self._fingerprint = dataset.fingerprint
        if config.student is not None:
            content = hashlib.sha256(config.student.teacher.read_bytes()).hexdigest()
            self._fingerprint += f"-{content[:16]}"

    def train(
        self,
        stop: StopSignals,
        pauses: Collection[int] = (),
        visit: Callable[["Session"], Path | None] | None = None,
        said: bool = True,
        until: int | None = None,
    ) -> bool:
        """Trains until all steps are done; False if it was asked to stop before its end.

        Args:
            stop: Signals that ask to stop.
            pauses: Numbers of steps after which `visit` is called, beside `--sample-every`; again
                where a run goes on from one of them.
            visit: Called with this session; a picture that it returns goes into the log.
            said: Whether to show progress.
            until: The last step to do; all if missing.
        """
        record, steps = self.config.record, until or self.trainer.steps
        with _checkpoint_errors():
            self._checkpoints = Checkpoints(
                self.folder / runs.CHECKPOINTS, keep=record.keep, keep_every=record.keep_every
            )
        with self._checkpoints, contextlib.ExitStack() as stack:
            self.state = self._continue(said) or self._start()
            self._log = None
            if hosts.is_first():
                # What may have changed since it was begun.
                runs.write_config(self.folder, self.config, self.dataset.fingerprint)
                self._log = Log(self.folder, self.step)
                stack.callback(self._log.close)
            bar = Progress(steps, self.step, shown=said and hosts.is_first())
            stack.callback(bar.close)
            seed = self.config.training.seed
            with user_errors(ValueError, OSError):
                source = self.dataset.source(self.trainer, self._data_key, self.step, seed)
            if visit is not None and self.step in pauses:
                visit(self)
            for due in self._calls(source, stop, pauses, steps):
                bar.update(self.step, self._interval.row()["loss"], self.clock.speed())
                if self._at(record.log_every) or self.step == steps:
                    self._write_row()
                if due or self._at(record.checkpoint_every):
                    self._save()
                # The checkpoint's files are written meanwhile.
                sampled = self._at(record.sample_every) and self.step < steps
                if visit is not None and (sampled or self.step in pauses):
                    shown = visit(self)
                    if self._log is not None and isinstance(shown, Path):
                        self._log.picture(self.step, "samples", shown)
            self._save()
            self._wait()
        # In the last call or while files were written: then the rest is left to --resume too.
        asked = bool(hosts.gather(np.array(stop.asked)).any())
        return self.step >= steps and not asked

    def velocity(self) -> Velocity:
        """The averaged velocity on one device of this process; all processes must call this."""
        velocity = self.trainer.velocity(self.state)
        arrays, rest = eqx.partition(velocity.network, eqx.is_array)
        local = jax.tree.map(jnp.asarray, hosts.to_host(arrays))
        return dataclasses.replace(velocity, network=eqx.combine(local, rest))

    def _start(self) -> TrainState:
        network: Any = make_network(self.config, self.dataset)
        if self.config.student is not None:
            network = load_teacher(self.config, self.dataset).network
        return dataclasses.replace(self.trainer, network=network).init(self._training_key)

    def _continue(self, said: bool) -> TrainState | None:
        """The state to go on from, if there is one."""
        if not self.config.resume:
            return None
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            with user_errors(ValueError, OSError):
                found = self._checkpoints.restore(self.trainer.abstract_state())
        for warning in caught:
            tell(f"warning: {' '.join(str(warning.message).split())}")
        if found is None:
            # The mark comes after the checkpoint.
            damaged = (self.folder / runs.CHECKPOINTS).glob("damaged-*")
            if (self.folder / runs.SAVED).exists() or any(damaged):
                raise UserError(
                    f"{self.folder} has had checkpoints, and none of them is whole: there is "
                    "nothing to go on from. Begin anew: delete it, or train with --overwrite."
                )
            if said:
                tell("there is no checkpoint yet: beginning at step 0.")
            return None
        damages = (KeyError, TypeError, AttributeError)
        with user_errors(*damages, saying=f"the checkpoints in {self.folder} are damaged: "):
            changes = differences(found.description["config"], to_dict(self.config))
            if changes:
                raise UserError(
                    f"the checkpoints in {self.folder} are of a run whose {changes[0]}."
                )
            if found.description["fingerprint"] != self._fingerprint:
                what = "the data" if self.config.student is None else "the data and the teacher"
                raise UserError(f"these are not {what} with which {self.folder} was begun.")
            self._interval = Interval(found.description["interval"])
            self.loss = found.description["loss"]
        self.step = self._saved = found.step
        if said:
            tell(f"going on at step {self.step:,}.")
        return found.state

    def _calls(
        self, source: Any, stop: StopSignals, pauses: Collection[int], steps: int
    ) -> Iterator[bool]:
        """Calls the device until all steps are done or a stop is asked for; whether to save."""
        record, count = self.config.record, 1
        every = [n for n in (record.log_every, record.checkpoint_every, record.sample_every) if n]
        while self.step < steps:
            ends = [self.step + count, steps, *((self.step // n + 1) * n for n in every)]
            until = min([*ends, *(pause for pause in pauses if pause > self.step)])
            timed = record.checkpoint_every is None
            due = timed and time.monotonic() - self._last_saved > _SAVE_EVERY
            # All processes stop where one of them was asked to; the first one decides the rest.
            agreed = hosts.gather(np.array([stop.asked, until, due]))
            if agreed[:, 0].any():
                return
            before, start = self.trainer.compile_seconds, time.perf_counter()
            done = self._advance(source, int(agreed[0, 1]))
            seconds = time.perf_counter() - start - (self.trainer.compile_seconds - before)
            self.clock.add(done, seconds)
            count = int(min(2 * count, _LONGEST_CALL, max(1.0, _CALL_SECONDS * done / seconds)))
            yield bool(agreed[0, 2])

    def _advance(self, source: Any, until: int) -> int:
        """One call of the device; returns the number of its steps."""
        before = self.step
        try:
            # A source that comes to an end, or whose batches do not fit.
            with user_errors(ValueError):
                state, metrics = self.trainer.run(self.state, source, until)
        except NonFiniteError as error:
            self._take(error.state, jax.tree.map(lambda rows: rows[:-1], error.metrics))
            self._save()
            self._wait()
            raise UserError(
                f"{one_line(error)} The state before that step is saved: go on from there, with "
                "--on-nonfinite skip past it."
            ) from error
        self._take(state, metrics)
        return self.step - before

    def _take(self, state: TrainState, metrics: Any) -> None:
        """What was done since the last call; results of earlier steps are the run's no more."""
        done = int(state.step) > self.step
        if hosts.is_first() and done and (self.folder / runs.SAMPLES).exists():
            runs.forget(self.folder, runs.RESULTS)
        self.state, self.step = state, int(state.step)
        self._interval.add(metrics)

    def _at(self, every: int | None) -> bool:
        return bool(every) and self.step % every == 0

    def _write_row(self) -> None:
        row = self._interval.row()
        self.loss = row["loss"] if row["loss"] is not None else self.loss
        row["learning_rate"] = float(self._rate(self.step - 1))
        row["steps_per_second"] = self.clock.new_row()
        self._interval = Interval()
        if self._log is not None:
            self._log.write(self.step, row)

    def _save(self) -> None:
        if self.step == self._saved:
            return
        if self._log is not None:
            self._log.sync()
        description = {
            "config": to_dict(self.config),
            "fingerprint": self._fingerprint,
            # A copy, for it is written while the next steps are added.
            "interval": dict(self._interval.sums),
            "loss": self.loss,
        }
        self._wait()
        with _checkpoint_errors():
            self._checkpoints.save(self.step, self.state, description)
        self._saved, self._last_saved = self.step, time.monotonic()

    def _wait(self) -> None:
        """Waits until the newest checkpoint is whole."""
        with _checkpoint_errors():
            self._checkpoints.wait()
            if hosts.is_first() and self._saved:
                (self.folder / runs.SAVED).touch()


def make_trainer(config: RunConfig, dataset: Dataset) -> Trainer:
    """The trainer of a run; the parameters of its network are zeros, see `make_network`."""
    training, network, fsdp = config.training, config.network, config.devices.fsdp
    with user_errors(ValueError):
        mesh = sharding.make_mesh(fsdp=fsdp) if jax.device_count() > 1 or fsdp > 1 else None
        sharding.check_batch_size(training.batch_size, mesh, training.accumulate)
        rate = training.learning_rate, training.warmup, training.clip
        objective = make_objective(config, dataset)
        flow: dict[str, Any] = {"time_power": training.time_power, "coupling": training.coupling}
        return Trainer(
            kacjax.models.blank(lambda: make_network(config, dataset)),
            config.model.make(),
            steps=training.steps,
            batch_size=training.batch_size,
            optimizer=default_optimizer(training.steps, *rate, training.schedule, training.b2),
            ema_decay=training.ema_decay,
            objective=objective,
            classes=len(dataset.classes) if network.conditional else None,
            prediction=config.model.prediction(network.prediction),
            label_dropout=network.label_dropout if network.conditional else 0.0,
            flip=getattr(config.source, "flip", False),
            accumulate=training.accumulate,
            on_nonfinite=training.on_nonfinite,
            mesh=mesh,
            **({"times": config.model.times(), **flow} if objective is None else {}),
        )


def _checkpoint_errors() -> contextlib.AbstractContextManager[None]:
    ending = "; those before it are whole."
    return user_errors(OSError, saying="cannot write a checkpoint: ", ending=ending)
