"""Measures velocity and gradient near data without width.

For the nine points of grid2d every model's exact marginal velocity, and a network trained on it, are
followed along their own trajectories from noise to data. At each time the largest component of the
velocity over all trajectories is kept, and the largest spectral norm of its Jacobian.

python -m experiments.explosion
python -m experiments.explosion --a 25 --c 2 --steps 2000 --out runs/explosion-25
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from jaxtyping import PRNGKeyArray as Key
from matplotlib.figure import Figure

import kacjax
from experiments import report, runs
from experiments.checks import check_group
from experiments.command import command, start, user_errors
from experiments.compare.config import ModelsConfig, make_models
from experiments.compare.figures import finish, style_of
from experiments.compare.table import label
from experiments.config import PathConfig, to_dict
from experiments.datasets.vectors import Grid2d
from experiments.defaults import DEFAULTS
from experiments.hosts import StopSignals
from experiments.sampling import measure_field
from experiments.session import Session
from kacjax import plots
from kacjax.data import GRID2D_MODES

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


class Centers(Grid2d):
    """The centers of the nine modes, which have no width here."""

    num = len(GRID2D_MODES)

    def training(self, key: Key) -> tuple[Any, None]:
        """The nine points."""
        return GRID2D_MODES, None


def bound(path: kacjax.ProbabilityPath, times: np.ndarray) -> list[float] | None:
    """The bound of every component, $|f'| max |x_0| + g' c$, where the process has a speed."""
    speed = path.process.max_speed()
    if not np.isfinite(speed):
        return None
    at = path.coefficients(jnp.asarray(times))
    reach = float(np.abs(GRID2D_MODES).max())
    return np.asarray(jnp.abs(at.f_dot) * reach + at.g_dot * speed).tolist()


def measure(config: ExplosionConfig, name: str, model: PathConfig) -> dict[str, Any]:
    """Trains a network for one model and follows both fields."""
    path = model.make()
    prior_key = jax.random.fold_in(jax.random.key(config.seed), 1)
    times = np.geomspace(1, config.earliest, config.times).astype(np.float32) * np.float32(path.T)
    fields = {
        "exact": kacjax.exact_velocity(path, jnp.asarray(GRID2D_MODES)),
        "learned": _learn(config, name, model),
    }
    measured: dict[str, Any] = {"bound": bound(path, times)}
    for field, velocity in fields.items():
        given = velocity, path, prior_key, (config.trajectories, 2), times
        positions = kacjax.trajectory(*given, coordinates="time", **_SOLVER)
        measured[field] = measure_field(velocity, path, positions, times)
    return {"times": times.tolist(), **measured}


def _learn(config: ExplosionConfig, name: str, model: PathConfig) -> kacjax.Velocity:
    """A network as for grid2d, trained on its nine centers alone; goes on where it was stopped."""
    default = DEFAULTS["grid2d"][1]
    options = dataclasses.replace(default.training, steps=config.steps, seed=config.seed)
    run = dataclasses.replace(default, model=model, training=options, resume=True)
    folder = config.out / f"training-{name}-{report.digest(to_dict(run))}"
    with user_errors(OSError, saying="cannot write the run: "):
        folder.mkdir(parents=True, exist_ok=True)
    with runs.locked(folder), StopSignals() as stop:
        session = Session(run, Centers("grid2d"), folder)
        if not session.train(stop, said=False):
            raise KeyboardInterrupt
        return session.velocity()


def explode(config: ExplosionConfig) -> None:
    """Measures all models and draws them; those that were measured before are read."""
    check_group(config)
    kept = {k: v for k, v in dataclasses.asdict(config).items() if k != "out"}
    found: dict[str, Any] = {}
    for name, model in make_models(ModelsConfig(a=(config.a,), c=(config.c,))).items():
        file = config.out / f"{name}-{report.digest(kept)}.json"
        if not file.exists():
            runs.write(file, measure(config, name, model))
        found[name] = runs.read_json(file)
        print(f"{name}: measured", flush=True)
    result = {"configuration": kept, "models": found, **report.surroundings()}
    runs.write(config.out / "explosion.json", result)
    runs.write(config.out / "explosion.png", explosion_figure(found))
    summary = {
        f"{model}, {field}, {what.replace('_', ' ')}": values[field][what][-1]
        for model, values in found.items()
        for field in ("exact", "learned")
        for what in ("max_component", "max_lipschitz")
    }
    print(report.table(f"at t = {config.earliest:g}, over all trajectories", summary))
    print(config.out / "explosion.json", config.out / "explosion.png", sep="\n")


@plots.styled
def explosion_figure(found: dict[str, Any]) -> Figure:
    """Largest velocity and gradient along trajectories: exact, learned, and the bound of the speed."""
    figure, axes = plots.panels(2, 8.4, 3.9)
    for model, style in style_of(list(found)).items():
        values, color = found[model], style["color"]
        t = values["times"]
        for ax, what in zip(axes, ("max_component", "max_lipschitz"), strict=True):
            ax.plot(t, values["exact"][what], color=color, label=label(model))
            ax.plot(t, values["learned"][what], color=color, linestyle="--")
            ax.set(xscale="log", yscale="log", xlabel="time $t$, data at the left")
        if values["bound"] is not None:
            axes[0].plot(t, values["bound"], color=color, linestyle=":", linewidth=2.2)
    axes[0].set_ylabel("largest component of the velocity")
    axes[1].set_ylabel("largest norm of its Jacobian")
    note = "solid: exact   dashed: learned   dotted: bound $|f'| \\max|x_0| + g' c$"
    return finish(figure, axes, note)


main = command(
    ExplosionConfig,
    explode,
    "explosion",
    __doc__,
    "interrupted: models that were measured stay measured.",
)

if __name__ == "__main__":
    start(main)
