"""The configuration of a training run: typed dataclasses that are also the command line."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_type_hints

import tyro
from flax import nnx

import kacjax
from experiments.checks import check_group, flag
from experiments.command import UserError, check_choice, optional
from experiments.paths import PathConfig
from kacjax.data import TARGETS
from kacjax.generation import ADAPTIVE

IMAGES = ("mnist", "cifar10", "images")
DATA = ("digits", *TARGETS, "arrays", *IMAGES)

Solver = Literal["euler", "ab2", "heun", "midpoint", "rk4", "tsit5", "dopri5", "dopri8"]


@dataclasses.dataclass(frozen=True)
class NoSourceConfig:
    """Data that come with the library."""


@dataclasses.dataclass(frozen=True)
class KnownSetConfig:
    """A known data set."""

    data_root: Annotated[Path | None, optional("DIR", "$KACJAX_DATA or data")] = None
    """Folder of its files; they are downloaded there if missing."""
    flip: bool = False
    """Mirror images left to right at random."""
    classifier: Annotated[Path | None, optional("FILE", "for mnist, the one here")] = None
    """Judge of the samples, from experiments.features."""


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """Images of a folder."""

    data: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = tyro.MISSING
    """Folder, zip or tar of images, perhaps in one folder a class."""
    image_size: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT]")] = (32,)
    """Height and width to which images are brought, in pixels; one number if they are equal."""
    gray: bool = False
    """Read images as gray ones, of one channel."""
    unreadable: Literal["error", "skip"] = "error"
    """At damaged images: stop, or leave them out and say so."""
    stream: bool = False
    """Read images as they are needed: for sets beyond memory."""
    flip: bool = True
    """Mirror images left to right at random."""


@dataclasses.dataclass(frozen=True)
class ArraysConfig:
    """Vectors or arrays of your own, standardized; samples come in the units of the file."""

    data: Annotated[Path, tyro.conf.arg(metavar="FILE")] = tyro.MISSING
    """A .npy, .npz, .csv or .parquet file, one datum a row."""
    labels: Annotated[str | None, optional("COLUMN|FILE", "none")] = None
    """Classes: a column of a table, an array of an .npz, or a file."""
    held_out: float = 0.1
    """Share of the data that are kept from training, to judge."""


Source = NoSourceConfig | KnownSetConfig | FolderConfig | ArraysConfig


@dataclasses.dataclass(frozen=True)
class MLPConfig:
    """The network, a residual multilayer perceptron."""

    width: int = 128
    """Units of a hidden layer."""
    depth: int = 3
    """Residual blocks."""
    fourier: int = 0
    """Random Fourier features of the input."""
    conditional: bool = False
    """Learn with the class labels."""
    label_dropout: float = 0.1
    """Where conditional: share of labels that are dropped."""
    prediction: Literal["x0", "velocity", "bounded"] = "x0"
    """What the network predicts; edm has its own."""

    def make(self, event: tuple[int, ...], seed: int, **options: Any) -> nnx.Module:
        """The untrained network; options are `T`, `classes` and `second_time`."""
        sizes: dict[str, Any] = {"width": self.width, "depth": self.depth, "fourier": self.fourier}
        (dim,) = event
        return kacjax.models.MLP(dim, rngs=nnx.Rngs(seed), **sizes, **options)


_OF_SIZE = "of the size"


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The network, a U-Net."""

    size: Literal["tiny", "mnist", "cifar10"] = "cifar10"
    """Named size; the next six replace parts of it."""
    channels: Annotated[int | None, optional("INT", _OF_SIZE)] = None
    """Channels of the first level."""
    multipliers: Annotated[tuple[int, ...] | None, optional("INT [INT ...]", _OF_SIZE)] = None
    """Channels of each level in units of these."""
    blocks: Annotated[int | None, optional("INT", _OF_SIZE)] = None
    """Residual blocks a level."""
    attention: Annotated[tuple[int, ...] | None, optional("INT [INT ...]", _OF_SIZE)] = None
    """Resolutions with self-attention."""
    head_channels: Annotated[int | None, optional("INT", _OF_SIZE)] = None
    """Channels of an attention head."""
    dropout: Annotated[float | None, optional("FLOAT", _OF_SIZE)] = None
    """Dropout."""
    conditional: bool = False
    """Learn with the class labels."""
    label_dropout: float = 0.1
    """Where conditional: share of labels that are dropped."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to compute in; parameters are float32."""
    remat: bool = False
    """Compute twice instead of remembering: less memory."""
    prediction: Literal["x0", "velocity", "bounded"] = "velocity"
    """What the network predicts; edm has its own."""

    def make(self, event: tuple[int, ...], seed: int, **options: Any) -> nnx.Module:
        """The untrained network; a `ValueError` if its parts do not fit together or the images."""
        names = ("channels", "multipliers", "blocks", "attention", "head_channels", "dropout")
        replaced = {name: getattr(self, name) for name in names}
        sizes = {name: value for name, value in replaced.items() if value is not None}
        options |= {**kacjax.models.unet_size(self.size), **sizes}
        return kacjax.models.UNet(
            event, rngs=nnx.Rngs(seed), dtype=self.dtype, remat=self.remat, **options
        )


