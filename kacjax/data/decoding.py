"""Decoding of image files by Pillow: grey or colour, resized and cropped."""

import io
import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int, UInt8
from tqdm.auto import tqdm

from kacjax._optional import require
from kacjax._validation import check_choice, check_count
from kacjax.data.files import DataError
from kacjax.data.image_files import ImageFiles

UNREADABLE = ("error", "skip")
_MODES = {1: "L", 3: "RGB"}
_NAMED = 5


def decode_image(
    content: bytes, size: int, channels: int = 3, resize: bool = True
) -> UInt8[np.ndarray, "{size} {size} {channels}"]:
    """Decodes an image file.

    The image is turned as its EXIF data say, laid on white where it is transparent, resized by an
    antialiasing bicubic filter so that its shorter side has `size` pixels, and cropped about its
    centre. Of an animation the first frame is taken.

    Args:
        content: Of a file of any format that Pillow reads.
        size: Height and width of the result.
        channels: 3 for colour, 1 for grey.
        resize: False refuses images that do not have this size already.

    Raises:
        DataError: If it is damaged, or of another size.
        ImportError: If Pillow is not installed.
    """
    image_module, operations = require("PIL.Image", "images"), require("PIL.ImageOps", "images")
    mode = _MODES[channels]
    try:
        with image_module.open(io.BytesIO(content)) as image:
            if resize:
                # JPEG can be decoded at a half, quarter or eighth; twice the size leaves the
                # filter enough to work on. Other formats ignore it.
                image.draft(mode, (2 * size, 2 * size))
            image = operations.exif_transpose(image)
            if image.mode.startswith("I"):
                # Pillow would clip 16 bits, not scale them.
                image = image_module.fromarray((np.asarray(image) // 257).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                white = image_module.new("RGBA", image.size, "white")
                image = image_module.alpha_composite(white, image)
            image = image.convert(mode)
            if not resize and image.size != (size, size):
                raise ValueError(f"it is {image.width} by {image.height} pixels, not {size}")
            image = operations.fit(image, (size, size), image_module.Resampling.BICUBIC)
            return np.asarray(image).reshape(size, size, channels)
    except image_module.UnidentifiedImageError as error:
        raise DataError("unreadable image: its format is not known") from error
    # Pillow raises almost anything on a damaged file: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        raise DataError(f"unreadable image: {error}") from error


def decode_images(
    files: ImageFiles,
    names: Sequence[str],
    size: int,
    channels: int = 3,
    *,
    unreadable: str = "error",
    resize: bool = True,
    threads: int | None = None,
    progress: bool = True,
) -> tuple[UInt8[np.ndarray, "num {size} {size} {channels}"], Int[np.ndarray, " num"]]:
    """Decodes many image files in threads, see `decode_image`.

    Args:
        files: Where they are.
        names: Which of them.
        size: Height and width of the results.
        channels: 3 for colour, 1 for grey.
        unreadable: `error`, or `skip` to leave unreadable images out, with a warning.
        resize: See `decode_image`.
        threads: Number of threads; that of the processors, at most 8, by default.
        progress: Show a bar.

    Returns:
        The images, and which of `names` they are.

    Raises:
        DataError: If images are unreadable, with the first few names; if none is readable.
    """
    check_image_options(size, channels, unreadable)
    require("PIL.Image", "images")
    images = np.empty((len(names), size, size, channels), np.uint8)

    def decode(index: int) -> str | None:
        try:
            images[index] = decode_image(files.read(names[index]), size, channels, resize)
        except Exception as error:  # A damaged archive raises as much as a damaged image.
            return str(error)
        return None

    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        work = pool.map(decode, range(len(names)))
        bar = tqdm(work, "decode", len(names), disable=not progress, unit="image", leave=False)
        failures = {index: reason for index, reason in enumerate(bar) if reason}
    readable = np.setdiff1d(np.arange(len(names)), list(failures))
    if failures:
        first = [f"{names[index]} ({failures[index]})" for index in list(failures)[:_NAMED]]
        more = [f"and {len(failures) - _NAMED} more"] if len(failures) > _NAMED else []
        said = (
            f"{len(failures)} of {len(names)} images in {files.path} cannot be read: "
            f"{', '.join(first + more)}"
        )
        if unreadable == "error" or not len(readable):
            raise DataError(f'{said}. Remove them, or leave them out by unreadable="skip".')
        warnings.warn(f"{said}. They are left out.", stacklevel=2)
        images = images[readable]
    return images, readable


def check_image_options(size: int, channels: int, unreadable: str) -> None:
    """Raises a `ValueError` that names the first option that is out of range."""
    check_count("size", size)
    check_choice("unreadable", unreadable, UNREADABLE)
    if channels not in _MODES:
        raise ValueError(f"channels must be 3 (colour) or 1 (grey), got {channels!r}.")
