"""Small image files for the tests."""

import io

import numpy as np
from PIL import Image


def gradient(height: int, width: int) -> np.ndarray:
    """A smooth color image: red grows to the right, green downwards, blue is 77."""
    red = np.broadcast_to(np.linspace(0, 255, width), (height, width))
    green = np.broadcast_to(np.linspace(0, 255, height)[:, None], (height, width))
    return np.stack([red, green, np.full_like(red, 77)], axis=-1).astype(np.uint8)


def encode(array: np.ndarray, form: str = "png", mode: str | None = None, **options) -> bytes:
    """An image file of this form: gray, color, or what `mode` says."""
    stream = io.BytesIO()
    if form == "jpeg":
        options = {"quality": 95, "subsampling": 0, **options}
    image = Image.fromarray(array.squeeze())
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def plain(value: int, size: int = 8) -> np.ndarray:
    """A color image of one value."""
    return np.full((size, size, 3), value, np.uint8)
