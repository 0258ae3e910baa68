"""What a comparison compares: models, seeds, checkpoints and ways to generate, as flags."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

import tyro

from experiments.checks import check_count, check_positive
from experiments.compare.models import ModelsConfig, make_models
from experiments.config import (
    MAX_SEED,
    NetworkConfig,
    OptimizerConfig,
    SamplingConfig,
    TrainConfig,
    to_dict,
)
from experiments.images import config as images
from experiments.images.config import (
    ImageConfig,
    ImageOptimizerConfig,
    KnownSetConfig,
    UNetConfig,
)
from kacjax.generation import ADAPTIVE

# To be raised when judging or generating changes its meaning: older judgements are then not read.
_JUDGEMENT_VERSION = 3
# The same for that of images.
_IMAGES_VERSION = 2

FixedSolver = Literal["euler", "ab2", "heun", "midpoint", "rk4"]
AdaptiveSolver = Literal["tsit5", "dopri5", "dopri8"]

# Evaluations of the network for a step.
_EVALUATIONS = {"euler": 1, "ab2": 1, "heun": 2, "midpoint": 2, "rk4": 4}

# What --quick does in place of flags that are left at their defaults; steps are divided by this.
_QUICK_DIVISOR, _QUICK_SAMPLES, _QUICK_SEEDS, _QUICK_CHECKPOINTS = 5, 2000, 1, (0.25, 1.0)


class Sampler(NamedTuple):
    """One way to generate: a solver with the exponent of its steps and its evaluations.

    Attributes:
        solver: Name of the solver.
        grid_power: Exponent of the steps; 0 for the default, see `evaluation.grid_power`, and for an adaptive
            solver, which chooses its own steps.
        nfe: Evaluations asked for; 0 for an adaptive solver.
    """

    solver: str
    grid_power: float
    nfe: int

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver in ADAPTIVE

    @property
    def steps(self) -> int:
        """Steps of a fixed-step solver: as many as the evaluations pay for, at least one."""
        return 1 if self.adaptive else max(1, self.nfe // _EVALUATIONS[self.solver])

    @property
    def name(self) -> str:
        """A short name, such as `euler`, or `euler^3` with the exponent of another grid."""
        return f"{self.solver}^{self.grid_power:g}" if self.grid_power else self.solver


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Generation and judgement, the same for every model."""

    nfe: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Evaluations of the network for a sample."""
    solver: tuple[FixedSolver, ...] = ("ab2",)
    """Solvers with fixed steps."""
    grid_power: tuple[float, ...] = ()
    """Exponents of their steps; 2 if none, in time the path's best."""
    coordinates: Literal["straight", "time"] = "straight"
    """Coordinates of every solver: those in which paths are straight, or time as it is."""
    adaptive: tuple[AdaptiveSolver, ...] = ("tsit5",)
    """Adaptive solvers."""
    tolerance: float = 1e-3
    """Their relative and absolute tolerance."""
    num_samples: int = 5000
    """Samples to generate and judge."""
    chunk_size: int | None = None
    """Samples to generate together; all if none."""

    @property
    def shown(self) -> int:
        """The evaluations whose samples are kept and drawn: the middle ones."""
        ordered = sorted(set(self.nfe))
        return ordered[(len(ordered) - 1) // 2]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """From what a results file says of it; what else that says of judging is left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name in names
        }
        return cls(**known)

    def samplers(self) -> list[Sampler]:
        """Every way to generate, the adaptive ones last."""
        fixed = itertools.product(self.solver, self.grid_power or (0.0,), sorted(set(self.nfe)))
        return [Sampler(*each) for each in fixed] + [Sampler(each, 0, 0) for each in self.adaptive]


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """A comparison on one data set."""

    data: Annotated[str, tyro.conf.Suppress]
    models: ModelsConfig = dataclasses.field(default_factory=ModelsConfig)
    network: NetworkConfig = dataclasses.field(default_factory=NetworkConfig)
    training: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    seeds: int = 3
    """Seeds, counted from --seed: of network, batches, noise and prior."""
    checkpoints: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    """Fractions of the training after which to judge; the last is 1."""
    against: Annotated[
        str | None,
        tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: flow-matching)"),
    ] = None
    """Model to which the others are compared seed by seed."""
    quick: bool = False
    """One seed, a fifth of the steps, fewer samples and checkpoints."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/compare-DATA)"),
    ] = None
    """Folder of the results; one that was interrupted continues."""
    cells: Annotated[
        Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: OUT/cells)")
    ] = None
    """Folder of networks and judgements, which comparisons may share."""

    def check(self) -> None:
        """Raises a `ValueError` that names the first flag with an impossible value."""
        for name, values in (
            ("--a", self.models.a),
            ("--c", self.models.c),
            ("--grid-power", self.evaluation.grid_power),
            ("--tolerance", (self.evaluation.tolerance,)),
        ):
            for value in values:
                check_positive(name, value)
        for name, values in (
            ("--nfe", self.evaluation.nfe),
            ("--num-samples", (self.evaluation.num_samples,)),
            ("--chunk-size", (self.evaluation.chunk_size or 1,)),
            ("--seeds", (self.seeds,)),
        ):
            for value in values:
                check_count(name, value)
        for name, values in (
            ("--a", self.models.a),
            ("--c", self.models.c),
            ("--clock", self.models.clock),
            ("--nfe", self.evaluation.nfe),
            ("--solver", self.evaluation.solver),
        ):
            if not values:
                raise ValueError(f"{name} needs at least one value.")
        fractions = self.checkpoints
        if not fractions or max(fractions) != 1 or not all(0 < each <= 1 for each in fractions):
            raise ValueError(
                f"--checkpoints must lie in (0, 1] and hold 1, got {' '.join(map(str, fractions))}."
            )
        names = [model.name for model in make_models(self.models)]
        if self.against is not None and self.against not in names:
            raise ValueError(f"--against must be one of {', '.join(names)}, got {self.against}.")
        if self.training.seed + self.seeds - 1 > MAX_SEED:
            raise ValueError(f"--seed plus --seeds must stay below {MAX_SEED}.")
        for run in self.runs(self.training.seed).values():
            run.check()

    def folder(self) -> Path:
        """Where the results go."""
        return self.out or Path("runs", f"compare-{self.data}")

    def cells_folder(self) -> Path:
        """Where the networks and judgements go."""
        return self.cells or self.folder() / "cells"

    def all_seeds(self) -> range:
        """The seeds."""
        return range(self.training.seed, self.training.seed + self.seeds)

    def steps(self) -> list[int]:
        """The numbers of optimizer steps after which to judge, rising."""
        return sorted({max(1, round(each * self.training.steps)) for each in self.checkpoints})

    def runs(self, seed: int) -> Mapping[str, TrainConfig | ImageConfig]:
        """The training run of every model by the model's name."""
        training = dataclasses.replace(self.training, seed=seed)
        return {
            model.name: TrainConfig(self.data, model.path, self.network, training, SamplingConfig())
            for model in make_models(self.models)
        }

    def judgement(self) -> dict[str, Any]:
        """Everything that decides the judgement of a network, as JSON has it."""
        values = {"version": _JUDGEMENT_VERSION, **dataclasses.asdict(self.evaluation)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """The whole comparison, as JSON has it, without where it lies."""
        models = make_models(self.models)
        return {
            "data": self.data,
            "models": {model.name: dataclasses.asdict(model.path) for model in models},
            "network": dataclasses.asdict(self.network),
            "training": dataclasses.asdict(self.training),
            "evaluation": self.judgement(),
            "seeds": list(self.all_seeds()),
            "steps": self.steps(),
            "against": self.against,
        }

    def quickened(self, defaults: Self) -> Self:
        """What `--quick` makes of it: smaller wherever a flag was left at its default."""
        if not self.quick:
            return self

        def pick(value: Any, default: Any, quick: Any) -> Any:
            return quick if value == default else value

        steps, samples = defaults.training.steps, defaults.evaluation.num_samples
        training = dataclasses.replace(
            self.training, steps=pick(self.training.steps, steps, max(1, steps // _QUICK_DIVISOR))
        )
        evaluation = dataclasses.replace(
            self.evaluation,
            num_samples=pick(self.evaluation.num_samples, samples, min(samples, _QUICK_SAMPLES)),
        )
        return dataclasses.replace(
            self,
            training=training,
            evaluation=evaluation,
            seeds=pick(self.seeds, defaults.seeds, _QUICK_SEEDS),
            checkpoints=pick(self.checkpoints, defaults.checkpoints, _QUICK_CHECKPOINTS),
        )


@dataclasses.dataclass(frozen=True)
class ImageCompareConfig(CompareConfig):
    """A comparison on MNIST or CIFAR-10."""

    source: KnownSetConfig = dataclasses.field(default_factory=KnownSetConfig)
    network: UNetConfig = dataclasses.field(default_factory=UNetConfig)
    training: ImageOptimizerConfig = dataclasses.field(default_factory=ImageOptimizerConfig)
    classifier: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: for mnist, the one here)"),
    ] = None
    """Judge of the samples, from `experiments.features`."""

    def check(self) -> None:
        """Raises a `ValueError` that names the first flag with an impossible value."""
        if self.network.conditional:
            raise ValueError("--conditional: a comparison is of networks that know no classes.")
        if self.classifier is not None and not self.classifier.is_file():
            raise ValueError(f"--classifier: there is no file {self.classifier}.")
        super().check()

    def runs(self, seed: int) -> dict[str, ImageConfig]:
        """The training run of every model by the model's name."""
        training = dataclasses.replace(self.training, seed=seed)
        return {
            model.name: ImageConfig(self.data, self.source, model.path, self.network, training)
            for model in make_models(self.models)
        }

    def judgement(self) -> dict[str, Any]:
        """Everything that decides the judgement of a network, as JSON has it."""
        values = {**super().judgement(), "images_version": _IMAGES_VERSION}
        if self.classifier is None:
            return values
        content = hashlib.sha256(self.classifier.read_bytes()).hexdigest()[:16]
        return {**values, "classifier": content}


def training_dict(run: TrainConfig | ImageConfig) -> dict[str, Any]:
    """Everything that decides a trained network, as JSON has it."""
    if isinstance(run, TrainConfig):
        return {name: value for name, value in to_dict(run).items() if name != "sampling"}
    values = {name: value for name, value in images.to_dict(run).items() if name != "sampling"}
    values["source"] = {"flip": run.source.flip}
    values["training"].pop("log_every")
    return values
