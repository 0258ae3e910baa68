"""A small convolutional classifier of images, and a trained one as a function of images."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from kacjax.data import to_float

_SHORTEST_SIDE = 4


class ConvolutionBlock(nnx.Module):
    """A convolution of 3 by 3 pixels, batch normalization, rectifier."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
        self.convolution = nnx.Conv(
            inputs, outputs, (3, 3), strides=stride, use_bias=False, rngs=rngs
        )
        self.norm = nnx.BatchNorm(outputs, momentum=0.95, rngs=rngs)

    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch height width outputs"]:
        """Applies the block."""
        return jax.nn.relu(self.norm(self.convolution(x)))


class ClassifierOutput(NamedTuple):
    """What the classifier makes of images.

    Attributes:
        features: What the last layer sees: channels, averaged over the image.
        logits: Log-probabilities of the classes, up to a constant.
    """

    features: Float[Array, "batch dim"]
    logits: Float[Array, "batch classes"]


class Classifier(nnx.Module):
    """Convolutional network from images to classes.

    Two blocks at each resolution, which is halved between the widths in `channels`. `train()` and
    `eval()` switch batch normalization, as in Flax.

    Args:
        shape: Height, width and channels of an image.
        classes: Number of classes.
        rngs: Random streams for initialization.
        channels: Width at each resolution; the last is the dimension of the features.
        stride: Of the first convolution: 2 halves the resolution at once, at a quarter of the cost.

    Raises:
        ValueError: If a size is not a positive integer, there are no channels, or the images are
            too small to be halved so often.
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
        if not channels:
            raise ValueError("channels must hold a width for each resolution, got ().")
        sizes = {"shape": shape, "channels": channels, "stride": [stride], "classes": [classes]}
        for name, values in sizes.items():
            least = 2 if name == "classes" else 1
            if any(not isinstance(value, int) or value < least for value in values):
                raise ValueError(
                    f"{name} must be an integer of at least {least}, got {tuple(values)}."
                )
        side = _SHORTEST_SIDE * stride * 2 ** (len(channels) - 1)
        if len(shape) != 3 or min(shape[:2]) < side:
            raise ValueError(
                f"shape must be (height, width, channels), with sides of at least {side} pixels, "
                f"got {tuple(shape)}."
            )
        self.shape, self.channels = tuple(shape), tuple(channels)
        self.classes, self.stride = classes, stride
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
        return {
            "shape": list(self.shape),
            "classes": self.classes,
            "channels": list(self.channels),
            "stride": self.stride,
        }

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
    """A trained classifier: `images -> (features, probabilities)`, as `judge.ImageJudge` asks.

    Args:
        model: The network; it is copied.
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
                f"images must have the shape (num, *{self.config['shape']}), got {images.shape}."
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
