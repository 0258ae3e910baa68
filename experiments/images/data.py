"""The images of a run, in memory or as a stream."""

import hashlib
from typing import NamedTuple

import numpy as np

from experiments.command import user_errors
from experiments.images.config import ImageConfig
from kacjax import data
from kacjax.data import ImageArrays


class ImageSet(NamedTuple):
    """Images to train on.

    Attributes:
        arrays: All of them.
        fingerprint: What tells them from others.
    """

    arrays: ImageArrays
    fingerprint: str


def load_images(config: ImageConfig, *, first: bool) -> ImageSet:
    """Loads the images of a run.

    Args:
        config: The configuration.
        first: Whether this is the process that shows progress.

    Raises:
        UserError: If they are absent, damaged, or cannot be read.
    """
    source = config.source
    with user_errors(ValueError, OSError, ImportError):
        if config.data == "mnist":
            arrays = data.load_mnist("train", source.data_root, progress=first)
        elif config.data == "cifar10":
            arrays = data.load_cifar10("train", source.data_root, progress=first)
        else:
            arrays = data.load_images(source.data, source.image_size, progress=first)
    return ImageSet(arrays, _fingerprint(arrays))


def _fingerprint(arrays: ImageArrays) -> str:
    digest = hashlib.sha256(repr((arrays.images.shape, arrays.classes)).encode())
    digest.update(np.ascontiguousarray(arrays.images))
    if arrays.labels is not None:
        digest.update(np.ascontiguousarray(arrays.labels))
    return digest.hexdigest()[:16]
