"""Images that do not fit into memory: an endless stream of batches by Grain."""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from kacjax._optional import require
from kacjax._validation import check_count
from kacjax.data.decoding import check_image_options, decode_image, describe
from kacjax.data.files import DataError, PathLike
from kacjax.data.image_files import class_labels, image_files
from kacjax.data.images import ImageBatch


@dataclasses.dataclass(eq=False, repr=False)
class ImageStream(Iterator[ImageBatch]):
    """An endless iterator of batches that can be saved and continued; made by `stream_images`.

    Attributes:
        num: Number of images.
        shape: Of one image.
        classes: Names of the classes.
        identity: What the order of the images depends on.

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
        """Continues behind the batch after which `get_state` returned this.

        Raises:
            ValueError: If the state is of a stream of other images, seed or batch size.
        """
        for name, value in self.identity.items():
            if state.get(name) != value:
                raise ValueError(
                    f"the saved stream has the {name} {state.get(name)!r}, this one {value!r}."
                )
        check_count("step", state.get("step"), 0)
        self.batches.set_state({"next_index": state["step"]})

    def close(self) -> None:
        """Ends the threads."""
        self.batches.close()


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
    of permutations that depends on the seed alone; it may straddle epochs.

    Args:
        path: A folder or archive; see `load_images`, also for `size` and `channels`.
        size: Height and width.
        batch_size: Images to a batch, those of all processes together.
        seed: Of the permutations, below 2^32.
        channels: 3 for color, 1 for gray.
        unreadable: `error`, or `skip` to use the next readable image instead, with a warning.
        process: Number of this process and of all, JAX's by default; each decodes its own rows.
        threads: Number of threads; each decodes one batch at a time.
        prefetch: Number of batches that are decoded ahead.

    Raises:
        DataError: If there are no images, or (from the iterator) unreadable ones.
        ImportError: If Grain or Pillow is not installed.
        ValueError: If an option is out of range.

    Example:
        >>> import pathlib, tempfile, PIL.Image
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> PIL.Image.new("RGB", (40, 30)).save(folder / "1.png")
        >>> next(kacjax.data.stream_images(folder, 16, 8, seed=0)).images.shape
        (8, 16, 16, 3)
    """
    check_image_options(size, channels, unreadable)
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
    grain = require("grain", "images")
    require("PIL.Image", "images")
    files = image_files(path)
    names = files.names
    labels, classes = class_labels(names)
    rows = slice(index * batch_size // count, (index + 1) * batch_size // count)

    def decode(row: int) -> tuple[int, np.ndarray]:
        """Image `row`, or the first readable one after it if such may be skipped."""
        for i in (*range(row, len(names)), *range(row)):
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
    batches = (
        grain.MapDataset.range(len(names))
        .shuffle(seed)
        .repeat()
        .batch(batch_size)
        .map(load)
        .to_iter_dataset(grain.ReadOptions(min(threads, prefetch), prefetch))
    )
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()[:16]
    identity = {"images": digest, "seed": seed, "batch_size": batch_size}
    return ImageStream(len(names), (size, size, channels), classes, iter(batches), identity)
