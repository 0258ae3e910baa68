"""What samples are judged by."""

from kacjax.metrics.classes import ClassJudge, ClassStatistics
from kacjax.metrics.energy import energy_distance
from kacjax.metrics.modes import ModeStatistics, mode_statistics
from kacjax.metrics.neighbours import memorisation_ratio, two_sample_accuracy

__all__ = [
    "ClassJudge",
    "ClassStatistics",
    "ModeStatistics",
    "energy_distance",
    "memorisation_ratio",
    "mode_statistics",
    "two_sample_accuracy",
]
