"""Training: one pure step, many of them per call, for every path, network and set of devices."""

from kacjax.training.step import (
    FitResult,
    NonFiniteError,
    StepMetrics,
    TrainState,
    default_optimizer,
    learning_rate_schedule,
)
from kacjax.training.trainer import Trainer, fit

__all__ = [
    "FitResult",
    "NonFiniteError",
    "StepMetrics",
    "TrainState",
    "Trainer",
    "default_optimizer",
    "fit",
    "learning_rate_schedule",
]
