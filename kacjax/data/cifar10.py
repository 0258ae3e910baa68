"""CIFAR-10: 50,000 and 10,000 photographs of 32 by 32 pixels in ten classes, in four forms.

Source: A. Krizhevsky, *Learning multiple layers of features from tiny images*, technical report,
University of Toronto (2009).
"""

import pathlib
import tarfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from kacjax._validation import check_choice
from kacjax.data.cifar10_batches import Batch, from_binary, from_pickle
from kacjax.data.decoding import decode_images
from kacjax.data.download import Remote, fetch
from kacjax.data.files import DataError, PathLike, cache_folder, cached_images, data_root
from kacjax.data.image_files import ARCHIVE_DAMAGE, image_files
from kacjax.data.images import ImageArrays

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
CIFAR10_SIDE = 32

_REMOTE = Remote(
    "cifar-10-python.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/",),
    "c58f30108f718f92721af3b95e74349a",
)
_FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_SUBFOLDERS = (".", "cifar10", "cifar-10", "CIFAR10")


class _Form(NamedTuple):
    """A form in which the images come.

    Attributes:
        places: Its folder or archive.
        marks: A folder that holds any of these has the form, whatever its name.
        load: `(path, split, root, progress) -> images`.
    """

    places: tuple[str, ...]
    marks: tuple[str, ...]
    load: Callable[[pathlib.Path, str, pathlib.Path, bool], ImageArrays]


def load_cifar10(
    split: str = "train",
    root: PathLike | None = None,
    download: bool = True,
    progress: bool = True,
) -> ImageArrays:
    """Loads CIFAR-10 from any of its forms.

    In `root` and its folders `cifar10`, `cifar-10` and `CIFAR10` it looks for
    `cifar-10-batches-py` or `cifar-10-python.tar.gz`, then for `cifar-10-batches-bin` or
    `cifar-10-binary.tar.gz`, then for JPEG files `train/CLASS/*.jpg` and `test/CLASS/*.jpg` in a
    folder `cifar10-jpeg` or archive `cifar10-jpeg.tar.xz`, which are decoded once and cached
    (see `cache_folder`). Where there is none, the python form is downloaded into `root/cifar10`.

    Args:
        split: `train`, 50,000 images, or `test`, 10,000.
        root: See `data_root`; it may also be the folder or archive of one of the forms itself.
        download: Whether absent data may be downloaded, 170 MB.
        progress: Show a bar for a download and for decoding.

    Returns:
        Images of shape `(num, 32, 32, 3)`; labels in the order of `CIFAR10_CLASSES`.

    Raises:
        DataError: If data are absent and cannot be downloaded, or damaged.
    """
    check_choice("split", split, _FILES)
    root = data_root(root)
    if (found := _find(root)) is None:
        fetch("CIFAR-10", [_REMOTE], root / "cifar10", download=download, progress=progress)
        found = root / "cifar10" / _REMOTE.name, _FORMS[0]
    path, form = found
    return form.load(path, split, root, progress)


def _find(root: pathlib.Path) -> tuple[pathlib.Path, _Form] | None:
    for form in _FORMS:
        for folder in (root / name for name in _SUBFOLDERS):
            for path in (folder, *(folder / place for place in form.places)):
                archived = path.is_file() and path.name in form.places
                if archived or any((path / mark).exists() for mark in form.marks):
                    return path, form
    return None


def _load_jpeg(path: pathlib.Path, split: str, root: pathlib.Path, progress: bool) -> ImageArrays:
    files = image_files(path)

    def build() -> ImageArrays:
        names = [name for name in files.names if name.split("/")[-3:-2] == [split]]
        classes = [name.split("/")[-2] for name in names]
        if unknown := sorted(set(classes).difference(CIFAR10_CLASSES)):
            raise DataError(f"{path} holds {split}/{unknown[0]}, which is no class of CIFAR-10.")
        if not names:
            raise DataError(f"{path} holds no images {split}/CLASS/*.jpg.")
        images, _ = decode_images(files, names, CIFAR10_SIDE, resize=False, progress=progress)
        labels = np.array([CIFAR10_CLASSES.index(name) for name in classes], np.int32)
        return ImageArrays(images, labels, CIFAR10_CLASSES)

    return cached_images(path, files.fingerprint, {"split": split}, cache_folder(root), build)


def _load_batches(
    suffix: str, parse: Callable[[bytes], Batch]
) -> Callable[[pathlib.Path, str, pathlib.Path, bool], ImageArrays]:
    def load(path: pathlib.Path, split: str, root: pathlib.Path, progress: bool) -> ImageArrays:
        batches = []
        names = [f"{name}{suffix}" for name in _FILES[split]]
        contents = _read_members(path, names)
        for name in names:
            if name not in contents:
                raise DataError(f"{path} lacks {name}.")
            try:
                batches.append(parse(contents[name]))
            except DataError as error:
                raise DataError(f"{name} in {path} is damaged: {error}") from error
        planes = np.concatenate([batch.planes for batch in batches])
        labels = np.concatenate([batch.labels for batch in batches])
        if labels.max(initial=0) >= len(CIFAR10_CLASSES):
            raise DataError(f"{path} holds the label {labels.max()}; labels are 0 to 9.")
        images = planes.reshape(-1, 3, CIFAR10_SIDE, CIFAR10_SIDE).transpose(0, 2, 3, 1)
        return ImageArrays(np.ascontiguousarray(images), labels, CIFAR10_CLASSES)

    return load


def _read_members(path: pathlib.Path, names: list[str]) -> dict[str, bytes]:
    """Files of a folder or tar archive by their last name; those that are absent are left out."""
    try:
        if path.is_dir():
            return {name: (path / name).read_bytes() for name in names if (path / name).exists()}
        with tarfile.open(path) as archive:
            return {
                name: stream.read()
                for member in archive
                if (name := pathlib.PurePosixPath(member.name).name) in names
                and (stream := archive.extractfile(member))
            }
    except ARCHIVE_DAMAGE as error:
        raise DataError(f"{path} cannot be read: {error}; delete it if it is damaged.") from error


_FORMS = (
    _Form(
        ("cifar-10-batches-py", "cifar-10-python.tar.gz"),
        _FILES["train"] + _FILES["test"],
        _load_batches("", from_pickle),
    ),
    _Form(
        ("cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        tuple(f"{name}.bin" for name in _FILES["train"] + _FILES["test"]),
        _load_batches(".bin", from_binary),
    ),
    _Form(
        ("cifar10-jpeg", "cifar10-jpeg.tar.xz", "cifar10-jpeg.tar"),
        ("train/airplane", "test/airplane"),
        _load_jpeg,
    ),
)
