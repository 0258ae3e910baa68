"""Measures how velocity and gradient grow as generation nears the data, for modes without width.

For the nine points of grid2d every model's exact marginal velocity, and a network trained on it, are
followed along their own trajectories from noise to data. At each time the largest component of the
velocity over all trajectories is kept, and the largest spectral norm of its Jacobian.

python -m experiments.explosion
python -m experiments.explosion --a 25 --c 5 --steps 2000 --out runs/explosion-25
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PRNGKeyArray as Key

import kacjax
from experiments import report, runs
from experiments.checks import check_count, check_positive
from experiments.command import parse_flags, run, user_errors
from experiments.compare.cells import digest
from experiments.compare.figures import explosion_figure
from experiments.compare.models import Model, ModelsConfig, make_models
from experiments.config import TrainConfig, check_seed
from experiments.defaults import DEFAULTS
from experiments.sampling import make_trainer
from kacjax.data import GRID2D_MODES
from kacjax.diagnostics import field_statistics

# Solver steps of a trajectory, crowded so that every decade of time has many.
_SOLVER = {"steps": 300, "solver": "heun", "grid_power": 4.0}


@dataclasses.dataclass(frozen=True)
class ExplosionConfig:
    """The velocity near the data."""

    a: float = 9.0
    """Kac: rate of jumps."""
    c: float = 3.0
    """Kac: speed."""
    steps: int = 20_000
    """Optimizer steps of the networks."""
    trajectories: int = 1000
    """Trajectories to follow."""
    times: int = 41
    """Times to look at, evenly spaced in their logarithm."""
    earliest: float = 1e-4
    """The smallest of them."""
    seed: int = 0
    """Seed of networks and noise."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/explosion")
    """Folder of the results; one that was interrupted continues."""

    def check(self) -> None:
        """Raises a `ValueError` that names the first flag with an impossible value."""
        for name, value in (("--a", self.a), ("--c", self.c), ("--earliest", self.earliest)):
            check_positive(name, value)
        if self.earliest >= 1:
            raise ValueError(f"--earliest must lie below 1, got {self.earliest}.")
        for name in ("steps", "trajectories"):
            check_count(f"--{name}", getattr(self, name))
        check_count("--times", self.times, 2)
        check_seed(self.seed)


def bound(path: kacjax.ProbabilityPath, times: np.ndarray) -> list[float] | None:
    """The bound of every component, $|f'| max |x_0| + g' c$, where the process has a speed."""
    if not isinstance(path.process, kacjax.KacProcess):
        return None
    at = path.coefficients(jnp.asarray(times))
    reach = float(np.abs(GRID2D_MODES).max())
    return np.asarray(jnp.abs(at.f_dot) * reach + at.g_dot * path.process.c).tolist()


def measure(config: ExplosionConfig, model: Model) -> dict[str, Any]:
    """Trains a network for one model and follows both fields."""
    path = model.path.make()
    training_key, prior_key = jax.random.split(jax.random.key(config.seed))
    times = np.geomspace(1, config.earliest, config.times).astype(np.float32) * np.float32(path.T)
    fields = {
        "exact": kacjax.exact_velocity(path, jnp.asarray(GRID2D_MODES)),
        "learned": _learn(config, model, training_key),
    }
    measured: dict[str, Any] = {"bound": bound(path, times)}
    for name, velocity in fields.items():
        positions = kacjax.trajectory(
            velocity,
            path,
            prior_key,
            (config.trajectories, 2),
            times,
            coordinates="time",
            **_SOLVER,
        )
        found = _field_statistics(velocity, path, positions, times)
        measured[name] = {key: np.asarray(value).tolist() for key, value in found._asdict().items()}
    return {"times": times.tolist(), **measured}


_field_statistics = eqx.filter_jit(field_statistics)


def _learn(config: ExplosionConfig, model: Model, key: Key) -> kacjax.Velocity:
    """A network as for grid2d, trained on its nine centers alone."""
    default = DEFAULTS["grid2d"][1]
    assert isinstance(default, TrainConfig)
    options = dataclasses.replace(default.training, steps=config.steps, seed=config.seed)
    trainer = make_trainer(dataclasses.replace(default, model=model.path, training=options), 2)
    with user_errors(FloatingPointError, saying=f"{model.name}: "):
        state, _ = trainer.run(trainer.init(key), trainer.device_data(GRID2D_MODES))
    return trainer.velocity(state)


def explode(config: ExplosionConfig) -> None:
    """Measures all models and draws them; those that were measured before are read.

    Raises:
        UserError: If a flag does not make sense, a file is damaged or cannot be written.
    """
    with user_errors(ValueError):
        config.check()
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
    name = digest(kept)
    found: dict[str, Any] = {}
    for model in make_models(ModelsConfig(a=(config.a,), c=(config.c,))):
        file = config.out / f"{model.name}-{name}.json"
        if not file.exists():
            runs.write_json(file, measure(config, model))
        with user_errors(OSError, ValueError, saying=f"{file} is damaged, delete it: "):
            found[model.name] = json.loads(file.read_text())
        print(f"{model.name}: measured", flush=True)
    result = {"configuration": kept, "models": found, **report.surroundings()}
    runs.write_json(config.out / "explosion.json", result)
    runs.write_figure(config.out / "explosion.png", explosion_figure(found))
    print(report.table(f"at t = {config.earliest:g}, over all trajectories", _summary(found)))
    print(config.out / "explosion.json", config.out / "explosion.png", sep="\n")


def _summary(found: dict[str, Any]) -> dict[str, float]:
    """The largest velocities and gradients at the smallest time."""
    return {
        f"{model}, {field}, {what.replace('_', ' ')}": values[field][what][-1]
        for model, values in found.items()
        for field in ("exact", "learned")
        for what in ("max_component", "max_lipschitz")
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        explode(
            parse_flags(
                ExplosionConfig,
                argv,
                "python -m experiments.explosion",
                "Measures velocity and gradient near data without width.",
            )
        )

    return run(body, "interrupted: models that were measured stay measured.")


if __name__ == "__main__":
    sys.exit(main())
