"""CIFAR-10: 50,000 and 10,000 photographs of 32 by 32 pixels in ten classes."""

import io
import pathlib
import pickle
import posixpath
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from kacjax._validation import check_choice
from kacjax.data.files import DataError, PathLike, cache_folder, cached_images, data_root, fetch
from kacjax.data.folder import decode_images, describe
from kacjax.data.image_files import ARCHIVE_DAMAGE, image_files, is_data_file, read_tar
from kacjax.data.images import ImageArrays

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer")
CIFAR10_CLASSES += ("dog", "frog", "horse", "ship", "truck")
"""The names of the classes, in the order of the labels."""

_PLANES = 3 * 32 * 32
_PYTHON = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
_BINARY = ("cifar-10-batches-bin", "cifar-10-binary.tar.gz")
_JPEG = ("cifar10-jpeg", "cifar10-jpeg.tar.xz", "cifar10-jpeg.tar")
_FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_ADDRESSES = ("https://www.cs.toronto.edu/~kriz/",)
_SUMS = {_PYTHON[1]: "c58f30108f718f92721af3b95e74349a"}
# What an array is pickled as, under the names of NumPy 1 and 2.
_ADMITTED = {("numpy", "ndarray"), ("numpy", "dtype")}
_ADMITTED |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}


def load_cifar10(
    split: str = "train", root: PathLike | None = None, download: bool = True, progress: bool = True
) -> ImageArrays:
    """Loads CIFAR-10 from its python form, its binary form, or JPEG files.

    In `root` and its folders `cifar10`, `cifar-10` and `CIFAR10` it looks for
    `cifar-10-batches-py` or `cifar-10-python.tar.gz`, then for `cifar-10-batches-bin` or
    `cifar-10-binary.tar.gz`, then for `train/CLASS/*.jpg` and `test/CLASS/*.jpg` in a folder
    `cifar10-jpeg` or archive `cifar10-jpeg.tar.xz`, which are decoded once and cached. The labels
    are in the order of `CIFAR10_CLASSES`. What is absent or damaged is named in a `DataError`.

    Source: A. Krizhevsky, *Learning multiple layers of features from tiny images*, report (2009).

    Args:
        split: `train`, 50,000 images, or `test`, 10,000.
        root: As in `data_root`; it may also be the folder or archive of one of the forms.
        download: Whether the python form may be downloaded where there is none, 170 MB.
        progress: Show a bar for a download and for decoding.

    Example:
        >>> kacjax.data.load_cifar10("test").images.shape  # doctest: +SKIP
        (10000, 32, 32, 3)
    """
    check_choice("split", split, _FILES)
    root = data_root(root)
    for names, suffix in ((_PYTHON, ""), (_BINARY, ".bin")):
        if path := _find(root, names, f"data_batch_1{suffix}", f"test_batch{suffix}"):
            return _load_batches(path, split, suffix)
    if path := _find(root, _JPEG, "train/airplane", "test/airplane"):
        return _load_jpeg(path, split, cache_folder(root), progress)
    fetch("CIFAR-10", _SUMS, _ADDRESSES, root / "cifar10", download, progress)
    return _load_batches(root / "cifar10" / _PYTHON[1], split, "")


def _find(root: pathlib.Path, names: Sequence[str], *marks: str) -> pathlib.Path | None:
    """A folder or archive of these names, or a folder of any name that holds one of the marks."""
    for folder in (root, root / "cifar10", root / "cifar-10", root / "CIFAR10"):
        for path in (folder, *(folder / name for name in names)):
            archived = path.name in names and is_data_file(path)
            if archived or any((path / mark).exists() for mark in marks):
                return path
    return None


def _load_jpeg(path: pathlib.Path, split: str, cache: pathlib.Path, progress: bool) -> ImageArrays:
    files = image_files(path)

    def build() -> tuple[ImageArrays, str]:
        names = [name for name in files.names if name.split("/")[-3:-2] == [split]]
        classes = [name.split("/")[-2] for name in names]
        if unknown := sorted(set(classes).difference(CIFAR10_CLASSES)):
            raise DataError(f"{path} holds {split}/{unknown[0]}, which is no class of CIFAR-10.")
        if not names:
            raise DataError(f"{path} holds no images {split}/CLASS/*.jpg.")
        images, _, left_out = decode_images(files, names, 32, progress=progress, resize=False)
        labels = np.array([CIFAR10_CLASSES.index(name) for name in classes], np.int32)
        return ImageArrays(images, labels, CIFAR10_CLASSES), left_out

    return cached_images(path, files.fingerprint, {"split": split}, cache, build)


def _load_batches(path: pathlib.Path, split: str, suffix: str) -> ImageArrays:
    try:
        if path.is_dir():
            files = filter(is_data_file, path.glob("*_batch*"))
            contents = {file.name: file.read_bytes() for file in files}
        else:
            contents = {posixpath.basename(name): it for name, it in read_tar(path).items()}
    except ARCHIVE_DAMAGE as error:
        raise DataError(f"{path} cannot be read: {error}; delete it if it is damaged.") from error
    batches = []
    for name in (f"{batch}{suffix}" for batch in _FILES[split]):
        if (content := contents.get(name)) is None:
            raise DataError(f"{path} lacks {name}.")
        try:
            batches.append(read_batch(content, binary=bool(suffix)))
        except DataError as error:
            raise DataError(f"{name} in {path} is damaged: {error}") from error
    planes, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    images = planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return ImageArrays(np.ascontiguousarray(images), labels, CIFAR10_CLASSES)


def read_batch(
    content: bytes, binary: bool = False
) -> tuple[UInt8[np.ndarray, "num 3072"], Int32[np.ndarray, " num"]]:
    """Reads the planes red, green, blue, and the labels.

    The binary form has a byte of label before the planes of each image. The python form is a
    pickle, which can run any code and forge any array. Of an array this reader takes shape and
    bytes alone; it refuses all but arrays of bytes and Python's containers, strings and numbers.
    """
    if binary:
        if len(content) % (1 + _PLANES):
            raise DataError(f"it has {len(content)} bytes, not a multiple of {1 + _PLANES}.")
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PLANES)
        planes, labels = records[:, 1:], records[:, 0]
    else:
        try:
            # Strings of Python 2 have no encoding.
            batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
            parts = (batch.get(name, batch.get(name.encode())) for name in ("data", "labels"))
            planes, labels = map(_array, parts)
        # "Other exceptions may also be raised during unpickling", says the documentation.
        except Exception as error:
            raise DataError(f"it cannot be unpickled: {describe(error)}") from error
    whole = planes.dtype == np.uint8 and planes.shape == (labels.size, _PLANES)
    if not whole or labels.ndim != 1 or not labels.size or labels.dtype.kind not in "iu":
        raise DataError(f"it does not hold {_PLANES} bytes and a label for each image.")
    if labels.min() < 0 or labels.max() > 9:
        raise DataError(f"it holds labels from {labels.min()} to {labels.max()}, not 0 to 9.")
    return planes, labels.astype(np.int32)


class _Stub:  # Stands for an array or a dtype in a pickle.
    def __init__(self, *args: Any):
        self.args = args

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Stub]:
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return _Stub


def _array(value: Any) -> np.ndarray:
    if not isinstance(value, _Stub):
        return np.asarray(value)
    _, shape, dtype, fortran, content = value.state
    if dtype.args[0] not in ("u1", b"u1"):
        raise ValueError(f"it holds an array of type {dtype.args[0]}, not of bytes.")
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
