"""What classifiers that were trained on real data make of generated samples."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from sklearn.svm import SVC

from kacjax.metrics import frechet_distance

# From images to features `(num, dim)` and probabilities of the classes `(num, classes)`.
Classify = Callable[[Any], tuple[Any, Any]]


class ClassStatistics(NamedTuple):
    """A judgement by the predicted classes.

    Confidence tells clear from ambiguous images, not images from noise, of which a network may be
    sure too.
    """

    confidence: float  # Mean probability of the most probable class.
    total_variation: float  # Of the classes' frequencies from those of real data.


class ImageStatistics(NamedTuple):
    """A judgement by classes, and by the Fréchet distance in the classifier's own features.

    That is not the FID: it has another scale, and is comparable for one classifier and one number
    of images only.
    """

    classifier_frechet_distance: float
    confidence: float
    total_variation: float


class ClassJudge:
    """A support vector machine with a Gaussian kernel, trained on real data.

    Its probabilities (Platt's, coupled over the pairs of classes) fall quickly away from the data,
    so that noisy or malformed samples cost confidence.

    Source: T.-F. Wu, C.-J. Lin, R. C. Weng, *Probability estimates for multi-class classification
    by pairwise coupling*, JMLR 5 (2004). Confidence and balance of classes are the two parts of the
    inception score of T. Salimans et al., *Improved techniques for training GANs*, NeurIPS 2016.
    """

    def __init__(self, train: np.ndarray, labels: np.ndarray):
        # scikit-learn's own annotation of `probability` leaves out bool.
        self._svm = SVC(probability=True, random_state=0)  # pyright: ignore[reportArgumentType]
        with warnings.catch_warnings():
            # Deprecated in favor of one-against-rest calibration, which hardly sees noise.
            warnings.filterwarnings("ignore", message=".*probability", category=FutureWarning)
            self._svm.fit(train, labels)
        self._frequencies = np.mean(labels[:, None] == self._svm.classes_, axis=0)

    def probabilities(self, x: np.ndarray) -> Float[np.ndarray, "num classes"]:
        """Probability of each class, in sorted order, for every sample."""
        return self._svm.predict_proba(x)

    def statistics(self, x: np.ndarray) -> ClassStatistics:
        """Judges samples."""
        return _class_statistics(self.probabilities(x), self._frequencies)


class ImageJudge:
    """Judges generated images beside real ones, by a classifier of real images.

    The features of the last layer before the classes tell apart what matters for the classes, and
    the probabilities tell how sure they are. `python -m experiments.features` trains such a
    classifier, which gets at most `chunk_size` images at once. Of the real images it should know
    none from its training.

    Source: the distance is that of M. Heusel et al., *GANs trained by a two time-scale update
    rule converge to a local Nash equilibrium*, NeurIPS 2017, with a classifier of the data at
    hand in place of Inception.
    """

    def __init__(self, classify: Classify, real: np.ndarray, chunk_size: int = 500):
        self._classify, self._chunk_size = classify, chunk_size
        self.real_features, probabilities = self.classify(real)
        self._frequencies = _frequencies(probabilities)

    def classify(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and probabilities of any number of images."""
        return in_chunks(self._classify, images, self._chunk_size)

    def statistics(self, images: np.ndarray) -> ImageStatistics:
        """Judges at least two images."""
        features, probabilities = self.classify(images)
        distance = frechet_distance(features, self.real_features)
        return ImageStatistics(distance, *_class_statistics(probabilities, self._frequencies))


def in_chunks(
    classify: Classify, images: np.ndarray, chunk_size: int = 500
) -> tuple[Float[np.ndarray, "num dim"], Float[np.ndarray, "num classes"]]:
    """Features and probabilities of any number of images."""
    starts = range(0, len(images), chunk_size)
    chunks = [classify(images[start : start + chunk_size]) for start in starts]
    features, probabilities = (np.concatenate(part) for part in zip(*chunks, strict=True))
    return features, probabilities


def _class_statistics(probabilities: np.ndarray, frequencies: np.ndarray) -> ClassStatistics:
    """Judges predictions against the frequencies of the real classes."""
    variation = np.abs(_frequencies(probabilities) - frequencies).sum() / 2
    return ClassStatistics(float(probabilities.max(axis=1).mean()), float(variation))


def _frequencies(probabilities: np.ndarray) -> np.ndarray:
    """How often each class is the most probable one."""
    classes = np.arange(probabilities.shape[1])
    return np.mean(probabilities.argmax(axis=1)[:, None] == classes, axis=0)
