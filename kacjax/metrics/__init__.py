"""What samples are judged by."""

from kacjax.metrics.discrepancies import (
    KID,
    energy_distance,
    kid,
    mmd,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from kacjax.metrics.frechet import InceptionFeatures, frechet_distance
from kacjax.metrics.modes import ModeStatistics, mode_statistics
from kacjax.metrics.neighbors import (
    PRDC,
    Neighbors,
    memorization_ratio,
    memorized_share,
    nearest_neighbors,
    prdc,
    two_sample_accuracy,
)
from kacjax.metrics.resampling import Interval, bootstrap, subsampling
from kacjax.metrics.two_sample import ClassifierTest, classifier_two_sample_test

__all__ = [
    "KID",
    "PRDC",
    "ClassifierTest",
    "InceptionFeatures",
    "Interval",
    "ModeStatistics",
    "Neighbors",
    "bootstrap",
    "classifier_two_sample_test",
    "energy_distance",
    "frechet_distance",
    "kid",
    "memorization_ratio",
    "memorized_share",
    "mmd",
    "mode_statistics",
    "nearest_neighbors",
    "prdc",
    "sinkhorn_divergence",
    "sliced_wasserstein",
    "subsampling",
    "two_sample_accuracy",
]
