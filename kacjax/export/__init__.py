"""Trained velocities and paths as files and as JSON, of registered classes."""

from kacjax import models, predictions, processes, schedules
from kacjax.export.pretrained import load_pretrained
from kacjax.export.velocity import (
    load_notes,
    load_velocity,
    path_from_dict,
    path_to_dict,
    register,
    save_velocity,
)
from kacjax.paths import ProbabilityPath

__all__ = [
    "load_notes",
    "load_pretrained",
    "load_velocity",
    "path_from_dict",
    "path_to_dict",
    "register",
    "save_velocity",
]

for _class in (
    *(ProbabilityPath, processes.KacProcess, processes.WienerProcess),
    *(processes.QuantileProcess, processes.UniformProcess),
    *(schedules.LinearSignal, schedules.ExponentialSignal, schedules.CosineSignal),
    *(schedules.ConstantSignal, schedules.LinearClock, schedules.QuadraticClock),
    *(schedules.SineClock, schedules.LinearBetaSignal, schedules.LinearBetaClock),
    *(predictions.VelocityPrediction, predictions.DataPrediction),
    *(predictions.EDMPrediction, predictions.BoundedPrediction),
    *(models.MLP, models.UNet),
):
    register(_class)
