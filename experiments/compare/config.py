"""What a comparison compares: models, seeds, checkpoints and ways to generate, as flags.

Its folder has one cell for each model and seed:

    kac-seed0-1f2e3d4c5b/           a run, see `experiments.runs`
        step-000500/                after 500 steps
            velocity.safetensors    the averaged network
            judged-0a1b2c3d4e.json  samples-0a1b2c3d4e.npy

Names end with digests of everything that decides a network, and how it was judged: a changed
configuration has cells of its own, and what is finished is never written again.
"""

import dataclasses
import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from experiments import config as run_config
from experiments import runs
from experiments.checks import check_group, flag
from experiments.command import (
    UserError,
    check_choice,
    check_count,
    check_ladder,
    optional,
    user_errors,
)
from experiments.config import PathConfig, RunConfig, TrainingConfig, to_dict
from experiments.defaults import DEFAULTS
from experiments.report import digest
from kacjax.generation import ADAPTIVE

# To be raised when judging or generating changes its meaning: older judgements are then not read.
_VERSION = 6
# Evaluations of the network for a step.
EVALUATIONS = {"euler": 1, "ab2": 1, "heun": 2, "midpoint": 2, "rk4": 4}
# Where data lie and who judges them does not decide a network; what they are has a fingerprint.
_ELSEWHERE = ("data", "data_root", "classifier", "unreadable", "on_nonfinite")
# The few images that training draws are not enough to be judged.
_IMAGES = 2000
# What --quick does: steps are divided by the first, and samples are at most the second.
_QUICK_DIVISOR, _QUICK_SAMPLES, _QUICK_CHECKPOINTS = 5, 2000, (0.25, 1.0)


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
    """Models; every combination of the values is one."""

    a: tuple[float, ...] = (9.0,)
    """Kac: rates of jumps."""
    c: tuple[float, ...] = (3.0,)
    """Kac: speeds."""
    clock: tuple[Literal["t", "t2"], ...] = ("t", "t2")
    """Clocks of every model; diffusion with t2 is flow matching."""
    matched: bool = True
    """Controls of Kac: Wiener models also with sigma = c / sqrt(a)."""
    ot: bool = False
    """Models also with noise and data coupled by optimal transport; not vp and edm."""
    maps: tuple[Literal["lsd", "meanflow"], ...] = ()
    """Flow maps for few steps, learned beside every velocity."""
    students: tuple[int, ...] = ()
    """Steps of students of every model, falling, each taught by the one before."""
    teacher_steps: int = 32
    """Steps of the teacher of the first of them."""
    student_training_steps: Annotated[int | None, optional("INT", "half of --steps")] = None
    """Optimizer steps of each student."""
    baselines: tuple[Literal["vp", "edm"], ...] = ()
    """Further models: variance preserving diffusion, EDM."""
    sigma_data: float = 0.5
    """EDM: deviation of the data."""


def make_models(config: ModelsConfig) -> dict[str, PathConfig]:
    """The controls, Kac for every `a`, `c` and clock, and the others of every clock, by their names.

    Controls are Wiener models with noise of Kac's deviation; the others have the deviation 1, and
    after them come the baselines. Kac models are named by `a` and `c` if there are several.
    """
    pairs = _pairs(config)
    sigmas = [c / a**0.5 for a, c in pairs if config.matched]
    models = dict(_wiener(sigma, clock) for sigma in sigmas for clock in config.clock)
    for pair, clock in itertools.product(pairs, config.clock):
        models[_kac_name(pair, clock, pairs)] = PathConfig("kac", *pair, clock=clock)
    for clock in config.clock:
        name, path = _wiener(1.0, clock)
        models.setdefault(name, path)
    known = {"vp": PathConfig("vp"), "edm": PathConfig("edm", sigma_data=config.sigma_data)}
    return models | {name: known[name] for name in config.baselines}


def _pairs(config: ModelsConfig) -> list[tuple[float, float]]:
    return list(dict.fromkeys(itertools.product(config.a, config.c)))