Network = MLPConfig | UNetConfig


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Training."""

    steps: int = 20_000
    """Optimizer steps."""
    batch_size: int = 256
    """Data in one step, over all devices."""
    learning_rate: float = 1e-3
    """Peak of the learning rate."""
    warmup: int = 500
    """Steps until then, at most half of all."""
    schedule: Literal["constant", "cosine", "linear"] = "cosine"
    """The learning rate after that."""
    b2: float = 0.99
    """Decay of Adam's mean of squares."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema_decay: float = 0.999
    """Decay of the averaged weights."""
    time_power: float = 2.0
    """Times are T u^power: 1 even, 2 near the data; edm has its own."""
    coupling: Literal["independent", "ot"] = "independent"
    """Which datum meets which noise; ot: optimal transport in the batch."""
    objective: Literal["flow", "sign", "lsd", "meanflow"] = "flow"
    """What is learned: the velocity (sign: of bounded noise), or a map for few steps."""
    accumulate: int = 1
    """Micro-batches to a step, for less memory."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss that is not finite: stop, or skip the update."""
    seed: int = 0
    """Seed of everything random."""

    @property
    def is_map(self) -> bool:
        """Whether a flow map is learned, and no velocity."""
        return self.objective in ("lsd", "meanflow")


@dataclasses.dataclass(frozen=True)
class SamplingConfig:
    """Generation."""

    num_samples: int = 5000
    """Samples to generate."""
    solver: Annotated[Solver | None, optional("NAME", "ab2; euler for few steps")] = None
    """Solver of the ODE."""
    solver_steps: Annotated[int | None, optional("INT", "50; a student's own, a map's 4")] = None
    """Its steps, unless it is adaptive; one evaluation each with ab2 and euler."""
    tolerance: float = 1e-3
    """Relative and absolute tolerance, if it is adaptive."""
    coordinates: Literal["straight", "time"] = "straight"
    """Coordinates of the solver: those in which paths are straight, or time as it is."""
    grid_power: float = 2.0
    """Steps go like (1 - k / n)^power: 1 even, 2 short near the data."""
    chunk_size: Annotated[int | None, optional("INT", "256 images, all vectors")] = None
    """Samples to generate together."""

    def filled(self, **own: Any) -> "SamplingConfig":
        """These flags with what a velocity is made for, or the defaults, where one is missing."""
        known = {"solver": "ab2", "solver_steps": 50, **own}
        missing = {name: value for name, value in known.items() if getattr(self, name) is None}
        return dataclasses.replace(self, **missing)

    def check_for(self, training: TrainingConfig) -> None:
        """Raises a `UserError` if what is trained is a map and is to be drawn as another velocity."""
        way = self.filled(solver="euler")
        if training.is_map and (way.solver, way.coordinates) != ("euler", "straight"):
            raise UserError(
                "a flow map is drawn by --solver euler in --coordinates straight; "
                f"got {way.solver} and {way.coordinates}."
            )

    def options(self) -> dict[str, Any]:
        """The keywords of `kacjax.generate` and `kacjax.trajectory` that say how to solve."""
        common = {"solver": self.solver, "coordinates": self.coordinates}
        if self.solver not in ADAPTIVE:
            return {**common, "steps": self.solver_steps, "grid_power": self.grid_power}
        # For each sample: it is then the same in whatever chunk, and alone.
        return {**common, "rtol": self.tolerance, "atol": self.tolerance, "per_sample_steps": True}


