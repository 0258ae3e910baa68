"""A trained classifier of images in one small file, and the one of MNIST that is shipped."""

import pathlib
from importlib import resources
from typing import Any

import numpy as np
from flax import nnx

from kacjax import models
from kacjax.export.file import fill, read_file, write_file

_FORMAT = "kacjax-classifier-1"
_MNIST = "mnist_classifier.safetensors"


def save_classifier(
    file: str | pathlib.Path,
    classifier: models.ImageClassifier,
    notes: dict[str, Any] | None = None,
) -> None:
    """Writes a classifier, its numbers rounded to float16; the file appears whole or not at all.

    Args:
        file: Target; replaced if it exists.
        classifier: The classifier.
        notes: Anything else that JSON can hold: what it was trained on, how well it does.

    Raises:
        OSError: If the file cannot be written.
    """
    header = {
        "config": classifier.config,
        "classes": classifier.classes,
        "notes": notes or {},
    }
    write_file(file, _FORMAT, header, classifier.state, np.float16)


def load_classifier(file: str | pathlib.Path) -> models.ImageClassifier:
    """Reads a classifier.

    Raises:
        ValueError: If the file is damaged or not of this kind.
        OSError: If there is no such file, or it cannot be read.
    """
    header, arrays = read_file(file, _FORMAT)
    config = header["config"]
    model = models.blank(lambda: models.Classifier(**config, rngs=nnx.Rngs(0)))
    single = {name: array.astype(np.float32) for name, array in arrays.items()}
    graphdef, state = fill(file, model, single)
    return models.ImageClassifier(nnx.merge(graphdef, state), header["classes"])


def mnist_classifier() -> models.ImageClassifier:
    """The classifier of MNIST that comes with the library, the same for every score.

    Made by `python -m experiments.features mnist`; see there. Its Fréchet distances are those of
    its own 64 features, not FIDs.
    """
    with resources.as_file(resources.files("kacjax.export") / _MNIST) as file:
        return load_classifier(file)
