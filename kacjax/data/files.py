"""The folder of the data, downloads into it, and a cache of what was decoded from it."""

import hashlib
import json
import os
import pathlib
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from kacjax._files import write_atomically
from kacjax._optional import require
from kacjax.data.images import ImageArrays

PathLike: TypeAlias = str | os.PathLike[str]

_FORMAT = 2  # Of cache files; earlier ones may hold images that could not be decoded.


class DataError(ValueError):
    """Data, and not an argument, that are absent, damaged, or not what they are taken for.

    Example:
        >>> issubclass(kacjax.data.DataError, ValueError)
        True
    """


def data_root(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the data: `root`, else the variable `KACJAX_DATA`, else `data` here.

    Example:
        >>> kacjax.data.data_root("elsewhere").name
        'elsewhere'
    """
    return pathlib.Path(root or os.environ.get("KACJAX_DATA") or "data").expanduser()


def cache_folder(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the cache; it need not exist yet.

    It is the variable `KACJAX_CACHE`; else `kacjax-cache` in the folder of the data, where that
    may be written; else `kacjax` in the user's cache.

    Example:
        >>> files = list(kacjax.data.cache_folder().glob("*.npz"))
    """
    if chosen := os.environ.get("KACJAX_CACHE"):
        return pathlib.Path(chosen).expanduser()
    root = data_root(root)
    # The mode is asked as well: an administrator may write anywhere, but should not.
    if root.is_dir() and os.access(root, os.W_OK) and root.stat().st_mode & 0o222:
        return root / "kacjax-cache"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kacjax"


def fetch(
    what: str,
    sums: Mapping[str, str],
    addresses: Sequence[str],
    folder: pathlib.Path,
    download: bool,
    progress: bool,
) -> None:
    """Downloads files with these MD5 sums; each appears in `folder` whole and checked, or not.

    The addresses are folders on the web, tried in order. Where the files cannot be had, a
    `DataError` says which ones to put where.
    """
    reason = "downloading was not asked for"
    for address in addresses if download else ():
        pooch = require("pooch", "images")
        loader = pooch.HTTPDownloader(progressbar=progress, chunk_size=1 << 16, timeout=30)
        for name, md5 in sums.items():
            try:
                pooch.retrieve(address + name, f"md5:{md5}", name, folder, None, loader)
            # No network, no such file, a full disk; pooch raises ValueError for a wrong sum.
            except (OSError, ValueError) as error:
                reason = f"downloading {name} from {address} failed: {error}"
                break
        else:
            return
    raise DataError(
        f"{what} was not found in {folder}, and {reason}. Put {', '.join(sums)} from "
        f"{addresses[0]} into {folder.absolute()}, or name the folder that holds them by root or "
        "the environment variable KACJAX_DATA."
    )


def cached_images(
    source: pathlib.Path,
    fingerprint: str,
    settings: Mapping[str, Any],
    folder: pathlib.Path,
    build: Callable[[], ImageArrays],
) -> ImageArrays:
    """Images from the cache, or from `build` and then into the cache.

    The file is named after `source`, what the images are made from, and `settings`, what else they
    depend on. One that was made from another state of the source, its `fingerprint`, is not used.
    A cache that cannot be read or written costs time and a warning, not the images.
    """
    described = json.dumps([_FORMAT, os.fspath(source.resolve()), dict(settings)], sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    file = folder / f"{source.name.split('.')[0]}-{digest}.npz"
    try:
        if file.is_file():
            with np.load(file, allow_pickle=False) as content:
                if str(content["fingerprint"]) == fingerprint:
                    classes = tuple(map(str, content["classes"]))
                    return ImageArrays(content["images"], content.get("labels"), classes)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        warnings.warn(f"cache {file} is damaged and made anew: {error}", stacklevel=3)
    images = build()
    arrays = {"images": images.images, "classes": np.array(images.classes, np.str_)}
    arrays["fingerprint"] = np.array(fingerprint)
    if images.labels is not None:
        arrays["labels"] = images.labels
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda stream: np.savez(stream, **arrays))
    except OSError as error:
        warnings.warn(
            f"decoded images cannot be kept in {folder} and are decoded again each time: {error}. "
            "Set KACJAX_CACHE to a folder that can be written.",
            stacklevel=3,
        )
    return images
