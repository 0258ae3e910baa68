"""The configuration of a training run: typed dataclasses that are also the command line."""

import dataclasses
import json
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

import kacjax
from experiments.checks import check_choice, check_count, check_positive
from kacjax.data import TARGETS
from kacjax.generation import ADAPTIVE

# Beyond this, `jax.random.key` would need 64-bit integers.
MAX_SEED = 2**31 - 1
DATA = ("digits", *TARGETS)
MAY_BE_ZERO = ("fourier", "warmup")
NO_COUNTS = ("seed", "process_id")

ModelName = Literal["kac", "diffusion", "flow-matching"]
Solver = Literal["euler", "ab2", "heun", "midpoint", "rk4", "tsit5", "dopri5", "dopri8"]


@dataclasses.dataclass(frozen=True)
class PathConfig:
    """The path from data to noise: which of the three models is trained."""

    path: ModelName = "kac"
    """Model; flow-matching fixes T, signal and clock."""
    a: float = 9.0
    """Kac: rate of jumps."""
    c: float = 3.0
    """Kac: speed."""
    sigma: float = 1.0
    """Diffusion, flow-matching: deviation of the noise at time 1."""
    T: float = 1.0
    """Final time."""
    signal: Literal["linear", "cosine", "exponential", "constant"] = "linear"
    """How the data fade; to generate, to zero."""
    clock: Literal["t", "t2"] = "t"
    """How the noise enters: as t, or t^2 / T."""

    def make(self) -> kacjax.ProbabilityPath:
        """The path.

        Raises:
            ValueError: If a number is not positive and finite, or the signal does not vanish at
                `T`: generation would have to start from data.
        """
        if self.path == "flow-matching":
            return kacjax.flow_matching_path(self.sigma)
        if self.path == "kac":
            path = kacjax.kac_path(self.a, self.c, self.T, self.signal, self.clock)
        else:
            path = kacjax.diffusion_path(self.sigma, self.T, self.signal, self.clock)
        if not path.prior_is_noise:
            raise ValueError(
                f"signal {self.signal!r} does not vanish at T, so that generation from noise alone "
                "is not possible; use 'linear' or 'cosine'."
            )
        return path

    def unused(self, defaults: "PathConfig") -> list[str]:
        """Flags that differ from the defaults though this model does not read them."""
        reads = {
            "kac": {"a", "c", "T", "signal", "clock"},
            "diffusion": {"sigma", "T", "signal", "clock"},
            "flow-matching": {"sigma"},
        }[self.path]
        names = [field.name for field in dataclasses.fields(self) if field.name != "path"]
        return [
            flag(name)
            for name in names
            if name not in reads and getattr(self, name) != getattr(defaults, name)
        ]


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """The network."""

    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Residual blocks."""
    fourier: int = 0
    """Random Fourier features of the input."""
    prediction: Literal["x0", "velocity"] = "x0"
    """What the network predicts."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Training."""

    steps: int = 20_000
    """Optimizer steps."""
    batch_size: int = 256
    """Data in one step."""
    learning_rate: float = 1e-3
    """Peak of the learning rate."""
    warmup: int = 500
    """Steps until then."""
    ema_decay: float = 0.999
    """Decay of the averaged weights."""
    time_power: float = 2.0
    """Times are T u^power: 1 even, 2 near the data."""
    seed: int = 0
    """Seed of everything random."""


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Generation and judgement after training."""

    num_samples: int = 5000
    """Samples to generate and judge."""
    solver: Solver = "ab2"
    """Solver of the ODE."""
    solver_steps: int = 50
    """Its steps, unless it is adaptive; one evaluation each with ab2 and euler."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance, if it is adaptive."""
    grid_power: float = 2.0
    """Steps go like (1 - k / n)^power: 1 even, 2 short near the data."""

    def options(self) -> dict[str, Any]:
        """The keywords of `kacjax.generate` and `kacjax.trajectory` that say how to solve."""
        if self.solver not in ADAPTIVE:
            return {
                "steps": self.solver_steps,
                "solver": self.solver,
                "grid_power": self.grid_power,
            }
        # For each sample: it is then the same in whatever chunk, and alone.
        tolerances = {"rtol": self.tolerance, "atol": self.tolerance}
        return {"solver": self.solver, **tolerances, "per_sample_steps": True}

    def check(self) -> None:
        """Raises a `ValueError` if a number is not positive."""
        check_positive("--tolerance", self.tolerance)
        check_positive("--grid-power", self.grid_power)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    data: Annotated[str, tyro.conf.Suppress]
    model: PathConfig = PathConfig()
    network: NetworkConfig = NetworkConfig()
    training: OptimizerConfig = OptimizerConfig()
    sampling: SamplingConfig = SamplingConfig()
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/DATA-PATH)"),
    ] = None
    """Folder of the run."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""

    def check(self) -> None:
        """Checks every value; those of a file may have any type.

        Raises:
            TypeError, ValueError: If a value has another type than its field, is an unknown name,
                a count below one, or a rate out of its range.
        """
        check_choice("data", self.data, DATA)
        for group in (self.model, self.network, self.training, self.sampling):
            check_group(group)
        check_positive("--learning-rate", self.training.learning_rate)
        check_positive("--time-power", self.training.time_power)
        self.sampling.check()
        if not 0 <= self.training.ema_decay < 1:
            raise ValueError(f"--ema-decay must lie in [0, 1), got {self.training.ema_decay}.")
        check_seed(self.training.seed)

    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs", f"{self.data}-{self.model.path}")


def check_seed(seed: int) -> None:
    """Raises a `ValueError` unless `jax.random.key` takes the seed."""
    if not 0 <= seed <= MAX_SEED:
        raise ValueError(f"--seed must lie between 0 and {MAX_SEED}, got {seed}.")


def check_group(group: Any) -> None:
    """Checks that every value of a group of flags is of its field's type, and counts at least 1.

    Raises:
        TypeError, ValueError: If one is not; values that come from a file may be anything.
    """
    for name, kind in get_type_hints(type(group)).items():
        value = getattr(group, name)
        _check_type(name, value, kind)
        if name not in NO_COUNTS:
            for count in value if isinstance(value, tuple) else (value,):
                if isinstance(count, int) and not isinstance(count, bool):
                    check_count(flag(name), count, int(name not in MAY_BE_ZERO))


def _check_type(name: str, value: Any, kind: Any) -> None:
    kinds = [each for each in get_args(kind) if each is not type(None)]
    if isinstance(kind, UnionType):
        if value is not None:
            _check_type(name, value, kinds[0])
    elif get_origin(kind) is Literal:
        check_choice(flag(name), value, kinds)
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise TypeError(f"{flag(name)} must be a list, got {value!r}.")
        for each in value:
            _check_type(name, each, kinds[0])
    elif not isinstance(value, int | float if kind is float else kind) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise TypeError(f"{flag(name)} must be of type {kind.__name__}, got {value!r}.")


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")


# What has another name now than in the files of older versions.
_RENAMED = {
    "parameterisation": "prediction",
    "grid": "grid_power",
    "power": "grid_power",
    "memorisation_ratio": "memorization_ratio",
}
_VALUES = {
    ("prediction", "data"): "x0",
    ("grid_power", "path"): 2.0,
    ("grid_power", "power"): 2.0,
    ("grid_power", "uniform"): 1.0,
}


def read_json(text: str) -> Any:
    """What a JSON file of a run or of a comparison says, in the names of this version.

    Raises:
        ValueError: If it is none.
    """

    def renamed(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = {_RENAMED.get(name, name): value for name, value in pairs}
        return {
            name: _VALUES.get((name, value), value) if isinstance(value, str) else value
            for name, value in values.items()
        }

    return json.loads(text, object_pairs_hook=renamed)


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """What config.json holds: everything that decides the result, and not where it lies."""
    values = dataclasses.asdict(config)
    return {name: value for name, value in values.items() if name not in ("out", "overwrite")}


def from_dict(values: dict[str, Any]) -> TrainConfig:
    """The inverse of `to_dict`.

    Raises:
        KeyError, TypeError, ValueError: If a field is missing, unknown or wrong.
    """
    config = TrainConfig(
        data=values["data"],
        model=PathConfig(**values["model"]),
        network=NetworkConfig(**values["network"]),
        training=OptimizerConfig(**values["training"]),
        sampling=SamplingConfig(**values["sampling"]),
    )
    config.check()
    config.model.make()
    return config
