"""Handwritten digits: MNIST from idx files, and the small ones that scikit-learn ships."""

import gzip
import math
import pathlib
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from kacjax._optional import require
from kacjax._validation import choose
from kacjax.data.files import DataError, PathLike, data_root, fetch
from kacjax.data.image_files import LARGEST, is_data_file
from kacjax.data.images import ImageArrays

DIGITS_SIDE = 8
"""Height and width of the digits."""

MNIST_CLASSES = tuple("0123456789")
"""The names of the classes."""

_ADDRESSES = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
_SUMS = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}


def load_mnist(
    split: str = "train", root: PathLike | None = None, download: bool = True, progress: bool = True
) -> ImageArrays:
    """Loads MNIST, white digits on black, from its four idx files, plain or compressed by gzip.

    They are looked for in `root` and its folders `mnist`, `MNIST` and `MNIST/raw`, and downloaded
    into `root/mnist` where they are absent; a `DataError` names those that cannot be had or read.

    Source: Y. LeCun et al., *Gradient-based learning applied to document recognition*, 1998.

    Args:
        split: `train`, 60,000 images, or `test`, 10,000.
        root: As in `data_root`.
        download: Whether absent files may be downloaded.
        progress: Show a bar for a download.

    Example:
        >>> kacjax.data.load_mnist("test").images.shape  # doctest: +SKIP
        (10000, 28, 28, 1)
    """
    prefix = choose("split", split, {"train": "train", "test": "t10k"})
    root = data_root(root)
    wanted = {3: f"{prefix}-images-idx3-ubyte", 1: f"{prefix}-labels-idx1-ubyte"}
    absent = [f"{name}.gz" for name in wanted.values() if not _find(root, name)]
    if sums := {name: _SUMS[name] for name in absent}:
        fetch("MNIST", sums, _ADDRESSES, root / "mnist", download, progress)
    files = {rank: _find(root, name) or root for rank, name in wanted.items()}
    images, labels = (read_idx(files[rank], rank) for rank in wanted)
    if len(images) != len(labels):
        raise DataError(f"{files[3]} holds {len(images)} images, {files[1]} {len(labels)} labels.")
    if labels.max(initial=0) >= len(MNIST_CLASSES):
        raise DataError(f"{files[1]} holds the label {labels.max()}; labels are 0 to 9.")
    return ImageArrays(images[..., None], labels.astype(np.int32), MNIST_CLASSES)


def read_idx(file: PathLike, rank: int) -> UInt8[np.ndarray, "..."]:
    """Reads an idx file: two zeros, type, rank, big-endian sizes, then an array of bytes."""
    magic, head = bytes([0, 0, 8, rank]), 4 + 4 * rank
    try:
        with open(file, "rb") as raw:
            stream = gzip.GzipFile(fileobj=raw) if raw.peek(2)[:2] == b"\x1f\x8b" else raw
            start = stream.read(head)
            shape = tuple(int.from_bytes(start[i : i + 4]) for i in range(4, head, 4))
            # The rest of what unpacks to more than it says stays packed.
            content = stream.read(min(math.prod(shape), LARGEST) + 1 if start[:4] == magic else 0)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}; delete it if it is damaged.") from error
    if start[:4] != magic or len(start) < head:
        found = start[:4].hex(" ") or "nothing"
        raise DataError(f"{file} is no idx file: it begins with {found}, not {magic.hex(' ')}.")
    if (num := len(content)) != math.prod(shape):
        raise DataError(f"{file} is damaged: it should hold {shape} bytes, and {num} were read.")
    # The copy can be written to, the buffer of a bytes object cannot.
    return np.frombuffer(content, np.uint8).reshape(shape).copy()


def _find(root: pathlib.Path, name: str) -> pathlib.Path | None:
    dotted = name.replace("-idx", ".idx")  # As some distributions have it.
    for folder in (root, root / "mnist", root / "MNIST", root / "MNIST/raw"):
        for variant in (name, f"{name}.gz", dotted, f"{dotted}.gz"):
            if is_data_file(folder / variant):
                return folder / variant
    return None


class Digits(NamedTuple):
    """The digits as vectors in `[-1, 1]`, and their classes 0 to 9."""

    train: Float[np.ndarray, "train 64"]
    train_labels: Int[np.ndarray, " train"]
    held_out: Float[np.ndarray, "held_out 64"]
    held_out_labels: Int[np.ndarray, " held_out"]


def load_digits() -> Digits:
    """Loads 1,437 digits of 8 by 8 pixels for training and 360 held out, classes in equal shares.

    They come with scikit-learn: `pip install "kacjax[metrics]"`.

    Source: E. Alpaydin, C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI, 1998.

    Example:
        >>> kacjax.data.load_digits().train.shape
        (1437, 64)
    """
    datasets = require("sklearn.datasets", "metrics")
    split = require("sklearn.model_selection", "metrics").train_test_split
    pixels, labels = datasets.load_digits(return_X_y=True)
    # A pixel counts the dark points, 0 to 16, of a 4 by 4 block.
    scaled = (pixels / 8 - 1).astype(np.float32)
    parts = split(scaled, labels, test_size=360, random_state=0, stratify=labels)
    train, held_out, train_labels, held_out_labels = parts
    return Digits(train, train_labels, held_out, held_out_labels)
