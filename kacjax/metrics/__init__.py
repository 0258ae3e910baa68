"""What samples are judged by."""

from kacjax.metrics.classes import ClassJudge, ClassStatistics
from kacjax.metrics.classifier_test import ClassifierTest, classifier_two_sample_test
from kacjax.metrics.discrepancy import maximum_mean_discrepancy, median_distance
from kacjax.metrics.energy import energy_distance
from kacjax.metrics.frechet import (
    FeatureStatistics,
    feature_statistics,
    frechet_distance,
    frechet_distance_from_statistics,
)
from kacjax.metrics.inception import InceptionFeatures
from kacjax.metrics.judge import ImageJudge, ImageStatistics
from kacjax.metrics.kernel_distance import (
    KernelDistance,
    kernel_distance,
    polynomial_discrepancy,
)
from kacjax.metrics.manifold import ManifoldStatistics, manifold_statistics
from kacjax.metrics.modes import ModeStatistics, mode_statistics
from kacjax.metrics.neighbours import (
    Neighbours,
    memorisation_ratio,
    memorised_share,
    nearest_neighbours,
    two_sample_accuracy,
)
from kacjax.metrics.resampling import Interval, bootstrap, subsampling
from kacjax.metrics.sinkhorn import sinkhorn_divergence
from kacjax.metrics.wasserstein import random_directions, sliced_wasserstein, wasserstein_1d

__all__ = [
    "ClassJudge",
    "ClassStatistics",
    "ClassifierTest",
    "FeatureStatistics",
    "ImageJudge",
    "ImageStatistics",
    "InceptionFeatures",
    "Interval",
    "KernelDistance",
    "ManifoldStatistics",
    "ModeStatistics",
    "Neighbours",
    "bootstrap",
    "classifier_two_sample_test",
    "energy_distance",
    "feature_statistics",
    "frechet_distance",
    "frechet_distance_from_statistics",
    "kernel_distance",
    "manifold_statistics",
    "maximum_mean_discrepancy",
    "median_distance",
    "memorisation_ratio",
    "memorised_share",
    "mode_statistics",
    "nearest_neighbours",
    "polynomial_discrepancy",
    "random_directions",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "subsampling",
    "two_sample_accuracy",
    "wasserstein_1d",
]
