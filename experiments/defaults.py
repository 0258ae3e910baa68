"""The defaults of every data set, in one place."""

import dataclasses

from experiments.config import (
    NetworkConfig,
    OptimizerConfig,
    PathConfig,
    SamplingConfig,
    TrainConfig,
)
from experiments.images.config import (
    FolderConfig,
    ImageConfig,
    ImageOptimizerConfig,
    KnownSetConfig,
    UNetConfig,
)


def _plane(name: str) -> TrainConfig:
    """A small network, and times near the data: there the points find their places."""
    return TrainConfig(
        data=name,
        model=PathConfig(a=9.0, c=3.0),
        network=NetworkConfig(width=128, depth=3),
        training=OptimizerConfig(steps=20_000, batch_size=256, time_power=2.0),
        sampling=SamplingConfig(num_samples=5000),
    )


_DIGITS = TrainConfig(
    data="digits",
    model=PathConfig(a=9.0, c=3.0),
    network=NetworkConfig(width=256, depth=3),
    training=OptimizerConfig(steps=5_500, batch_size=128),
    sampling=SamplingConfig(num_samples=2000),
)

_CIFAR10 = ImageConfig(
    data="cifar10",
    source=KnownSetConfig(flip=True),
    network=UNetConfig(size="cifar10"),
    # The paper's.
    training=ImageOptimizerConfig(
        steps=400_000, batch_size=128, learning_rate=2e-4, clip=1.0, ema_decay=0.9999
    ),
)

_MNIST = ImageConfig(
    data="mnist",
    source=KnownSetConfig(flip=False),
    network=UNetConfig(size="mnist"),
    training=ImageOptimizerConfig(steps=50_000, warmup=1000, ema_decay=0.999),
)

_IMAGES = dataclasses.replace(_CIFAR10, data="images", source=FolderConfig())

DEFAULTS: dict[str, tuple[str, TrainConfig | ImageConfig]] = {
    "digits": ("1,797 real handwritten digits of 8 by 8 pixels.", _DIGITS),
    "grid2d": ("Nine modes on {-1, 0, 1}^2 of deviation 1e-4.", _plane("grid2d")),
    "moons": ("Two interleaved half circles.", _plane("moons")),
    "checkerboard": ("Eight squares of a checkerboard.", _plane("checkerboard")),
    "spirals": ("Two interleaved spirals.", _plane("spirals")),
    "funnel": ("Neal's funnel.", _plane("funnel")),
    "mnist": ("60,000 handwritten digits of 28 by 28 pixels.", _MNIST),
    "cifar10": ("50,000 small color images of ten classes, as in the paper.", _CIFAR10),
    "images": ("A folder or zip of images.", _IMAGES),
}
"""A line about each data set, and what `train` does with it unless flags say otherwise."""