def _kac_name(pair: tuple[float, float], clock: str, pairs: list[tuple[float, float]]) -> str:
    return f"kac-{clock}" + "-a{:.12g}-c{:.12g}".format(*pair) * (len(pairs) > 1)


def _wiener(sigma: float, clock: str) -> tuple[str, PathConfig]:
    # Named by three digits: those that differ by rounding are one.
    shown = f"{sigma:.3g}"
    name = "flow-matching" if clock == "t2" else "diffusion"
    same = shown == "1"
    return name + f"-sigma{shown}" * (not same), PathConfig(name, sigma=1.0 if same else sigma)


class Sampler(NamedTuple):
    """One way to generate; 0 is the default power, and what an adaptive solver chooses itself."""

    solver: str
    grid_power: float
    nfe: int

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver in ADAPTIVE

    @property
    def cost(self) -> str | int:
        """What rivals have in common: the evaluations, or the adaptive solver."""
        return self.solver if self.adaptive else self.nfe

    @property
    def name(self) -> str:
        """A short name, such as `euler`, or `euler^3` with the exponent of another grid."""
        return f"{self.solver}^{self.grid_power:g}" if self.grid_power else self.solver


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Generation and judgement, the same for every model."""

    nfe: tuple[int, ...] = (5, 10, 20, 50, 100)
    """Evaluations of the network for a sample; those that a solver's steps make up."""
    solver: tuple[Literal["euler", "ab2", "heun", "midpoint", "rk4"], ...] = ("ab2",)
    """Solvers with fixed steps."""
    grid_power: tuple[float, ...] = ()
    """Exponents of their steps; 2 if none, in time the path's best."""
    coordinates: Literal["straight", "time"] = "straight"
    """Coordinates of every solver: those in which paths are straight, or time as it is."""
    adaptive: tuple[Literal["tsit5", "dopri5", "dopri8"], ...] = ("tsit5",)
    """Adaptive solvers."""
    tolerance: float = 1e-3
    """Their relative and absolute tolerance."""
    num_samples: int = 5000
    """Samples to generate and judge."""
    chunk_size: Annotated[int | None, optional("INT", "256 images, all vectors")] = None
    """Samples to generate together."""

    def samplers(self) -> list[Sampler]:
        """Every way to generate, the adaptive ones last.

        A solver has the numbers of evaluations that are a multiple of those of its step.
        """
        fixed = itertools.product(self.solver, self.grid_power or (0.0,), sorted(set(self.nfe)))
        whole = [Sampler(*each) for each in fixed if each[2] % EVALUATIONS[each[0]] == 0]
        return whole + [Sampler(each, 0, 0) for each in self.adaptive]


