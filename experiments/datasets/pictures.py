"""Images: MNIST, CIFAR-10, or a folder of the user's, in memory or as a stream."""

import sys
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray as Key
from jaxtyping import UInt8
from matplotlib.figure import Figure

from experiments.command import UserError, user_errors
from experiments.config import FolderConfig, RunConfig, TrainingConfig
from experiments.datasets.base import Dataset, Headline
from experiments.judging.classifier import load_classifier, mnist_classifier
from experiments.judging.judge import ImageJudge
from experiments.report import fingerprint
from kacjax import Trainer, data, metrics, plots
from kacjax.data import ImageArrays, ImageBatch, ImageStream, to_float

Images = UInt8[np.ndarray, "num height width channels"]
LOADERS = {"mnist": data.load_mnist, "cifar10": data.load_cifar10}
# Real images that figures show, and that judgements without a classifier use, at most.
_SHOWN, _JUDGED = 64, 2000
# Patches of an image by which it is compared with others, and the side of one, in pixels.
_PATCHES, _SIDE = 8, 7


class Pictures(Dataset):
    """Images as bytes, judged beside real ones by a classifier of theirs, or by pixels."""

    field_points = 4

    def __init__(self, config: RunConfig, first: bool = True):
        source, self.name = config.source, config.data
        bar = first and sys.stderr.isatty()
        self._flip, self._stream, self._config = source.flip, None, config
        with user_errors(ValueError, OSError, ImportError):
            if not isinstance(source, FolderConfig):
                self._images = LOADERS[config.data]("train", source.data_root, progress=bar)
            else:
                place = source.data, (source.image_size * 2)[:2]
                channels = 1 if source.gray else 3
                options = {"channels": channels, "unreadable": source.unreadable}
                if source.stream:
                    self._open_stream(place, options, config.training)
                    return
                self._images = data.load_images(*place, progress=bar, **options)
        images, labels, self.classes = self._images
        self._set_number(len(images))
        rows = np.random.default_rng(0).permutation(len(images))[:_JUDGED]
        self._some, self.event = images[rows], images.shape[1:]
        self.fingerprint = fingerprint(images, labels, self.classes)
        if isinstance(source, FolderConfig):
            self._check()

    def _open_stream(self, place: Any, options: Any, training: TrainingConfig) -> None:
        seed = training.seed
        self._stream = data.stream_images(*place, training.batch_size, seed=seed, **options)
        self._set_number(self._stream.num)
        # Of one pass over them, so that none is there twice.
        count = min(_SHOWN, self.num)
        options = {"seed": seed, "process": (0, 1), "prefetch": 1, **options}
        some = data.stream_images(*place, count, **options)
        self._some = next(some).images[:count]
        some.close()
        self.classes, self.event = self._stream.classes, self._stream.shape
        self.fingerprint = str(self._stream.get_state()["images"])
        self._check()

    def _check(self) -> None:
        """Says before the training if the user's images cannot be judged by."""
        with user_errors(ValueError, saying=f"--data: {self._config.source.data}: "):
            self._judge  # noqa: B018

    def _set_number(self, num: int) -> None:
        """Refuses a single image: there would be none to judge by."""
        if num < 2:
            raise UserError(f"{self._config.source.data} must hold two images at least, got {num}.")
        self.num = num

    def training(self, key: Key) -> tuple[Any, Any]:
        """The images and labels, whatever the key; some of them where they are a stream."""
        if self._stream is not None:
            return self._some, None
        return self._images.images, self._images.labels

    def source(self, trainer: Trainer, key: Key, step: int, seed: int) -> Any:
        """What `Trainer.run` takes its batches from, the first of them that of `step`."""
        if self._stream is None:
            return super().source(trainer, key, step, seed)
        self._stream.set_state({**self._stream.get_state(), "step": step})
        return _batches(self._stream, trainer.classes is not None, self._flip, seed, step)

    def close(self) -> None:
        """Ends the threads of a stream."""
        if self._stream is not None:
            self._stream.close()

    @cached_property
    def _judge(self) -> "PixelJudge | ClassifierJudge":
        """A classifier where there is one, beside test images where there are some."""
        config, train = self._config, self._some
        if config.data not in LOADERS:
            return PixelJudge(train, None if self._stream is not None else self._images.images)
        with user_errors(ValueError, OSError, ImportError):
            test = LOADERS[config.data]("test", config.source.data_root).images
            order = np.random.default_rng(0).permutation(len(test))
            if config.source.classifier is not None:
                classify = load_classifier(config.source.classifier)
            elif config.data == "mnist":
                classify = mnist_classifier()
            else:
                return PixelJudge(test[order], self._images.images, held_out=True)
        return ClassifierJudge(classify, self._images, test[order])

    @property
    def headlines(self) -> tuple[Headline, ...]:
        """Those of the judge."""
        return self._judge.headlines

    def quality(self, samples: Images) -> dict[str, float]:
        """The judge's figures."""
        return self._judge.quality(samples)

    def reference(self, num: int) -> dict[str, float]:
        """The figures of real images that samples are not compared with."""
        return self._judge.quality(self._judge.other[:num], real=True)

    def figures(self, samples: Mapping[str, Images]) -> dict[str, Figure]:
        """Generated images beside real ones."""
        return {"samples.png": plots.images_figure({"real images": self._some[:_SHOWN], **samples})}


