"""The configuration of a training run on images."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from flax import nnx

import kacjax
from experiments.checks import check_choice, check_positive
from experiments.config import (
    PathConfig,
    SamplingConfig,
    check_group,
    check_seed,
    flag,
)

NAMES = ("mnist", "cifar10", "images")
Size = Literal["tiny", "mnist", "cifar10"]


@dataclasses.dataclass(frozen=True)
class KnownSetConfig:
    """A known data set."""

    data_root: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: $KACJAX_DATA or data)"),
    ] = None
    """Folder of its files; they are downloaded there if missing."""
    flip: bool = False
    """Mirror images left to right at random."""


@dataclasses.dataclass(frozen=True)
class FolderConfig:
    """Images of a folder."""

    data: Annotated[Path, tyro.conf.arg(metavar="FOLDER")] = tyro.MISSING
    """Folder or zip of images, perhaps in one folder a class."""
    image_size: int = 32
    """Height and width to which images are brought, in pixels."""
    stream: bool = False
    """Read images as they are needed: for sets beyond memory."""
    flip: bool = True
    """Mirror images left to right at random."""


def _of_size(metavar: str) -> Any:
    """How --help shows a flag without which the named size decides."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint="(default: of the size)")


@dataclasses.dataclass(frozen=True)
class UNetConfig:
    """The network."""

    size: Size = "cifar10"
    """Named size; the next six replace parts of it."""
    channels: Annotated[int | None, _of_size("INT")] = None
    """Channels of the first level."""
    multipliers: Annotated[tuple[int, ...] | None, _of_size("INT [INT ...]")] = None
    """Channels of each level in units of these."""
    blocks: Annotated[int | None, _of_size("INT")] = None
    """Residual blocks a level."""
    attention: Annotated[tuple[int, ...] | None, _of_size("INT [INT ...]")] = None
    """Resolutions with self-attention."""
    head_channels: Annotated[int | None, _of_size("INT")] = None
    """Channels of an attention head."""
    dropout: Annotated[float | None, _of_size("FLOAT")] = None
    """Dropout."""
    conditional: bool = False
    """Learn with the class labels."""
    label_dropout: float = 0.1
    """Where conditional: share of labels that are dropped."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type to compute in; parameters are float32."""
    remat: bool = False
    """Compute twice instead of remembering: less memory."""
    prediction: Literal["x0", "velocity"] = "velocity"
    """What the network predicts."""

    def make(self, shape: tuple[int, ...], classes: int, T: float, seed: int) -> kacjax.models.UNet:
        """The untrained network.

        Raises:
            ValueError: If the parts do not fit together or the images.
        """
        if self.conditional and not classes:
            raise ValueError("--conditional needs classes, and these images have none.")
        names = ("channels", "multipliers", "blocks", "attention", "head_channels", "dropout")
        replaced = {name: getattr(self, name) for name in names}
        keywords = kacjax.models.unet_size(self.size) | {
            name: value for name, value in replaced.items() if value is not None
        }
        return kacjax.models.UNet(
            shape,
            rngs=nnx.Rngs(seed),
            **keywords,
            classes=classes if self.conditional else None,
            T=T,
            dtype=self.dtype,
            remat=self.remat,
        )


