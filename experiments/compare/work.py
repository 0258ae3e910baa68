"""The work of a comparison: trains what is missing, judges what is not judged, and says so."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments import runs
from experiments.command import UserError, user_errors
from experiments.compare.config import (
    EVALUATIONS,
    Cell,
    CompareConfig,
    Sampler,
    make_cells,
    shown_sampler,
)
from experiments.compare.table import NFE, SECONDS
from experiments.config import RunConfig, SamplingConfig
from experiments.datasets import Dataset
from experiments.hosts import StopSignals
from experiments.sampling import as_drawn, chunk_size, measure_field, save_velocity
from experiments.session import Session
from kacjax import Velocity
from kacjax.data import to_float

Row, Say = dict[str, Any], Callable[[str], None]

# Priors of generation; training draws its own keys from the same seed.
_PRIOR = 1_000_003
# The field is measured at so many times, from the first.
_TIMES, _EARLIEST = 16, 1e-3


class Stopped(KeyboardInterrupt):
    """A signal has asked to stop."""


class _Busy(Exception):  # noqa: N818 (nothing is wrong)
    """Another process works on a cell, or on its teacher."""


class Work:
    """All cells of a comparison, to be finished; `say` takes lines about the progress."""

    def __init__(self, config: CompareConfig, dataset: Dataset, say: Say, stop: StopSignals):
        self.cells = make_cells(config, dataset.fingerprint)
        self._config, self._dataset, self._log, self._stop = config.evaluation, dataset, say, stop
        self._how, self._compiled = config.judgement(), set[tuple[str, Sampler]]()
        points = dataset.training(jax.random.key(_PRIOR))[0][: dataset.field_points]
        self._points = to_float(points) if points.dtype == np.uint8 else points

    def complete(self) -> Iterator[int]:
        """Finishes all cells, those on which other processes work after the rest.

        Yields:
            Seeds, when all their cells are finished and there is something new, and at the end.
        """
        left, patient, news = list(enumerate(self.cells, 1)), False, False
        while left:
            later = []
            for number, cell in left:
                self._title = f"[{number}/{len(self.cells)}] {cell.model}, seed {cell.seed}"
                self._other = ""
                try:
                    news |= self._finish(cell, patient)
                except _Busy:
                    later.append((number, cell))
                    continue
                patient = False
                done = all(each.is_finished for each in self.cells if each.seed == cell.seed)
                last = (number, cell) == left[-1] and not later
                if last or (done and news):
                    yield cell.seed
                    news = False
            patient, left = len(later) == len(left), later

    def _finish(self, cell: Cell, patient: bool) -> bool:
        """Trains and judges a cell; whether there was something to do.

        If another process works on it, it is `_Busy`, or if `patient`, waited for.
        """
        if cell.is_finished:
            self._say("finished before")
            return False
        if not patient and cell.run.student and not cell.run.student.teacher.is_file():
            raise _Busy
        opened = runs.open_run(cell.folder, cell.run, self._wait if patient else self._pass_by)
        with user_errors(UserError, saying=f"{self._title}: "), opened:
            self._train(cell)
            self._judge_all(cell)
        return True

    def _say(self, line: str) -> None:
        self._log(f"{self._title}: {line}")

    def _pause(self) -> None:
        if self._stop.asked:
            raise Stopped

    def _pass_by(self, other: str) -> None:
        self._pause()
        raise _Busy(other)

    def _wait(self, other: str) -> None:
        self._pause()
        if other != self._other:
            self._say(f"{other} is at work on it; waiting.")
        self._other = other

    def _train(self, cell: Cell) -> None:
        def keep(session: Session) -> None:
            folder = cell.network(session.step).parent
            with user_errors(OSError, saying="cannot write the network: "):
                folder.mkdir(exist_ok=True)
            notes = {**self._dataset.notes(), "model": cell.model, "step": session.step}
            save_velocity(folder, session.velocity(), **notes)
            loss = "" if session.loss is None else f", loss {session.loss:.4g}"
            self._say(f"step {session.step:,}{loss}, {session.clock.speed() or 0:.0f} steps/s")

        begin = time.perf_counter()
        while missing := [step for step in cell.steps if not cell.network(step).is_file()]:
            session, until = Session(cell.run, self._dataset, cell.folder), missing[-1]
            if not session.train(self._stop, missing, keep, said=False, until=until):
                raise Stopped
            # Were they past something that is missing, it is trained from the start.
            runs.forget(cell.folder)
        runs.forget(cell.folder)
        self._say(f"trained in {time.perf_counter() - begin:.0f} s")

    def _judge_all(self, cell: Cell) -> None:
        for step in (step for step in cell.steps if not cell.judgement(step).is_file()):
            begin = time.perf_counter()
            with user_errors(ValueError, OSError):
                velocity = kacjax.load_velocity(cell.network(step))
            rows, samples = self.judge(cell, velocity)
            found = {"evaluation": self._how, "rows": rows, "field": self._field(velocity)}
            runs.write(cell.samples(step), samples)
            runs.write(cell.judgement(step), found)
            self._say(f"judged step {step:,} in {time.perf_counter() - begin:.0f} s")

    def judge(self, cell: Cell, velocity: Velocity) -> tuple[list[Row], np.ndarray]:
        """Cost and quality of every way to generate, and the samples that are drawn."""
        # Models of one seed start from the same normal variables, each mapped by its own process.
        key = jax.random.fold_in(jax.random.key(_PRIOR), cell.seed)
        num, ways = self._config.num_samples, self._ways(cell.run)
        shown, rows, drawn = shown_sampler(vars(self._config)), [], np.zeros(0)
        nearest = min(
            (sampler for sampler, _ in ways),
            key=lambda s: (s.adaptive, s.solver != shown.solver, abs(s.nfe - shown.nfe)),
        )
        for sampler, way in ways:
            self._pause()
            if (cell.model, sampler) not in self._compiled:
                # The first chunk compiles, so that the seconds are of work alone.
                chunk = chunk_size(way.chunk_size, num, self._dataset.event) or num
                self._generate(velocity, key, sampler, way, min(chunk, num), judged=False)
                self._compiled.add((cell.model, sampler))
            row, samples = self._generate(velocity, key, sampler, way, num)
            rows.append(row)
            drawn = samples if sampler == nearest else drawn
        return rows, drawn

    def _ways(self, run: RunConfig) -> list[tuple[Sampler, SamplingConfig]]:
        """Ways to generate; students and flow maps have their own."""
        config, along, samplers = self._config, self._config.coordinates, self._config.samplers()
        if run.student is not None or run.training.is_map:
            counts = [run.student.student_steps] if run.student else sorted(set(config.nfe))
            samplers, along = [Sampler("euler", 0.0, nfe) for nfe in counts], "straight"
        ways = []
        for sampler in samplers:
            steps = max(1, sampler.nfe // EVALUATIONS.get(sampler.solver, 1))
            power = sampler.grid_power or run.model.grid_power(along)
            how = sampler.solver, steps, config.tolerance, along, power, config.chunk_size
            ways.append((sampler, SamplingConfig(config.num_samples, *how)))
        return ways

    def _generate(
        self,
        velocity: Velocity,
        key: Key,
        sampler: Sampler,
        way: SamplingConfig,
        num: int,
        judged: bool = True,
    ) -> tuple[Row, np.ndarray]:
        """Evaluations, seconds a sample and quality, none where it failed; and the samples."""
        event = self._dataset.event
        function, way = as_drawn(velocity, way, {})
        options = way.options() | {"per_sample_steps": False, "return_nfe": True}
        options["chunk_size"] = chunk_size(way.chunk_size, num, event)
        row: Row = {"solver": sampler.solver, "grid_power": sampler.grid_power}
        row |= {"asked": sampler.nfe, NFE: None, SECONDS: None, "quality": None}
        begin = time.perf_counter()
        try:
            x, nfe = kacjax.generate(function, velocity.path, key, (num, *event), **options)
        except ValueError:
            # So says an adaptive solver that has taken too many steps.
            if not sampler.adaptive:
                raise
            return row, np.zeros(0)
        samples = self._dataset.finish(x)
        row |= {NFE: float(np.mean(nfe)), SECONDS: (time.perf_counter() - begin) / num}
        # Not the samples: bytes are always finite.
        if judged and np.all(np.isfinite(x)):
            with user_errors(ValueError, saying="the samples cannot be judged: "):
                row["quality"] = self._dataset.quality(samples)
        return row, samples

    def _field(self, velocity: Velocity) -> dict[str, list[float]]:
        """Size and steepness of a velocity at points of its path that start at data."""
        path, key, data = velocity.path, jax.random.key(_PRIOR), self._points
        times = jnp.asarray(np.geomspace(_EARLIEST, 1, _TIMES) * float(path.T), data.dtype)
        points = [path.sample(key, jnp.full(len(data), t), data).x_t for t in times]
        return measure_field(velocity, path, jnp.stack(points), times)
