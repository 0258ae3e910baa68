"""A user's own images: decoded by Pillow into memory, or streamed by Grain where they are many."""

import dataclasses
import hashlib
import io
import os
import pathlib
import re
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from kacjax._optional import require
from kacjax._validation import check_choice, check_count
from kacjax.data.files import DataError, PathLike, cache_folder, cached_images
from kacjax.data.image_files import ImageFiles, class_labels, image_files
from kacjax.data.images import ImageArrays, ImageBatch

_MODES = {1: "L", 3: "RGB"}
_SPLITS = re.compile(r"(train|training|test|testing|val|valid|validation)[-_]?\d*", re.IGNORECASE)


def load_images(
    path: PathLike,
    size: int | tuple[int, int],
    *,
    channels: int = 3,
    unreadable: str = "error",
    cache: PathLike | None = None,
    progress: bool = True,
) -> ImageArrays:
    """Loads all images of a folder or archive, decoded once and then cached.

    Folders below `path` are classes, 2 before 10: those that all images share are passed over, the
    next one is the class. Images are turned as their EXIF data say, laid on white where they are
    transparent, resized to cover `size`, and cropped about the center. A warning names other files.

    Args:
        path: A folder, or a zip or tar archive, of png, jpeg, webp, bmp, gif, tiff (first frame).
        size: Height and width, one number if they are equal.
        channels: 3 for color, 1 for gray.
        unreadable: `error`, or `skip` to leave out what is unreadable or lacks a class, and warn.
        cache: Folder of the cache; see `cache_folder`.
        progress: Show a bar.

    Raises:
        DataError: If there are no images, or unreadable ones, or `train` and `test` as classes.
        ImportError, ValueError: If Pillow is not installed, or an option out of range.

    Example:
        >>> import PIL.Image
        >>> PIL.Image.new("RGB", (40, 30)).save("1.png")
        >>> kacjax.data.load_images(".", 16, cache="cache", progress=False).images.shape
        (1, 16, 16, 3)
    """
    files = image_files(path)

    def build() -> tuple[ImageArrays, str]:
        names, labels, classes, said = _classified(files, unreadable)
        how = (size, channels, unreadable, progress)
        images, kept, left_out = decode_images(files, names, *how)
        labels = None if labels is None else labels[kept]
        return ImageArrays(images, labels, classes), f"{said} {left_out}".strip()

    settings = {"size": _sides(size), "channels": channels, "unreadable": unreadable}
    folder = pathlib.Path(cache).expanduser() if cache else cache_folder()
    return cached_images(files.path, files.fingerprint, settings, folder, build)


