"""How samples look to a classifier that was trained on real data."""

import warnings
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int
from sklearn.svm import SVC

Points: TypeAlias = Float[Array, "num dim"] | Float[np.ndarray, "num dim"]
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


def class_statistics(
    probabilities: Float[np.ndarray, "num classes"], frequencies: Float[np.ndarray, " classes"]
) -> ClassStatistics:
    """Judges predictions against the frequencies of the real classes."""
    predicted = class_frequencies(probabilities)
    return ClassStatistics(
        confidence=float(probabilities.max(axis=1).mean()),
        total_variation=float(np.abs(predicted - frequencies).sum() / 2),
    )


def class_frequencies(
    probabilities: Float[np.ndarray, "num classes"],
) -> Float[np.ndarray, " classes"]:
    """How often each class is the most probable one."""
    classes = np.arange(probabilities.shape[1])
    return np.mean(probabilities.argmax(axis=1)[:, None] == classes, axis=0)


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
            # Deprecated in favor of one-against-rest calibration, which hardly sees noise.
            warnings.filterwarnings("ignore", message=".*probability", category=FutureWarning)
            self._svm.fit(np.asarray(train), np.asarray(labels))
        self._frequencies = np.mean(np.asarray(labels)[:, None] == self._svm.classes_, axis=0)

    def probabilities(self, x: Points) -> Float[np.ndarray, "num classes"]:
        """Probability of each class, in sorted order, for every sample."""
        return self._svm.predict_proba(np.asarray(x))

    def statistics(self, x: Points) -> ClassStatistics:
        """Judges samples; see `ClassStatistics`."""
        return class_statistics(self.probabilities(x), self._frequencies)
