"""A trained classifier of images as one safetensors file of float16, and the one of MNIST.

The metadata's one entry, `kacjax`, is a digest of all else, a blank, and a description in JSON.
"""

import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import safetensors
from flax import nnx
from safetensors.numpy import save

from experiments.judging.classifier import Classifier, ImageClassifier

_FORMAT = "kacjax-classifier-1"


def save_classifier(file: Any, classifier: ImageClassifier, notes: dict | None = None) -> None:
    """Writes a classifier, with notes that JSON can hold."""
    leaves = nnx.to_flat_state(classifier.state)
    arrays = {".".join(map(str, path)): np.asarray(leaf, np.float16) for path, leaf in leaves}
    header = {"format": _FORMAT, "config": classifier.config, "classes": classifier.classes}
    text = json.dumps(header | {"notes": notes or {}})
    content = save(arrays, {"kacjax": f"{_digest(text, arrays)} {text}"})
    pathlib.Path(file).write_bytes(content)


def load_classifier(file: Any) -> ImageClassifier:
    """Reads a classifier; raises a `ValueError` if the file is damaged or holds something else."""
    try:
        with safetensors.safe_open(file, framework="np") as stream:
            digest, _, text = (stream.metadata() or {}).get("kacjax", "").partition(" ")
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    if not text or f'"{_FORMAT}"' not in text:
        raise ValueError(f"{file} is a safetensors file, but none of kacjax's classifiers.")
    if digest != _digest(text, arrays):
        raise ValueError(f"{file} is damaged: its content is not what was written.")
    header = json.loads(text)
    model = Classifier(**header["config"], rngs=nnx.Rngs(0))
    for path, leaf in nnx.to_flat_state(nnx.state(model)):
        leaf[...] = arrays[".".join(map(str, path))].astype(np.float32)
    return ImageClassifier(model, header["classes"])


def mnist_classifier() -> ImageClassifier:
    """That of `python -m experiments.features mnist`; its Fréchet distances are not FIDs."""
    return load_classifier(pathlib.Path(__file__).with_name("mnist_classifier.safetensors"))


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}{list(array.shape)}".encode() + array.tobytes())
    return digest.hexdigest()
