"""A trained classifier as one small file, and as a function of images."""

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from kacjax._optional import require
from kacjax.data import to_float
from kacjax.models.classifier import Classifier

_FORMAT = "kacjax-classifier-1"
_MNIST = "mnist_classifier.safetensors"


class ImageClassifier:
    """A trained classifier: `images -> (features, probabilities)`, as `metrics.ImageJudge` asks.

    Args:
        model: The network.
        classes: Names of the classes.

    Raises:
        ValueError: If there are not as many names as the network has classes.
    """

    def __init__(self, model: Classifier, classes: Sequence[str]):
        if len(classes) != model.config["classes"]:
            raise ValueError(
                f"classes must be {model.config['classes']} names, got {len(classes)}."
            )
        self.config = model.config
        self.classes = tuple(classes)
        model = nnx.clone(model)
        model.eval()
        self.graphdef, self.state = nnx.split(model)

    def __call__(
        self,
        images: Float[Array, "num height width channels"]
        | Float[np.ndarray, "num height width channels"]
        | UInt8[np.ndarray, "num height width channels"],
    ) -> tuple[Float[Array, "num dim"], Float[Array, "num classes"]]:
        """Features and probabilities of images, in bytes or floats in `[-1, 1]`.

        Raises:
            ValueError: If the images have another shape.
        """
        if list(images.shape[1:]) != self.config["shape"]:
            raise ValueError(
                f"images must have the shape (num, {self.config['shape']}), got {images.shape}."
            )
        floats = to_float(np.asarray(images)) if images.dtype == np.uint8 else images
        return _classify(self.graphdef, self.state, jnp.asarray(floats, jnp.float32))

    def features(self, images: Any) -> Float[Array, "num dim"]:
        """The features alone, a feature function for Fréchet and kernel distances."""
        return self(images)[0]


@functools.partial(jax.jit, static_argnums=0)
def _classify(graphdef: Any, state: Any, images: Array) -> tuple[Array, Array]:
    output = nnx.merge(graphdef, state)(images)
    return output.features, jax.nn.softmax(output.logits)


def save_classifier(
    file: str | Path, classifier: ImageClassifier, notes: dict[str, Any] | None = None
) -> None:
    """Writes a classifier; numbers are rounded to float16.

    Args:
        file: Target, replaced if it exists.
        classifier: The classifier.
        notes: Anything else that JSON can hold: what it was trained on, how well it does.

    Raises:
        ImportError: If safetensors is missing: `pip install "kacjax[images]"`.
    """
    safetensors = require("safetensors.numpy", "images")
    header = {
        "format": _FORMAT,
        "config": classifier.config,
        "classes": classifier.classes,
        "notes": notes or {},
    }
    arrays = {name: np.asarray(leaf, np.float16) for name, leaf in _leaves(classifier.state)}
    Path(file).write_bytes(safetensors.save(arrays, {"kacjax": json.dumps(header)}))


def load_classifier(file: str | Path) -> ImageClassifier:
    """Reads a classifier.

    Raises:
        ValueError: If the file is damaged or not of this kind.
        OSError: If there is no such file.
        ImportError: If safetensors is missing: `pip install "kacjax[images]"`.
    """
    safetensors = require("safetensors", "images")
    try:
        with safetensors.safe_open(file, framework="np") as stream:
            header = json.loads((stream.metadata() or {}).get("kacjax", "{}"))
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    if header.get("format") != _FORMAT:
        raise ValueError(f"{file} holds no classifier of this version of kacjax.")
    model = nnx.eval_shape(lambda: Classifier(**header["config"], rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(model)
    wanted = dict(_leaves(state))
    if {name: leaf.shape for name, leaf in wanted.items()} != {
        name: array.shape for name, array in arrays.items()
    }:
        raise ValueError(f"{file} is damaged: its arrays are not those of its network.")
    values = [jnp.asarray(arrays[name], leaf.dtype) for name, leaf in wanted.items()]
    state = jax.tree.unflatten(jax.tree.structure(state), values)
    return ImageClassifier(nnx.merge(graphdef, state), header["classes"])


def mnist_classifier() -> ImageClassifier:
    """The classifier of MNIST that comes with the library, the same for every score.

    Made by `python -m experiments.features mnist`; see there. Its Fréchet distances are those of
    its own 64 features, not FIDs.

    Raises:
        ImportError: If safetensors is missing: `pip install "kacjax[images]"`.
    """
    with resources.as_file(resources.files("kacjax.models") / _MNIST) as file:
        return load_classifier(file)


def _leaves(state: Any) -> list[tuple[str, Any]]:
    """The leaves by name, such as `blocks/0/norm/mean`, in the order of the tree."""
    flat = jax.tree_util.tree_flatten_with_path(state)[0]
    return [("/".join(_part(key) for key in path if _part(key)), leaf) for path, leaf in flat]


def _part(key: Any) -> str:
    part = getattr(key, "key", getattr(key, "idx", ""))
    return str(part)
