r"""Images as bytes and as the numbers that a model sees: byte $b$ is $(2b - 255) / 255$."""

from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int32, UInt8

AnyArray = TypeVar("AnyArray", np.ndarray, jax.Array)


class ImageArrays(NamedTuple):
    """Color or gray images from 0 to 255, their labels where there are any, and the class names.

    Example:
        >>> kacjax.data.ImageArrays(np.zeros((5, 28, 28, 1), np.uint8)).labels is None
        True
    """

    images: UInt8[np.ndarray, "num height width channels"]
    labels: Int32[np.ndarray, " num"] | None = None
    classes: tuple[str, ...] = ()


class ImageBatch(NamedTuple):
    """A batch of a stream of images: bytes and labels as in `ImageArrays`."""

    images: UInt8[np.ndarray, "batch height width channels"]
    labels: Int32[np.ndarray, " batch"] | None = None


def to_float(images: UInt8[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    """Bytes as float32 in `[-1, 1]`; NumPy stays NumPy, JAX stays JAX.

    Example:
        >>> kacjax.data.to_float(np.array([0, 255], np.uint8)).tolist()
        [-1.0, 1.0]
    """
    # The difference is exact and only the product is rounded: all devices agree to the last bit.
    return (2 * images.astype(np.float32) - 255) * np.float32(1 / 255)


def to_uint8(images: Float[AnyArray, "..."]) -> UInt8[AnyArray, "..."]:
    """The nearest bytes to finite floats, those outside `[-1, 1]` clipped: undoes `to_float`.

    Example:
        >>> kacjax.data.to_uint8(np.array([-1.0, 0.5, 2.0], np.float32)).tolist()
        [0, 191, 255]
    """
    numpy: Any = np if isinstance(images, np.ndarray) else jnp
    return numpy.clip(numpy.rint(127.5 * images + 127.5), 0, 255).astype(np.uint8)
