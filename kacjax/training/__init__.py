"""Training: one pure step, many of them per call, for every path, network and set of devices."""

from kacjax.training.learned_path import LearnedPath, PathMatching, fit_path
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
    "LearnedPath",
    "NonFiniteError",
    "PathMatching",
    "StepMetrics",
    "TrainState",
    "Trainer",
    "default_optimizer",
    "fit",
    "fit_path",
    "learning_rate_schedule",
]
