"""The judgement of one network: quality, evaluations and time for every way to generate."""

import time
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments.compare.config import EvaluationConfig, Sampler
from experiments.compare.subjects import Subject
from kacjax import Velocity
from kacjax.diagnostics import field_statistics

# Priors of generation; training draws its own keys from the same seed.
_PRIOR = 1_000_003
# The field is measured at so many times, from the first.
_FIELD_TIMES, _FIELD_EARLIEST = 16, 1e-3


class Judgement(NamedTuple):
    """What a network is worth.

    Attributes:
        rows: One entry for each way to generate: solver, power of its steps, evaluations asked for and spent,
            seconds a sample, and the figures by which the data set judges.
        samples: Samples of the way that is drawn.
        field: The velocity's size against time; see `measure_field`.
    """

    rows: list[dict[str, Any]]
    samples: np.ndarray
    field: dict[str, list[float]]


class Judge:
    """Judges networks on one data set, all with the same noise, real data and ways to generate."""

    def __init__(self, subject: Subject, config: EvaluationConfig):
        self._dataset, self._config = subject.dataset, config
        self._warm: set[tuple[str, Sampler]] = set()
        self._points = subject.dataset.training(jax.random.key(_PRIOR))[: subject.field_points]

    def __call__(self, model: str, velocity: Velocity, seed: int) -> Judgement:
        """Generates in every way and judges.

        The key of the prior depends on the seed alone: models of one seed start from the same
        normal variables, mapped by each one's own process.

        Args:
            model: Name of the model; what was compiled for it is not compiled again.
            velocity: The trained velocity.
            seed: The seed of the prior.
        """
        key = jax.random.fold_in(jax.random.key(_PRIOR), seed)
        first = self._config.samplers()[0]
        rows, shown = [], None
        for sampler in self._config.samplers():
            samples, nfe, seconds = self._generate(model, velocity, key, sampler)
            finite = bool(np.all(np.isfinite(samples)))
            rows.append(
                {
                    "solver": sampler.solver,
                    "grid_power": sampler.grid_power,
                    "asked": sampler.nfe,
                    "nfe": nfe,
                    "seconds_per_sample": seconds,
                    "quality": self._dataset.quality(samples) if finite else None,
                }
            )
            if shown is None or (sampler[:2] == first[:2] and sampler.nfe == self._config.shown):
                shown = samples
        assert shown is not None  # There is a solver: the configuration was checked.
        return Judgement(rows, shown, measure_field(velocity, self._points))

    def _generate(
        self, model: str, velocity: Velocity, key: Key, sampler: Sampler
    ) -> tuple[np.ndarray, float, float]:
        """Samples, evaluations, and seconds a sample without compilation."""
        config, path = self._config, velocity.path
        options: dict[str, Any] = {"rtol": config.tolerance, "atol": config.tolerance}
        if not sampler.adaptive:
            power = sampler.grid_power or grid_power(path, config.coordinates)
            options = {"steps": sampler.steps, "grid_power": power}
        runs = 1 if (model, sampler) in self._warm else 2
        self._warm.add((model, sampler))
        for _ in range(runs):
            begin = time.perf_counter()
            x, nfe = kacjax.generate(
                velocity,
                path,
                key,
                (config.num_samples, *self._dataset.event),
                solver=sampler.solver,
                coordinates=config.coordinates,
                per_sample_steps=False,
                chunk_size=config.chunk_size,
                return_nfe=True,
                **options,
            )
            samples = self._dataset.finish(jnp.asarray(x))
            seconds = time.perf_counter() - begin
        return samples, float(np.mean(nfe)), seconds / len(samples)


def grid_power(path: kacjax.ProbabilityPath, coordinates: str) -> float:
    """The exponent of the steps unless flags say otherwise: in time, what was measured as best.

    From `python -m benchmarks.grids --coordinates time`: over 10, 20 and 50 evaluations of the exact
    velocity these come closest to the law of the data, among those that reach the data at all. A
    Brownian displacement falls like the root of its time, and needs a high power.
    """
    if coordinates == "time" and isinstance(path.clock, kacjax.schedules.QuadraticClock):
        return 1.5
    if coordinates == "time" and isinstance(path.process, kacjax.WienerProcess):
        return 4.0
    return 2.0


def measure_field(velocity: Velocity, data: Float[Array, "num *event"]) -> dict[str, list[float]]:
    """Size and steepness of a velocity at points of its path, against time.

    Args:
        velocity: The velocity.
        data: Where the path's points start.

    Returns:
        The lists of `kacjax.diagnostics.FieldStatistics` by name.
    """
    path = velocity.path
    times = jnp.asarray(np.geomspace(_FIELD_EARLIEST, 1, _FIELD_TIMES) * float(path.T), data.dtype)
    key = jax.random.key(_PRIOR)
    points = [path.sample(key, jnp.full(len(data), t), data).x_t for t in times]
    found = _field_statistics(velocity, path, jnp.stack(points), times)
    return {name: np.asarray(values).tolist() for name, values in found._asdict().items()}


_field_statistics = eqx.filter_jit(field_statistics)
