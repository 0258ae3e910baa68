"""Training: one pure step, many of them per call, for every path, network and set of devices."""

from kacjax.training.fit import FitResult, fit
from kacjax.training.metrics import TIME_BINS, NonFiniteError, StepMetrics, join_metrics
from kacjax.training.optimiser import SCHEDULES, make_optimiser, make_schedule
from kacjax.training.source import ResidentData
from kacjax.training.state import TrainState, init_state
from kacjax.training.step import (
    NONFINITE_POLICIES,
    apply_gradient,
    train_step,
)
from kacjax.training.trainer import Callback, Trainer
from kacjax.training.velocity import PARAMETERISATIONS, NetworkVelocity

__all__ = [
    "NONFINITE_POLICIES",
    "PARAMETERISATIONS",
    "SCHEDULES",
    "TIME_BINS",
    "Callback",
    "FitResult",
    "NetworkVelocity",
    "NonFiniteError",
    "ResidentData",
    "StepMetrics",
    "TrainState",
    "Trainer",
    "apply_gradient",
    "fit",
    "init_state",
    "join_metrics",
    "make_optimiser",
    "make_schedule",
    "train_step",
]
