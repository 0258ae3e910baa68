"""What a network that was trained to classify real images makes of generated ones."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, UInt8

from experiments.judging.classes import class_frequencies, class_statistics
from kacjax.metrics import frechet_distance

Images: TypeAlias = (
    Float[Array, "num height width channels"]
    | Float[np.ndarray, "num height width channels"]
    | UInt8[np.ndarray, "num height width channels"]
)
"""Images in whatever form the classifier takes."""


class ImageStatistics(NamedTuple):
    """A judgement of images.

    Attributes:
        classifier_frechet_distance: Fréchet distance to real images in the classifier's own
            features. Not the FID: it has another scale, and is comparable for one classifier and
            one number of images only.
        confidence: Mean probability of the most probable class. It tells clear from ambiguous
            images, not images from noise, of which a network may be sure too.
        total_variation: Total variation distance of the predicted classes' frequencies from those
            predicted for real images.
        frequencies: The predicted classes' frequencies.
    """

    classifier_frechet_distance: float
    confidence: float
    total_variation: float
    frequencies: Float[np.ndarray, " classes"]


class ImageJudge:
    """Judges generated images beside real ones, by a classifier of real images.

    The features of the last layer before the classes tell apart what matters for the classes, and
    the probabilities tell how sure they are. `python -m experiments.features` trains such a
    classifier for MNIST and CIFAR-10.

    Source: the distance is that of M. Heusel et al., *GANs trained by a two time-scale update
    rule converge to a local Nash equilibrium*, NeurIPS 2017, with a classifier of the data at
    hand in place of Inception.

    Args:
        classify: Maps images, `chunk_size` at most, to features `(num, dim)` and the probabilities
            of the classes `(num, classes)`.
        real: Real images to compare with, best of all none that the classifier was trained on.
        chunk_size: Images in one call.

    Attributes:
        real_features: The features of the real images.

    Raises:
        ValueError: If there are fewer than two real images.
    """

    real_features: Float[np.ndarray, "num dim"]

    def __init__(
        self, classify: Callable[[Any], tuple[Any, Any]], real: Images, chunk_size: int = 500
    ):
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}.")
        self._classify = classify
        self._chunk_size = chunk_size
        if len(real) < 2:
            raise ValueError(f"real must hold at least two images, got {len(real)}.")
        self.real_features, probabilities = self.classify(real)
        self._frequencies = class_frequencies(probabilities)

    def classify(
        self, images: Images
    ) -> tuple[Float[np.ndarray, "num dim"], Float[np.ndarray, "num classes"]]:
        """Features and probabilities of any number of images.

        Raises:
            ValueError: If there are none.
        """
        if not len(images):
            raise ValueError(f"images must not be empty, got shape {images.shape}.")
        chunks = [
            self._classify(images[start : start + self._chunk_size])
            for start in range(0, len(images), self._chunk_size)
        ]
        features, probabilities = zip(*chunks, strict=True)
        return (
            np.concatenate([np.asarray(chunk) for chunk in features]),
            np.concatenate([np.asarray(chunk) for chunk in probabilities]),
        )

    def statistics(self, images: Images) -> ImageStatistics:
        """Judges at least two images; see `ImageStatistics`."""
        features, probabilities = self.classify(images)
        judged = class_statistics(probabilities, self._frequencies)
        return ImageStatistics(
            classifier_frechet_distance=frechet_distance(features, self.real_features),
            confidence=judged.confidence,
            total_variation=judged.total_variation,
            frequencies=class_frequencies(probabilities),
        )
