"""What samples are judged by."""

from kacjax.metrics.discrepancies import (
    energy_distance,
    kid,
    mmd,
    sinkhorn_divergence,
    sliced_wasserstein,
)
from kacjax.metrics.efficientnet import EfficientNetFeatures
from kacjax.metrics.frechet import InceptionFeatures, frechet_distance
from kacjax.metrics.inference import bootstrap, classifier_two_sample_test, subsampling
from kacjax.metrics.modes import mode_statistics
from kacjax.metrics.neighbors import (
    memorization_ratio,
    memorized_share,
    nearest_neighbors,
    prdc,
    two_sample_accuracy,
)

__all__ = [
    "EfficientNetFeatures",
    "InceptionFeatures",
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
