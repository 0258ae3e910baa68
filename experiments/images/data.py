"""The images of a run, in memory or as a stream."""

import dataclasses
import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from experiments.command import user_errors
from experiments.images.config import FolderConfig, ImageConfig
from kacjax import Trainer, data
from kacjax.data import ImageArrays, ImageBatch, ImageStream

# Real images that figures show beside generated ones.
_SHOWN = 64


@dataclasses.dataclass(frozen=True)
class ImageSet:
    """Images to train on.

    Attributes:
        shape: Of one image.
        classes: Names of the classes.
        num: Number of images.
        shown: Some of them.
        fingerprint: What tells these images from others.
        content: All of them, or a stream.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...]
    num: int
    shown: UInt8[np.ndarray, "shown height width channels"]
    fingerprint: str
    content: ImageArrays | ImageStream

    def source(self, trainer: Trainer, config: ImageConfig, step: int) -> Any:
        """What `Trainer.run` takes its batches from, the first of them that of `step`.

        Raises:
            UserError: If the images do not fit the network.
        """
        labeled, flip = config.network.conditional, config.source.flip
        with user_errors(ValueError, OSError):
            if isinstance(self.content, ImageStream):
                self.content.set_state({**self.content.get_state(), "step": step})
                return _batches(self.content, labeled, flip, config.training.seed, step)
            return trainer.device_data(
                self.content.images, self.content.labels if labeled else None
            )

    def close(self) -> None:
        """Ends the threads of a stream."""
        if isinstance(self.content, ImageStream):
            self.content.close()


def load(config: ImageConfig, *, first: bool) -> ImageSet:
    """Finds or loads the images of a run.

    Args:
        config: The configuration.
        first: Whether this is the process that shows progress.

    Raises:
        UserError: If they are absent, damaged, or cannot be read.
    """
    source = config.source
    with user_errors(ValueError, OSError, ImportError):
        if isinstance(source, FolderConfig) and source.stream:
            return _stream(source, config.training.batch_size, config.training.seed)
        if isinstance(source, FolderConfig):
            arrays = data.load_images(source.data, source.image_size, progress=first)
        else:
            loader = data.load_mnist if config.data == "mnist" else data.load_cifar10
            arrays = loader("train", source.data_root, progress=first)
    images = arrays.images
    rows = np.random.default_rng(0).permutation(len(images))[:_SHOWN]
    shown, shape = images[rows], images.shape[1:]
    return ImageSet(shape, arrays.classes, len(images), shown, _fingerprint(arrays), arrays)


def _stream(source: FolderConfig, batch_size: int, seed: int) -> ImageSet:
    stream = data.stream_images(source.data, source.image_size, batch_size, seed=seed)
    some = data.stream_images(
        source.data, source.image_size, _SHOWN, seed=seed, process=(0, 1), prefetch=1
    )
    shown = next(some).images
    some.close()
    fingerprint = str(stream.get_state()["images"])
    return ImageSet(stream.shape, stream.classes, stream.num, shown, fingerprint, stream)


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


def _fingerprint(arrays: ImageArrays) -> str:
    digest = hashlib.sha256(repr((arrays.images.shape, arrays.classes)).encode())
    digest.update(np.ascontiguousarray(arrays.images))
    if arrays.labels is not None:
        digest.update(np.ascontiguousarray(arrays.labels))
    return digest.hexdigest()[:16]