@dataclasses.dataclass(frozen=True)
class ImageOptimizerConfig:
    """Training."""

    steps: int = 400_000
    """Optimizer steps."""
    batch_size: int = 128
    """Images in one step, over all devices."""
    learning_rate: float = 2e-4
    """Peak of the learning rate."""
    warmup: int = 5000
    """Steps until then, at most half of all."""
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    """The learning rate after that."""
    b2: float = 0.999
    """Decay of Adam's mean of squares."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    ema_decay: float = 0.9999
    """Decay of the averaged weights."""
    time_power: float = 1.0
    """Times are T u^power: 1 even, 2 near the data."""
    accumulate: int = 1
    """Micro-batches to a step, for less memory."""
    seed: int = 0
    """Seed of everything random."""
    log_every: int = 100
    """Steps to a row of the log."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """At a loss that is not finite: stop, or skip the update."""


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
class CheckpointConfig:
    """Checkpoints and pictures on the way."""

    checkpoint_every: int = 5000
    """Steps from one checkpoint to the next."""
    keep: int = 3
    """Newest checkpoints to keep."""
    keep_every: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """Keep those of every multiple of this too."""
    sample_every: int = 5000
    """Steps from one grid of samples to the next."""


@dataclasses.dataclass(frozen=True)
class ImageConfig:
    """A training run on images."""

    data: Annotated[str, tyro.conf.Suppress]
    source: KnownSetConfig | FolderConfig = KnownSetConfig()
    model: PathConfig = dataclasses.field(default_factory=PathConfig)
    network: UNetConfig = UNetConfig()
    training: ImageOptimizerConfig = ImageOptimizerConfig()
    sampling: SamplingConfig = dataclasses.field(
        default_factory=lambda: SamplingConfig(num_samples=64)
    )
    checkpoints: CheckpointConfig = CheckpointConfig()
    devices: DeviceConfig = DeviceConfig()
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="DIR", help_behavior_hint="(default: runs/DATA-PATH)"),
    ] = None
    """Folder of the run."""
    resume: bool = False
    """Go on from the newest checkpoint there, if there is one."""
    overwrite: bool = False
    """Replace an earlier run in that folder."""

    def check(self) -> None:
        """Checks every value; those of a file may have any type.

        Raises:
            TypeError, ValueError: If a value has another type than its field, is an unknown name,
                a count below one, or a rate out of its range.
        """
        check_choice("data", self.data, NAMES)
        groups = (self.source, self.model, self.network, self.training, self.sampling)
        for group in (*groups, self.checkpoints, self.devices):
            check_group(group)
        for name in ("learning_rate", "clip", "time_power"):
            check_positive(flag(name), getattr(self.training, name))
        self.sampling.check()
        for name, value in (
            ("ema_decay", self.training.ema_decay),
            ("b2", self.training.b2),
            ("label_dropout", self.network.label_dropout),
        ):
            if not 0 <= value < 1:
                raise ValueError(f"{flag(name)} must lie in [0, 1), got {value}.")
        check_seed(self.training.seed)
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other.")

    def folder(self) -> Path:
        """Where the run goes."""
        return self.out or Path("runs", f"{self.data}-{self.model.path}")


# Flags that say where something lies or what to do when, and not what the result is.
_ELSEWHERE = ("out", "resume", "overwrite", "checkpoints", "devices")
_MAY_CHANGE = (
    *("--data", "--data-root", "--on-nonfinite"),
    # They decide what is generated, and not the network.
    *(flag(field.name) for field in dataclasses.fields(SamplingConfig)),
)


def to_dict(config: ImageConfig) -> dict[str, Any]:
    """What config.json holds."""
    values = dataclasses.asdict(config)
    source = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values["source"].items()
    }
    values["source"] = source
    return {name: value for name, value in values.items() if name not in _ELSEWHERE}


def from_dict(values: dict[str, Any]) -> ImageConfig:
    """The inverse of `to_dict`.

    Raises:
        KeyError, TypeError, ValueError: If a field is missing, unknown or wrong.
    """
    source, network = dict(values["source"]), dict(values["network"])
    kind = FolderConfig if values["data"] == "images" else KnownSetConfig
    for name in ("data", "data_root"):
        if source.get(name) is not None:
            source[name] = Path(source[name])
    for name, value in network.items():
        network[name] = tuple(value) if isinstance(value, list) else value
    config = ImageConfig(
        data=values["data"],
        source=kind(**source),
        model=PathConfig(**values["model"]),
        network=UNetConfig(**network),
        training=ImageOptimizerConfig(**values["training"]),
        sampling=SamplingConfig(**values["sampling"]),
    )
    config.check()
    config.model.make()
    return config


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In which flags the configuration of a run differs from another, as `to_dict` gives them."""
    old, new = _flat(before), _flat(now)
    return [
        f"{name} was {_shown(old, name)}, is {_shown(new, name)}"
        for name in dict.fromkeys([*old, *new])
        if name not in _MAY_CHANGE and _shown(old, name) != _shown(new, name)
    ]


def _flat(values: dict[str, Any]) -> dict[str, Any]:
    flags = {}
    for group, value in values.items():
        if isinstance(value, dict):
            flags |= {flag(name): each for name, each in value.items()}
        else:
            flags[group] = value
    return flags


def _shown(flags: dict[str, Any], name: str) -> str:
    return json.dumps(flags[name]) if name in flags else "missing"
