"""A small convolutional classifier of images, for its features and probabilities."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from kacjax._validation import check_count

_SHORTEST_SIDE = 4


class ConvolutionBlock(nnx.Module):
    """A convolution of 3 by 3 pixels, batch normalisation, rectifier."""

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
    `eval()` switch batch normalisation, as in Flax.

    Args:
        shape: Height, width and channels of an image.
        classes: Number of classes.
        rngs: Random streams for initialisation.
        channels: Width at each resolution; the last is the dimension of the features.
        stride: Of the first convolution: 2 halves the resolution at once, at a quarter of the cost.

    Raises:
        ValueError: If a size is not a positive integer, or the images are too small to be halved
            so often.
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
        for size in (*shape, *channels):
            check_count("shape and channels", size)
        check_count("stride", stride)
        check_count("classes", classes, 2)
        side = _SHORTEST_SIDE * stride * 2 ** (len(channels) - 1)
        if len(shape) != 3 or min(shape[:2]) < side:
            raise ValueError(
                f"shape must be (height, width, channels), with sides of at least {side} pixels, "
                f"got {tuple(shape)}."
            )
        self.shape, self.classes = tuple(shape), classes
        self.channels, self.stride = tuple(channels), stride
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
