"""The defaults of every data set, in one place."""

from experiments.config import (
    NetworkConfig,
    OptimiserConfig,
    PathConfig,
    SamplingConfig,
    TrainConfig,
)

DEFAULTS: dict[str, tuple[str, TrainConfig]] = {
    "digits": (
        "1,797 real handwritten digits of 8 by 8 pixels.",
        TrainConfig(
            data="digits",
            model=PathConfig(a=9.0, c=3.0),
            network=NetworkConfig(width=512, depth=4),
            training=OptimiserConfig(steps=10_000),
            sampling=SamplingConfig(num_samples=2000),
        ),
    ),
    "grid2d": ("Nine modes on {-1, 0, 1}^2 of deviation 1e-4.", TrainConfig(data="grid2d")),
    "moons": ("Two interleaved half circles.", TrainConfig(data="moons")),
    "checkerboard": ("Eight squares of a checkerboard.", TrainConfig(data="checkerboard")),
    "spirals": ("Two interleaved spirals.", TrainConfig(data="spirals")),
    "funnel": ("Neal's funnel.", TrainConfig(data="funnel")),
}
"""A line about each data set, and what `train` does with it unless flags say otherwise."""