class ClassifierJudge:
    """Judges by what a classifier makes of images, beside one half of the test images.

    There are the distance from them, precision and coverage in the classifier's features, its
    confidence and the balance of classes, and how near samples come to training images.
    """

    headlines = (
        Headline("classifier_frechet_distance", "Fréchet dist."),
        Headline("confidence", "confidence", "high", log=False),
        Headline("class_total_variation", "class TV", log=False),
        Headline("coverage", "coverage", "high", log=False),
        Headline("precision", "precision", "high", log=False),
        Headline("memorization_ratio", "memorization", "one", log=False),
    )

    def __init__(self, classify: Any, train: ImageArrays, test: Images):
        real, self.other = np.array_split(test, 2)
        self._judge, self._train = ImageJudge(classify, real), train

    @cached_property
    def _training_features(self) -> np.ndarray:
        return self._judge.classify(self._train.images)[0]

    def quality(self, samples: Images, real: bool = False) -> dict[str, float]:
        """The figures of samples, and the distance that as many real images have."""
        found, test = self._judge.statistics(samples), self._judge.real_features
        features, _ = self._judge.classify(samples)
        # What these say depends on the numbers.
        equal = min(len(features), len(test))
        manifold = metrics.prdc(features[:equal], test[:equal])
        memorized = metrics.memorization_ratio(features, self._training_features, test[:equal])
        figures = {
            "classifier_frechet_distance": float(found.classifier_frechet_distance),
            "confidence": float(found.confidence),
            "class_total_variation": float(found.total_variation),
            "coverage": float(manifold.coverage),
            "precision": float(manifold.precision),
            "memorization_ratio": float(memorized),
        }
        if not real:
            same = self._judge.statistics(self.other[: len(samples)])
            figures["classifier_frechet_distance_of_data"] = same.classifier_frechet_distance
        return figures


class PixelJudge:
    """Judges by pixels alone: patches, brightness and contrast, and the nearest training image.

    Patches are compared by the sliced Wasserstein distance, on a scale where a pixel goes from -1
    to 1. The distance to the nearest of all training images is relative to that of real images, to
    the nearest other one if they are of the training themselves: near 0 for copies.
    """

    headlines = (
        Headline("patch_sliced_wasserstein", "patch distance"),
        Headline("relative_brightness", "brightness", "one", log=False),
        Headline("relative_contrast", "contrast", "one", log=False),
        Headline("nearest_training_ratio", "nearest ratio", "one", log=False),
    )

    def __init__(self, real: Images, train: Images | None, held_out: bool = False):
        # A copy would be nearest to its original.
        distinct = [_distinct(images) for images in (real, *([] if train is None else [train]))]
        if min(map(len, distinct)) < 4:
            got = min(map(len, distinct))
            raise ValueError(f"there must be four different images to judge by, got {got}.")
        self.real, self.other = np.array_split(distinct[0][:_JUDGED], 2)
        self._train, self._own = distinct[-1], not held_out
        if train is None:  # They are not at hand.
            self.headlines = self.headlines[:-1]

    @cached_property
    def _distance(self) -> float:
        return _nearest(self.real, self._train, 1 + self._own)

    def quality(self, samples: Images, real: bool = False) -> dict[str, float]:
        """The figures of samples, or of real images."""
        own, data = (to_float(images[:_JUDGED]) for images in (samples, self.real))
        distance = metrics.sliced_wasserstein(_patches(own), _patches(data), jax.random.key(0))
        figures = {
            "patch_sliced_wasserstein": float(distance),
            "relative_brightness": float((1 + own.mean()) / (1 + data.mean())),
            "relative_contrast": float(own.std(axis=0).mean() / data.std(axis=0).mean()),
        }
        if self.headlines[-1].key == "nearest_training_ratio":
            near = _nearest(samples[:_JUDGED], self._train, 1 + (real and self._own))
            figures["nearest_training_ratio"] = near / max(self._distance, 1e-6)
        return figures


def _distinct(images: Images) -> Images:
    """The images, each once."""
    return images[list({image.tobytes(): i for i, image in enumerate(images)}.values())]


def _patches(images: np.ndarray, num: int = _JUDGED * _PATCHES) -> np.ndarray:
    """As many patches at random places of images in turn, whatever the number of images."""
    random, side = np.random.default_rng(0), min(_SIDE, *images.shape[1:3])
    rows, columns = (random.integers(0, length - side + 1, num) for length in images.shape[1:3])
    places = zip(np.arange(num) % len(images), rows, columns, strict=True)
    return np.stack([images[n, i : i + side, j : j + side].ravel() for n, i, j in places])


def _nearest(images: Images, train: Images, rank: int) -> float:
    """The median distance to the nearest training image, or to the one of another rank."""
    flat = lambda part: jnp.asarray(to_float(part).reshape(len(part), -1))  # noqa: E731
    parts = np.array_split(train, -(-len(train) // _JUDGED))
    found = [metrics.nearest_neighbors(flat(images), flat(part), rank)[0] for part in parts]
    return float(np.median(np.sort(np.concatenate(found, axis=1))[:, rank - 1]))


def _batches(
    stream: ImageStream, labeled: bool, flip: bool, seed: int, step: int
) -> Iterator[ImageBatch]:
    """The batches from `step` on, mirrored at random as a function of seed and step."""
    process, count = jax.process_index(), jax.process_count()
    while True:
        images, labels = next(stream)
        if flip:
            coins = np.random.default_rng((seed, step)).random(count * len(images)) < 0.5
            mine = coins[process * len(images) :][: len(images), None, None, None]
            images = np.where(mine, images[:, :, ::-1], images)
        yield ImageBatch(images, labels if labeled else None)
        step += 1
