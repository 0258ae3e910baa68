"""How samples look to a classifier that was trained on real data."""

import warnings
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.svm import SVC

from kacjax.metrics.distances import Points, as_points

Labels: TypeAlias = Int[Array, "_"] | Int[np.ndarray, "_"]


class ClassStatistics(NamedTuple):
    """What a classifier of real data makes of samples.

    Attributes:
        confidence: Mean probability of the most probable class.
        total_variation: Total variation distance of the predicted classes' frequencies from those
            of the real data.
    """

    confidence: float
    total_variation: float


class ClassJudge:
    """A support vector machine with a Gaussian kernel, trained on real data.

    Its probabilities (Platt's, coupled over the pairs of classes) fall quickly away from the data,
    so that noisy or malformed samples cost confidence.

    Source: T.-F. Wu, C.-J. Lin, R. C. Weng, *Probability estimates for multi-class classification
    by pairwise coupling*, JMLR 5 (2004). Confidence and balance of classes are the two parts of the
    inception score of T. Salimans et al., *Improved techniques for training GANs*, NeurIPS 2016.

    Args:
        train: Real data.
        labels: Their classes.
        seed: Seed of the cross-validation inside Platt's method.

    Raises:
        ValueError: If the data are empty, not finite, or not as many as the labels.
    """

    def __init__(self, train: Points, labels: Labels, seed: int = 0):
        if len(train) != len(labels):
            raise ValueError(f"train and labels differ in number: {len(train)} and {len(labels)}.")
        # scikit-learn's own annotation of `probability` leaves out bool.
        self._svm = SVC(probability=True, random_state=seed)  # pyright: ignore[reportArgumentType]
        with warnings.catch_warnings():
            # Deprecated in favour of one-against-rest calibration, which hardly sees noise.
            warnings.filterwarnings("ignore", message=".*probability", category=FutureWarning)
            self._svm.fit(np.asarray(as_points("train", train)), np.asarray(labels))
        self._frequencies = self._count(np.asarray(labels))

    def probabilities(self, x: Points) -> Float[np.ndarray, "num classes"]:
        """Probability of each class, in sorted order, for every sample."""
        return self._svm.predict_proba(np.asarray(as_points("x", x)))

    def statistics(self, x: Points) -> ClassStatistics:
        """Judges samples; see `ClassStatistics`."""
        probabilities = self.probabilities(x)
        frequencies = self._count(self._svm.classes_[probabilities.argmax(axis=1)])
        return ClassStatistics(
            confidence=float(probabilities.max(axis=1).mean()),
            total_variation=float(np.abs(frequencies - self._frequencies).sum() / 2),
        )

    def _count(self, labels: np.ndarray) -> np.ndarray:
        return np.mean(labels[:, None] == self._svm.classes_, axis=0)
