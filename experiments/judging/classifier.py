"""A small convolutional classifier of images: the network, a trained one, and its file.

The file is one of safetensors, in float16. Its metadata's one entry, `kacjax`, is a digest of all
else, a blank, and a description in JSON.
"""

import functools
import hashlib
import json
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import nnx
from jaxtyping import Array, Float
from safetensors.numpy import save

from kacjax.data import to_float

_FORMAT = "kacjax-classifier-1"


class ConvolutionBlock(nnx.Module):
    """A convolution of 3 by 3 pixels, batch normalization, rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(
            inputs, outputs, (3, 3), strides=stride, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.95, rngs=rngs)

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Array:
        """Applies the block."""
        return jax.nn.relu(self.norm(self.convolution(x)))


class ClassifierOutput(NamedTuple):
    """What the last layer sees, channels averaged over the image, and what it says of classes."""

    features: Float[Array, "batch dim"]
    logits: Float[Array, "batch classes"]


class Classifier(nnx.Module):
    """Convolutional network from images to classes.

    Two blocks at each resolution, which is halved between the widths in `channels`, of which the
    last is the dimension of the features. A first `stride` of 2 halves it at once, at a quarter of
    the cost. `train()` and `eval()` switch batch normalization, as in Flax.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int,
        *,
        rngs: nnx.Rngs,
        channels: Sequence[int] = (16, 32, 64),
        stride: int = 1,
    ):
        self._config = tuple(shape), classes, tuple(channels), stride
        inputs, blocks = shape[-1], []
        for width in channels:
            blocks.append(ConvolutionBlock(inputs, width, 1 if blocks else stride, rngs=rngs))
            blocks.append(ConvolutionBlock(width, width, 1, rngs=rngs))
            inputs = width
        self.blocks = nnx.List(blocks)
        self.head = nnx.Linear(inputs, classes, rngs=rngs)

    @property
    def config(self) -> dict[str, Any]:
        """Constructor keywords without `rngs`, as JSON holds them."""
        shape, classes, channels, stride = self._config
        sizes = {"shape": list(shape), "classes": classes}
        return {**sizes, "channels": list(channels), "stride": stride}

    def __call__(self, x: Float[Array, "batch height width channels"]) -> ClassifierOutput:
        """Features and logits of images in `[-1, 1]`."""
        last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number % 2 and number < last:
                x = nnx.max_pool(x, (2, 2), (2, 2))
        features = jnp.mean(x, axis=(1, 2))
        return ClassifierOutput(features, self.head(features))


class ImageClassifier:
    """A trained classifier, which is copied, with the names of its classes.

    It maps images to features and probabilities, as `judge.ImageJudge` asks.
    """

    def __init__(self, model: Classifier, classes: Sequence[str]):
        self.config, self.classes = model.config, tuple(classes)
        model = nnx.clone(model)
        model.eval()
        self.graphdef, self.state = nnx.split(model)

    def __call__(self, images: Any) -> tuple[Float[Array, "num dim"], Float[Array, "num classes"]]:
        """Features and probabilities of images, in bytes or floats in `[-1, 1]`."""
        if list(images.shape[1:]) != self.config["shape"]:
            raise ValueError(
                f"images must have the shape (num, *{self.config['shape']}), got {images.shape}."
            )
        floats = to_float(np.asarray(images)) if images.dtype == np.uint8 else images
        return _classify(self.graphdef, self.state, jnp.asarray(floats, jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _classify(graphdef: Any, state: Any, images: Array) -> tuple[Array, Array]:
    output = nnx.merge(graphdef, state)(images)
    return output.features, jax.nn.softmax(output.logits)


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
