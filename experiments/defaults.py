"""The defaults of every data set, in one place."""

import dataclasses

from experiments.config import (
    ArraysConfig,
    FolderConfig,
    KnownSetConfig,
    MLPConfig,
    RecordConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
    UNetConfig,
)

_DIGITS = RunConfig(
    "digits",
    network=MLPConfig(width=256),
    training=TrainingConfig(steps=5_500, batch_size=128),
    sampling=SamplingConfig(num_samples=2000),
)
_ARRAYS = RunConfig(
    "arrays",
    source=ArraysConfig(),
    network=MLPConfig(width=256),
    training=TrainingConfig(batch_size=128),
    sampling=SamplingConfig(num_samples=2000),
)
# The paper's.
_CIFAR10 = RunConfig(
    "cifar10",
    source=KnownSetConfig(flip=True),
    network=UNetConfig(size="cifar10"),
    training=TrainingConfig(
        **{"steps": 400_000, "batch_size": 128, "learning_rate": 2e-4, "warmup": 5000},
        **{"schedule": "constant", "b2": 0.999, "ema_decay": 0.9999, "time_power": 1.0},
    ),
    sampling=SamplingConfig(num_samples=64),
    record=RecordConfig(checkpoint_every=5000, sample_every=5000),
)
_MNIST = dataclasses.replace(
    _CIFAR10,
    data="mnist",
    source=KnownSetConfig(),
    network=UNetConfig(size="mnist"),
    training=dataclasses.replace(_CIFAR10.training, steps=50_000, warmup=1000, ema_decay=0.999),
)
_IMAGES = dataclasses.replace(_CIFAR10, data="images", source=FolderConfig())

DEFAULTS: dict[str, tuple[str, RunConfig]] = {
    "digits": ("1,797 real handwritten digits of 8 by 8 pixels.", _DIGITS),
    "grid2d": ("Nine modes on {-1, 0, 1}^2 of deviation 1e-4.", RunConfig("grid2d")),
    "moons": ("Two interleaved half circles.", RunConfig("moons")),
    "checkerboard": ("Eight squares of a checkerboard.", RunConfig("checkerboard")),
    "spirals": ("Two interleaved spirals.", RunConfig("spirals")),
    "funnel": ("Neal's funnel.", RunConfig("funnel")),
    "arrays": ("Vectors or arrays of your own, from a file.", _ARRAYS),
    "mnist": ("60,000 handwritten digits of 28 by 28 pixels.", _MNIST),
    "cifar10": ("50,000 small color images of ten classes, as in the paper.", _CIFAR10),
    "images": ("A folder, zip or tar of images.", _IMAGES),
}
"""A line about each data set, and what `train` does with it unless flags say otherwise."""
