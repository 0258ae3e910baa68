"""Images that do not fit into memory: an endless stream of batches by Grain."""

import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from kacjax._optional import require
from kacjax._validation import check_count
from kacjax.data.decoding import check_image_options, decode_image
from kacjax.data.files import DataError, PathLike
from kacjax.data.image_files import class_labels, image_files
from kacjax.data.images import ImageBatch

_LARGEST_SEED = 2**32 - 1


class ImageStream(Iterator[ImageBatch]):
    """An endless iterator of batches that can be saved and continued.

    Its position is the number of batches taken, however many the processes.

    Attributes:
        num: Number of images.
        shape: Of one image.
        classes: Names of the classes.
    """

    def __init__(
        self,
        batches: Any,
        num: int,
        shape: tuple[int, int, int],
        classes: tuple[str, ...],
        identity: dict[str, Any],
    ):
        self.num, self.shape, self.classes = num, shape, classes
        self._batches = iter(batches)
        self._identity = identity

    def __next__(self) -> ImageBatch:
        return next(self._batches)

    def get_state(self) -> dict[str, Any]:
        """The position, and what the order of the images depends on: JSON can hold it."""
        return {"step": int(self._batches.get_state()["next_index"]), **self._identity}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues behind the batch after which `get_state` returned this.

        Raises:
            ValueError: If the state is of a stream of other images, seed or batch size.
        """
        for name, value in self._identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved stream has the {name} {state.get(name)!r}, this one {value!r}."
                )
        check_count("step", state.get("step"), 0)
        self._batches.set_state({"next_index": state["step"]})

    def close(self) -> None:
        """Ends the threads."""
        self._batches.close()


def stream_images(
    path: PathLike,
    size: int,
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
    of permutations that depends on the seed alone; it may straddle epochs. Each process decodes
    its own rows of each batch, in threads, some batches ahead.

    Args:
        path: A folder or archive, see `load_images`.
        size: Height and width, see `decode_image`.
        batch_size: Images to a batch, those of all processes together.
        seed: Of the permutations, below 2^32.
        channels: 3 for colour, 1 for grey.
        unreadable: `error`, or `skip` to put the next image in the place of an unreadable one, with
            a warning.
        process: Number of this process and of all; JAX's by default.
        threads: Number of threads; each decodes one batch at a time.
        prefetch: Number of batches that are decoded ahead.

    Raises:
        DataError: If there are no images, or (from the iterator) unreadable ones.
        ImportError: If Grain or Pillow is not installed.
        ValueError: If an option is out of range.
    """
    check_image_options(size, channels, unreadable)
    check_count("batch_size", batch_size)
    check_count("seed", seed, 0)
    check_count("threads", threads)
    check_count("prefetch", prefetch)
    index, count = process or (jax.process_index(), jax.process_count())
    if seed > _LARGEST_SEED:
        raise ValueError(f"seed must lie below 2^32, got {seed}.")
    if not 0 <= index < count:
        raise ValueError(f"process must be (index, count) with index < count, got {process}.")
    if batch_size % count:
        below = batch_size // count * count
        raise ValueError(
            f"batch_size must be a multiple of the {count} processes, got {batch_size}; the "
            f"nearest are {below} and {below + count}."
        )
    grain = require("grain", "images")
    require("PIL.Image", "images")
    files = image_files(path)
    labels, classes = class_labels(files.names)
    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)
    decode = _Decoder(files, size, channels, unreadable == "skip")

    def load(batch: np.ndarray) -> ImageBatch:
        chosen = [decode(int(row)) for row in batch[rows]]
        images = np.stack([image for _, image in chosen])
        return ImageBatch(images, None if labels is None else labels[[row for row, _ in chosen]])

    # Indices are batched before anything is read, so that the iterator's position is the step.
    batches = (
        grain.MapDataset.range(len(files.names))
        .shuffle(seed)
        .repeat()
        .batch(batch_size)
        .map(load)
        .to_iter_dataset(grain.ReadOptions(min(threads, prefetch), prefetch))
    )
    digest = hashlib.sha256("\n".join(files.names).encode(errors="surrogateescape")).hexdigest()
    identity = {"images": digest[:16], "seed": seed, "batch_size": batch_size}
    return ImageStream(batches, len(files.names), (size, size, channels), classes, identity)


class _Decoder:
    """Decodes image `row`, or the first readable one after it."""

    def __init__(self, files: Any, size: int, channels: int, skip: bool):
        self._files, self._size, self._channels, self._skip = files, size, channels, skip
        self._unreadable: set[int] = set()

    def __call__(self, row: int) -> tuple[int, np.ndarray]:
        names = self._files.names
        for candidate in (*range(row, len(names)), *range(row)):
            try:
                content = self._files.read(names[candidate])
                return candidate, decode_image(content, self._size, self._channels)
            except Exception as error:  # A damaged archive raises as much as a damaged image.
                said = f"{names[candidate]} in {self._files.path} cannot be read: {error}"
                if not self._skip:
                    raise DataError(
                        f'{said}. Remove it, or pass over such images by unreadable="skip".'
                    ) from error
                if candidate not in self._unreadable:
                    self._unreadable.add(candidate)
                    warnings.warn(
                        f"{said}. The next image takes its place ({len(self._unreadable)} such "
                        "so far).",
                        stacklevel=2,
                    )
        raise DataError(f"no image in {self._files.path} can be read.")
