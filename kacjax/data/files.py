"""Where data lie, and a cache of what was decoded from them."""

import contextlib
import hashlib
import json
import os
import pathlib
import uuid
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np

from kacjax.data.images import ImageArrays

DATA_VARIABLE = "KACJAX_DATA"
"""Environment variable: the folder of the data, `data` in the working directory by default."""

CACHE_VARIABLE = "KACJAX_CACHE"
"""Environment variable: the folder of the cache."""

PathLike: TypeAlias = str | os.PathLike[str]

_FORMAT = 1


class DataError(ValueError):
    """Data that are absent, damaged, or not what they are taken for.

    It is a `ValueError`, as all bad input to kacjax is, and a class of its own so that a caller
    can tell data that must be put in place from an argument that must be corrected.
    """


def data_root(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the data: `root`, else the variable `KACJAX_DATA`, else `data` here."""
    return pathlib.Path(root or os.environ.get(DATA_VARIABLE) or "data").expanduser()


def cache_folder(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the cache; it need not exist yet.

    It is the variable `KACJAX_CACHE`; else `kacjax-cache` in the folder of the data, where that
    may be written; else `kacjax` in the user's cache.
    """
    if chosen := os.environ.get(CACHE_VARIABLE):
        return pathlib.Path(chosen).expanduser()
    root = data_root(root)
    # The mode is asked as well: an administrator may write anywhere, but should not.
    if root.is_dir() and os.access(root, os.W_OK) and root.stat().st_mode & 0o222:
        return root / "kacjax-cache"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return pathlib.Path(user).expanduser() / "kacjax"


def stamp(file: pathlib.Path) -> str:
    """Size and time of change of a file: whether it is still the one that was read."""
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"


def cached_images(
    source: pathlib.Path,
    fingerprint: str,
    settings: Mapping[str, Any],
    folder: pathlib.Path,
    build: Callable[[], ImageArrays],
) -> ImageArrays:
    """Images from the cache, or from `build` and then into the cache.

    The file is found by source and settings, and used only if it was made from the same state of
    the source. It appears whole or not at all. A cache that cannot be read or written costs time
    and a warning, not the images.

    Args:
        source: What the images are made from.
        fingerprint: The state of the source, such as its `stamp`.
        settings: Whatever else the images depend on; JSON can hold it.
        folder: The cache.
        build: Makes the images.
    """
    described = json.dumps([_FORMAT, os.fspath(source.resolve()), dict(settings)], sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    file = folder / f"{source.name.split('.')[0]}-{digest}.npz"
    try:
        if (found := _read(file, fingerprint)) is not None:
            return found
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        warnings.warn(f"cache {file} is damaged and made anew: {error}", stacklevel=3)
    images = build()
    try:
        _write(file, fingerprint, images)
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {folder} and are decoded again each time: {error}. "
            f"Set {CACHE_VARIABLE} to a folder that can be written.",
            stacklevel=3,
        )
    return images


def _read(file: pathlib.Path, fingerprint: str) -> ImageArrays | None:
    """The images of a cache file; None where there is none, or of another state of the source."""
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as content:
        if str(content["fingerprint"]) != fingerprint:
            return None
        labels = content.get("labels")
        return ImageArrays(content["images"], labels, tuple(map(str, content["classes"])))


def _write(file: pathlib.Path, fingerprint: str, images: ImageArrays) -> None:
    arrays = {"images": images.images, "classes": np.array(images.classes, np.str_)}
    if images.labels is not None:
        arrays["labels"] = images.labels
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.stem}-{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "xb") as stream:
            np.savez(stream, fingerprint=np.array(fingerprint), **arrays)
        os.replace(temporary, file)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
