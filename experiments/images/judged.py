"""MNIST and CIFAR-10 as data sets whose samples are judged, by a classifier of their classes."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from jaxtyping import PRNGKeyArray as Key
from matplotlib.figure import Figure

from experiments.command import UserError, user_errors
from experiments.datasets import Dataset, Headline
from experiments.images.data import ImageSet
from experiments.judging.classifier_file import load_classifier, mnist_classifier
from experiments.judging.judge import ImageJudge
from kacjax import data, metrics, plots
from kacjax.data import ImageArrays, to_float, to_uint8

Images = UInt8[np.ndarray, "num height width channels"]
LOADERS = {"mnist": data.load_mnist, "cifar10": data.load_cifar10}


class JudgedImages(Dataset):
    """Images as bytes, judged beside one half of the test images; the other half is the reference.

    Args:
        name: Data set.
        images: Its training images.
        root: Folder of the data.
        classifier: File of a classifier that `experiments.features` trained; for MNIST by default
            that of `experiments.judging`.

    Raises:
        UserError: If the test images or the classifier are missing or damaged.
    """

    headlines = (
        Headline("classifier_frechet_distance", "Fréchet dist."),
        Headline("confidence", "confidence", "high", log=False),
        Headline("class_total_variation", "class TV", log=False),
        Headline("coverage", "coverage", "high", log=False),
        Headline("precision", "precision", "high", log=False),
        Headline("memorization_ratio", "memorization", "one", log=False),
    )

    def __init__(self, name: str, images: ImageSet, root: Path | None, classifier: Path | None):
        if classifier is None and name != "mnist":
            raise UserError(
                f"--classifier is missing: train one with `python -m experiments.features {name}`."
            )
        with user_errors(ValueError, OSError, ImportError):
            test = LOADERS[name]("test", root).images
            judge = mnist_classifier() if classifier is None else load_classifier(classifier)
        order = np.random.default_rng(0).permutation(len(test))
        self._real, self._other = np.array_split(test[order], 2)
        self._judge = ImageJudge(judge, self._real)
        self._images = images
        self.event = images.shape

    def training(self, key: Key) -> Float[Array, "num height width channels"]:
        """Some training images as numbers in [-1, 1], whatever the key."""
        del key
        return jnp.asarray(to_float(self._images.shown))

    def finish(self, samples: Float[Array, "num height width channels"]) -> Images:
        """As bytes."""
        return np.asarray(to_uint8(samples))

    def quality(self, samples: Images) -> dict[str, float]:
        """Figures of the classifier: its confidence, the balance of classes, and in its features.

        There the distance from test images, precision and coverage beside as many of them, and how
        near the samples come to training images.
        """
        found = self._judge.statistics(samples)
        features, _ = self._judge.classify(samples)
        real = self._judge.real_features
        # What these two say depends on the numbers.
        equal = min(len(features), len(real))
        manifold = metrics.prdc(features[:equal], real[:equal])
        memorized = metrics.memorization_ratio(features, self._training_features, real[:equal])
        return {
            "classifier_frechet_distance": float(found.classifier_frechet_distance),
            "confidence": float(found.confidence),
            "class_total_variation": float(found.total_variation),
            "coverage": float(manifold.coverage),
            "precision": float(manifold.precision),
            "memorization_ratio": float(memorized),
        }

    @cached_property
    def _training_features(self) -> Float[np.ndarray, "num dim"]:
        content = self._images.content
        assert isinstance(content, ImageArrays)  # Known sets are never streamed.
        return self._judge.classify(content.images)[0]

    def reference(self, num: int) -> dict[str, float]:
        """The figures of test images that samples are not compared with."""
        return self.quality(self._other[:num])

    def figures(self, samples: Mapping[str, Images]) -> dict[str, Figure]:
        """Generated images beside test images."""
        sets = {"real images": self._real, **samples}
        return {"samples.png": plots.images_figure(sets)}