@dataclasses.dataclass(eq=False, repr=False)
class ImageStream(Iterator[ImageBatch]):
    """An endless iterator of batches that can be saved and continued, made by `stream_images`.

    Example:
        >>> stream = kacjax.data.stream_images("photos", 64, 32, seed=0)  # doctest: +SKIP
        >>> images, labels = next(stream)  # doctest: +SKIP
    """

    num: int
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    batches: Any
    identity: dict[str, Any]

    def __next__(self) -> ImageBatch:
        return next(self.batches)

    def get_state(self) -> dict[str, Any]:
        """The number of batches taken and the identity: JSON can hold it."""
        return {"step": int(self.batches.get_state()["next_index"]), **self.identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues behind the batch after which `get_state` returned this state."""
        for name, value in self.identity.items():
            if (saved := state.get(name)) != value:
                raise ValueError(f"the saved stream has the {name} {saved!r}, this one {value!r}.")
        check_count("step", state.get("step"), 0)
        self.batches.set_state({"next_index": state["step"]})

    def close(self) -> None:
        """Ends the threads."""
        self.batches.close()


def stream_images(
    path: PathLike,
    size: int | tuple[int, int],
    batch_size: int,
    *,
    seed: int,
    channels: int = 3,
    unreadable: str = "error",
    process: tuple[int, int] | None = None,
    threads: int = 8,
    prefetch: int = 8,
) -> ImageStream:
    """Streams the images of a folder or zip archive, shuffled anew in every epoch.

    Batch `k` holds the images `k * batch_size` to `(k + 1) * batch_size - 1` of an endless stream
    of permutations that depends on the seed alone; it may straddle epochs.

    Args:
        path: A folder or archive, as in `load_images`.
        size: Height and width, one number if they are equal.
        batch_size: Images to a batch, those of all processes together.
        seed: Of the permutations, below 2^32.
        channels: 3 for color, 1 for gray.
        unreadable: `error`, or `skip` to use the next readable image instead, with a warning.
        process: Number of this process and of all, JAX's by default; each decodes its own rows.
        threads: Number of threads; each decodes one batch at a time.
        prefetch: Number of batches that are decoded ahead.

    Raises:
        ImportError: If Grain or Pillow is not installed.
        DataError, ValueError: As in `load_images`, of unreadable images from the iterator.

    Example:
        >>> import PIL.Image
        >>> PIL.Image.new("RGB", (40, 30)).save("1.png")
        >>> next(kacjax.data.stream_images(".", 16, 8, seed=0)).images.shape
        (8, 16, 16, 3)
    """
    sides = _check_options(size, channels, unreadable)
    for name, value in {"batch_size": batch_size, "threads": threads, "prefetch": prefetch}.items():
        check_count(name, value)
    check_count("seed", seed, 0)
    if seed >= 2**32:
        raise ValueError(f"seed must lie below 2^32, got {seed}.")
    index, count = process or (jax.process_index(), jax.process_count())
    if not 0 <= index < count:
        raise ValueError(f"process must be (index, count) with index < count, got {process}.")
    if batch_size % count:
        raise ValueError(f"batch_size must be a multiple of {count} processes, got {batch_size}.")
    grain, files = require("grain", "images"), image_files(path)
    names, labels, classes, said = _classified(files, unreadable)
    if said:
        warnings.warn(said, stacklevel=2)
    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)

    def decode(row: int) -> tuple[int, np.ndarray]:
        """Image `row`, or the first readable one after it if such may be skipped."""
        for i in (index % len(names) for index in range(row, row + len(names))):
            try:
                return i, decode_image(files.read(names[i]), size, channels)
            except Exception as error:  # A damaged archive raises as much as a damaged image.
                said = f"{names[i]} in {path} cannot be read: {describe(error)}"
                if unreadable == "error":
                    advice = 'Remove it, or skip such images by unreadable="skip".'
                    raise DataError(f"{said}. {advice}") from error
                warnings.warn(f"{said}. The next image is used instead.", stacklevel=2)
        raise DataError(f"no image in {path} can be read.")

    def load(batch: np.ndarray) -> ImageBatch:
        chosen, images = zip(*(decode(int(row)) for row in batch[rows]), strict=True)
        return ImageBatch(np.stack(images), None if labels is None else labels[list(chosen)])

    # Indices are batched before anything is read, so that the iterator's position is the step.
    order = grain.MapDataset.range(len(names)).shuffle(seed).repeat().batch(batch_size)
    options = grain.ReadOptions(min(threads, prefetch), prefetch)
    batches = iter(order.map(load).to_iter_dataset(options))
    listing = "\n".join([*names, *classes])
    digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()[:16]
    identity = {"images": digest, "seed": seed, "batch_size": batch_size}
    return ImageStream(len(names), (*sides, channels), classes, batches, identity)


def _classified(files: ImageFiles, unreadable: str) -> tuple[Sequence[str], Any, Any, str]:
    """The images that may be read, their labels and classes, and what is left out."""
    names, path = files.names, files.path
    labels, classes = class_labels(names)
    if len(splits := [name for name in classes if _SPLITS.fullmatch(name)]) > 1:
        raise DataError(f"{path} holds {' and '.join(splits)}: pass one of these folders as path.")
    said = [f"{len(files.others)} file(s) in {path} are no images: {', '.join(files.others[:5])}."]
    if labels is not None and (stray := [names[i] for i in np.flatnonzero(labels < 0)]):
        which = f"{len(stray)} of {len(names)} images in {path} lie beside the folders of classes"
        which = f"{which}, as {', '.join(stray[:5])}."
        if unreadable == "error":
            raise DataError(f'{which} Move them, or leave them out by unreadable="skip".')
        said.append(f"{which} They are left out.")
        names, labels = [names[i] for i in np.flatnonzero(labels >= 0)], labels[labels >= 0]
    return names, labels, classes, " ".join(said[not files.others :])


def decode_image(
    content: bytes, size: int | tuple[int, int], channels: int = 3, resize: bool = True
) -> UInt8[np.ndarray, "height width {channels}"]:
    """Decodes an image file as `load_images` says; without `resize` other sizes are refused."""
    image_module, operations = require("PIL.Image", "images"), require("PIL.ImageOps", "images")
    mode, (height, width) = _MODES[channels], _sides(size)
    try:
        with image_module.open(io.BytesIO(content)) as image:
            if not resize and image.size != (width, height):
                raise ValueError(f"it has {image.width} by {image.height} pixels, not {size}")
            # JPEG is decoded at a half, quarter or eighth; twice the size is left to the filter.
            image.draft(mode, (2 * max(height, width),) * 2)
            image = operations.exif_transpose(image)
            if image.mode.startswith(("I", "F")):
                # Pillow would clip 16 bits, not scale them, and lose the transparent level.
                levels = np.asarray(image)
                if image.mode == "F" or levels.min() < 0 or levels.max() > 65535:
                    raise ValueError("its levels are not those of 8 or 16 bits")
                scaled = ((levels.astype(np.int64) + 128) // 257).astype(np.uint8)
                scaled[levels == image.info.get("transparency", -1)] = 255
                image = image_module.fromarray(scaled)
            if image.has_transparency_data:
                white = image_module.new("RGBA", image.size, "white")
                image = image_module.alpha_composite(white, image.convert("RGBA"))
            bicubic = image_module.Resampling.BICUBIC
            image = operations.fit(image.convert(mode), (width, height), bicubic)
            return np.asarray(image).reshape(height, width, channels)
    # Pillow raises almost anything on a damaged file: OSError, SyntaxError, struct.error, ...
    except Exception as error:
        unknown = isinstance(error, image_module.UnidentifiedImageError)
        reason = "its format is not known" if unknown else describe(error)
        raise DataError(f"unreadable image: {reason}") from error


def decode_images(
    files: ImageFiles,
    names: Sequence[str],
    size: int | tuple[int, int],
    channels: int = 3,
    unreadable: str = "error",
    progress: bool = True,
    resize: bool = True,
) -> tuple[UInt8[np.ndarray, "num height width {channels}"], Int[np.ndarray, " num"], str]:
    """Decodes files in threads: the images, which of `names` they are, what is left out and why."""
    sides = _check_options(size, channels, unreadable)
    images = np.empty((len(names), *sides, channels), np.uint8)
    failures: dict[int, str] = {}

    def decode(index: int) -> None:
        try:
            images[index] = decode_image(files.read(names[index]), size, channels, resize)
        except Exception as error:  # A damaged archive raises as much as a damaged image.
            failures[index] = describe(error)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        work = pool.map(decode, range(len(names)))
        list(tqdm(work, "decode", len(names), disable=not progress, unit="image", leave=False))
    readable = np.setdiff1d(np.arange(len(names)), list(failures))
    if not failures:
        return images, readable, ""
    first = [f"{names[index]} ({failures[index]})" for index in sorted(failures)[:5]]
    first += ["..."] if len(failures) > 5 else []
    which = f"{len(failures)} of {len(names)} images in {files.path}"
    said = f"{which} cannot be read: {', '.join(first)}"
    if unreadable == "error" or not len(readable):
        raise DataError(f'{said}. Remove them, or leave them out by unreadable="skip".')
    return images[readable], readable, f"{said}. They are left out."


def _sides(size: Any) -> tuple[int, int]:
    sides: Any = size if isinstance(size, tuple) and len(size) == 2 else (size, size)
    for side in sides:
        check_count("size", side)
    return int(sides[0]), int(sides[1])


def _check_options(size: Any, channels: int, unreadable: str) -> tuple[int, int]:
    require("PIL.Image", "images")
    sides = _sides(size)
    check_choice("unreadable", unreadable, ("error", "skip"))
    if channels not in _MODES:
        raise ValueError(f"channels must be 3 (color) or 1 (gray), got {channels!r}.")
    return sides


def describe(error: Exception) -> str:
    """The text of an exception; its type where it has none, as `EOFError()`."""
    return str(error) or type(error).__name__
