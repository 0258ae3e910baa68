"""The defaults of every data set, in one place."""

from experiments.config import (
    NetworkConfig,
    OptimiserConfig,
    PathConfig,
    SamplingConfig,
    TrainConfig,
)


def _plane(name: str) -> TrainConfig:
    """A small network, and times near the data: there the points find their places."""
    return TrainConfig(
        data=name,
        model=PathConfig(a=9.0, c=3.0),
        network=NetworkConfig(width=128, depth=3),
        training=OptimiserConfig(steps=20_000, batch_size=256, time_power=2.0),
        sampling=SamplingConfig(num_samples=5000),
    )


_DIGITS = TrainConfig(
    data="digits",
    model=PathConfig(a=9.0, c=3.0),
    network=NetworkConfig(width=256, depth=3),
    training=OptimiserConfig(steps=5_500, batch_size=128),
    sampling=SamplingConfig(num_samples=2000),
)

DEFAULTS: dict[str, tuple[str, TrainConfig]] = {
    "digits": ("1,797 real handwritten digits of 8 by 8 pixels.", _DIGITS),
    "grid2d": ("Nine modes on {-1, 0, 1}^2 of deviation 1e-4.", _plane("grid2d")),
    "moons": ("Two interleaved half circles.", _plane("moons")),
    "checkerboard": ("Eight squares of a checkerboard.", _plane("checkerboard")),
    "spirals": ("Two interleaved spirals.", _plane("spirals")),
    "funnel": ("Neal's funnel.", _plane("funnel")),
}
"""A line about each data set, and what `train` does with it unless flags say otherwise."""