@dataclasses.dataclass(frozen=True)
class RecordConfig:
    """Checkpoints, and what is written on the way."""

    checkpoint_every: Annotated[int | None, optional("INT", "a minute")] = None
    """Steps from one checkpoint to the next."""
    keep: int = 3
    """Newest checkpoints to keep."""
    keep_every: Annotated[int | None, optional("INT", "none")] = None
    """Keep those of every multiple of this too."""
    log_every: int = 100
    """Steps to a row of the log."""
    sample_every: Annotated[int | None, optional("INT", "never")] = None
    """Steps from one figure of samples to the next."""


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Devices and hosts; all devices are used."""

    fsdp: int = 1
    """Devices over which the state is split."""
    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """Of several processes: where the first one listens."""
    processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of processes."""
    process_id: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Number of this one, from 0."""


@dataclasses.dataclass(frozen=True)
class StudentConfig:
    """What a student learns; `experiments.distill` sets it."""

    teacher: Path  # The teacher's velocity.safetensors.
    student_steps: int
    substeps: int  # Steps of the teacher in each of those.
    teacher_solver: Literal["ab2", "euler"] = "ab2"
    guidance: float = 1.0  # Of the teacher, which is learned.


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """A training run."""

    data: Annotated[str, tyro.conf.Suppress]
    source: Source = NoSourceConfig()
    model: PathConfig = dataclasses.field(default_factory=PathConfig)
    network: Network = MLPConfig()
    training: TrainingConfig = TrainingConfig()
    sampling: SamplingConfig = SamplingConfig()
    record: RecordConfig = RecordConfig()
    devices: DeviceConfig = DeviceConfig()
    student: Annotated[StudentConfig | None, tyro.conf.Suppress] = None
    out: Annotated[Path | None, optional("DIR", "runs/DATA-PATH")] = None
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint there, if there is one."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""
    dry_run: bool = False
    """Say what the run would be and take, and touch nothing."""

    def unused(self, usual: "RunConfig") -> list[str]:
        """Flags that differ from the usual ones though nothing reads them."""
        edm = self.model.path == "edm"
        unread = {
            "prediction": edm,
            "time_power": edm and self.training.objective == "flow",
            "label_dropout": not self.network.conditional,
        }
        own, default = (vars(each.network) | vars(each.training) for each in (self, usual))
        others = [flag(n) for n, alone in unread.items() if alone and own[n] != default[n]]
        return self.model.unused(usual.model) + others

    def resolved(self) -> "RunConfig":
        """With whole paths to the data, which are then found from any folder."""
        paths = ((n, p) for n, p in vars(self.source).items() if isinstance(p, Path))
        found: dict[str, Any] = {name: path.expanduser().resolve() for name, path in paths}
        labels = Path(getattr(self.source, "labels", None) or "").expanduser()
        if labels.suffix and labels.is_file():
            found["labels"] = str(labels.resolve())
        return dataclasses.replace(self, source=dataclasses.replace(self.source, **found))

    def check(self) -> None:
        """Checks every value; those of a file may have any type."""
        check_choice("data", self.data, DATA)
        check_group(self)
        sides = getattr(self.source, "image_size", (1,))
        if len(sides) not in (1, 2):
            raise UserError(f"--image-size must be one or two integers, got {len(sides)}.")
        classifier = getattr(self.source, "classifier", None)
        if classifier is not None and not classifier.is_file():
            raise UserError(f"--classifier: there is no file {classifier}.")
        self.sampling.check_for(self.training)
        if self.resume + self.overwrite + self.dry_run > 1:
            raise UserError("--resume, --overwrite and --dry-run exclude each other.")

    def folder(self) -> Path:
        """Where the run goes."""
        return self.shown_folder().resolve()

    def shown_folder(self) -> Path:
        """The folder as the user knows it."""
        return (self.out or Path("runs", f"{self.data}-{self.model.path}")).expanduser()


# Flags that say where something lies or what to do when, and not what the result is.
_ELSEWHERE = ("out", "resume", "overwrite", "dry_run", "record", "devices")
_MAY_CHANGE = (
    "--data-root",
    "--classifier",
    "--on-nonfinite",
    *map(flag, SamplingConfig.__annotations__),
)
_GROUPS = ("source", "model", "network", "training", "sampling")


def to_dict(config: RunConfig) -> dict[str, Any]:
    """What config.json holds: everything that decides the result, and not where it lies."""
    values = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return {name: value for name, value in values.items() if name not in _ELSEWHERE}


def from_dict(values: dict[str, Any], defaults: RunConfig) -> RunConfig:
    """The inverse of `to_dict`, with the defaults of that data set for what is missing.

    What is unknown or wrong is a `KeyError`, a `TypeError` or a `UserError`.
    """
    groups = {}
    for name in _GROUPS:
        default = getattr(defaults, name)
        known, found = get_type_hints(type(default)), dict(values[name])
        for key, value in found.items():
            if isinstance(value, list):
                found[key] = tuple(value)
            elif Path in (known.get(key), *get_args(known.get(key))) and isinstance(value, str):
                found[key] = Path(value)
        groups[name] = dataclasses.replace(default, **found)
    student = values.get("student")
    if student is not None:
        student = StudentConfig(**{**student, "teacher": Path(student["teacher"])})
    config = dataclasses.replace(defaults, **groups, student=student)
    config.check()
    config.model.make()
    return config


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which flags a run's configuration differs from another that may not, by `to_dict`."""
    old, new = _flat(before), _flat(now)
    found = []
    for name in dict.fromkeys([*old, *new]):
        was, is_now = (
            json.dumps(flags[name]) if name in flags else "missing" for flags in (old, new)
        )
        if name in _MAY_CHANGE or was == is_now:
            continue
        if name == "--steps" and isinstance(old.get(name), int) and old[name] < new[name]:
            continue
        found.append(f"{name} was {was}, is {is_now}")
    return found


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flags = {"data set": values.get("data")}
    for name in (*_GROUPS, "student"):
        found = (values.get(name) or {}).items()
        flags |= {flag(key): each for key, each in found}
    # Of a folder, a file or a teacher only the content counts, which is compared elsewhere.
    if Path(str(flags.get("--labels"))).suffix:
        flags["--labels"] = "a file"
    return {name: each for name, each in flags.items() if name not in ("--data", "--teacher")}