def shown_sampler(evaluation: dict[str, Any]) -> Sampler:
    """The way to generate that is drawn: the first solver and the middle number of evaluations."""
    solver, power = evaluation["solver"][0], (*evaluation["grid_power"], 0.0)[0]
    ordered = sorted(nfe for nfe in set(evaluation["nfe"]) if nfe % EVALUATIONS[solver] == 0)
    return Sampler(solver, power, ordered[(len(ordered) - 1) // 2])


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """A comparison on one data set."""

    data: Annotated[str, tyro.conf.Suppress]
    source: run_config.Source
    network: run_config.Network
    training: TrainingConfig
    models: ModelsConfig = ModelsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    seeds: int = 3
    """Seeds, counted from --seed: of network, batches, noise and prior."""
    checkpoints: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    """Fractions of the training after which to judge; the last is 1."""
    against: Annotated[str | None, optional("MODEL", "the control of each")] = None
    """Model to which the others are compared seed by seed."""
    quick: bool = False
    """One seed, a fifth of the steps, fewer samples and checkpoints."""
    out: Annotated[Path | None, optional("DIR", "runs/compare-DATA, -quick if it is")] = None
    """Folder of the results; one that was interrupted continues, and processes may share it."""
    overwrite: bool = False
    """Replace tables and figures of another comparison there; its networks stay."""
    cells: Annotated[Path | None, optional("DIR", "OUT/cells")] = None
    """Folder of networks and judgements, which comparisons may share."""

    def check(self) -> None:
        """Raises a `UserError` that names the first flag with an impossible value."""
        check_group(self)
        lists = vars(self.models) | vars(self.evaluation)
        for name in ("a", "c", "clock", "nfe", "solver"):
            if not lists[name]:
                raise UserError(f"{flag(name)} needs at least one value.")
        for solver in self.evaluation.solver:
            if not any(nfe % EVALUATIONS[solver] == 0 for nfe in self.evaluation.nfe):
                shown = " ".join(map(str, self.evaluation.nfe))
                asked = f"--nfe must hold a multiple of {EVALUATIONS[solver]}"
                raise UserError(f"{asked}, the evaluations of a step of {solver}, got {shown}.")
        check_count("--seed plus --seeds", self.training.seed + self.seeds - 1, 0)
        if 1 not in self.checkpoints or not all(0 < each <= 1 for each in self.checkpoints):
            shown = " ".join(f"{each:g}" for each in self.checkpoints)
            raise UserError(f"--checkpoints must lie in (0, 1] and hold 1, got {shown}.")
        models = self.models
        check_ladder("--students", models.students, "--teacher-steps", models.teacher_steps)
        for path in make_models(self.models).values():
            path.make()
        if self.against is not None:
            names = dict.fromkeys(cell.model for cell in make_cells(self, ""))
            check_choice("--against", self.against, names)
        if self.models.ot and self.training.objective != "flow":
            raise UserError(f"--ot needs --objective flow, got {self.training.objective}.")
        if self.network.conditional:
            raise UserError("--conditional: a comparison is of networks that know no classes.")
        if getattr(self.source, "stream", False):
            raise UserError("--stream: a comparison has its images in memory.")
        if self.data == "cifar10" and self.source.classifier is None:
            raise UserError("--classifier is missing: train one with `experiments.features`.")

    def folder(self) -> Path:
        """Where the results go."""
        usual = Path("runs", f"compare-{self.data}" + "-quick" * self.quick)
        return (self.out or usual).expanduser()

    def steps(self) -> list[int]:
        """The numbers of optimizer steps after which to judge, rising."""
        return sorted({max(1, round(each * self.training.steps)) for each in self.checkpoints})

    def runs(self) -> list[tuple[str, RunConfig]]:
        """The training runs with the names of their models: seed by seed."""
        seeds = range(self.training.seed, self.training.seed + self.seeds)
        options: dict[str, Any] = {"record": run_config.RecordConfig(keep=1), "resume": True}
        objectives, usual = (self.training.objective, *self.models.maps), self.training.coupling
        found = []
        for seed, (model, path) in itertools.product(seeds, make_models(self.models).items()):
            couples = self.models.ot and path.path not in ("vp", "edm")
            couplings = dict.fromkeys((usual, "ot") if couples else (usual,))
            for coupling, objective in itertools.product(couplings, dict.fromkeys(objectives)):
                # Flow maps draw noise and data by themselves.
                if coupling != usual and objective != "flow":
                    continue
                name = model + f"-{coupling}" * (coupling != usual)
                name += f"-{objective}" * (objective in self.models.maps)
                learned = {"seed": seed, "objective": objective, "coupling": coupling}
                training = replace(self.training, **learned)
                run = RunConfig(self.data, self.source, path, self.network, training, **options)
                found.append((name, run))
        return found

    def controls(self) -> dict[str, str]:
        """The control of every Kac model: noise of another law, learned and solved as that is.

        It is flow matching where there is the clock `t2`, also for Kac with the clock `t`: the
        better of the Wiener models. Deviations agree at `T` up to the factor `1 - 1 / (4 a T)`.
        """
        pairs, clock, found = _pairs(self.models), max(self.models.clock), {}
        names = dict.fromkeys(cell.model for cell in make_cells(self, ""))
        for (a, c), own in itertools.product(pairs, self.models.clock):
            kac, (wiener, _) = _kac_name((a, c), own, pairs), _wiener(c / a**0.5, clock)
            for model in names:
                control = wiener + model.removeprefix(kac)
                if (model == kac or model.startswith(f"{kac}-")) and control in names:
                    found[model] = control
        return found if self.models.matched else {}

    def judgement(self) -> dict[str, Any]:
        """Everything that decides the judgement of a network, as JSON has it."""
        values = {"version": _VERSION, **dataclasses.asdict(self.evaluation)}
        if classifier := getattr(self.source, "classifier", None):
            with user_errors(OSError, saying="--classifier: "):
                values["classifier"] = hashlib.sha256(classifier.read_bytes()).hexdigest()[:16]
        return json.loads(json.dumps(values))


class Cell(NamedTuple):
    """A model's training run, which lies in a folder; `judged` stands for how it is judged."""

    model: str
    seed: int
    run: RunConfig
    folder: Path
    judged: str
    steps: list[int]

    def network(self, step: int) -> Path:
        """The file of the network after so many steps."""
        return self.folder / f"step-{step:06d}" / runs.VELOCITY

    def judgement(self, step: int) -> Path:
        """The file of its judgement, written last."""
        return self.network(step).with_name(f"judged-{self.judged}.json")

    def samples(self, step: int) -> Path:
        """The file of the samples that are drawn."""
        return self.network(step).with_name(f"samples-{self.judged}.npy")

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to do."""
        return all(self.network(s).is_file() and self.judgement(s).is_file() for s in self.steps)


def make_cells(config: CompareConfig, fingerprint: str) -> list[Cell]:
    """All cells of a comparison: seed by seed, so that an early look has every model in it.

    Students follow their teachers.
    """
    cells, ladder = [], (config.models.teacher_steps, *config.models.students)
    steps = config.models.student_training_steps or max(1, config.training.steps // 2)
    for model, run in config.runs():
        cells.append(_make_cell(config, model, run, fingerprint))
        if run.training.is_map:
            continue
        solver = "ab2"
        for above, below in itertools.pairwise(ladder):
            training = replace(run.training, steps=steps)
            teacher = cells[-1].network(cells[-1].steps[-1])
            student = run_config.StudentConfig(teacher, below, above // below, solver)
            learned = replace(run, training=training, student=student)
            cells.append(_make_cell(config, f"{model}-student{below}", learned, fingerprint))
            solver = "euler"
    return cells


def _make_cell(config: CompareConfig, model: str, run: RunConfig, fingerprint: str) -> Cell:
    values, seed, steps = to_dict(run) | {"sampling": None}, run.training.seed, config.steps()
    for group in ("source", "training"):
        values[group] = {k: v for k, v in values[group].items() if k not in _ELSEWHERE}
    if run.student is None:
        del values["student"]
    else:
        # The name of the teacher's cell stands for what it has learned.
        teacher, steps = run.student.teacher, [run.training.steps]
        values["student"]["teacher"] = [teacher.parent.parent.name, teacher.parent.name]
    name = f"{run.model.path}-seed{seed}-{digest({**values, 'fingerprint': fingerprint})}"
    folder = config.cells.expanduser() if config.cells else config.folder() / "cells"
    return Cell(model, seed, run, folder / name, digest(config.judgement()), steps)


def defaults(quick: bool = False) -> dict[str, tuple[str, CompareConfig]]:
    """A line about each data set, and its comparison unless flags say otherwise."""
    known = {}
    for name, (about, run) in DEFAULTS.items():
        num = _IMAGES if name in run_config.IMAGES else run.sampling.num_samples
        training, options = run.training, {}
        if quick:
            num, options = min(num, _QUICK_SAMPLES), {"seeds": 1, "checkpoints": _QUICK_CHECKPOINTS}
            training = replace(training, steps=max(1, training.steps // _QUICK_DIVISOR))
        options["evaluation"] = EvaluationConfig(num_samples=num)
        known[name] = about, CompareConfig(name, run.source, run.network, training, **options)
    return known
