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

_FORMAT = 4  # Of cache files; earlier ones have classes in another order.


class DataError(ValueError):
    """Data, and not an argument, that are absent, damaged, or not what they are taken for."""


def data_root(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the data: `root`, else the variable `KACJAX_DATA`, else `data` here.

    Example:
        >>> kacjax.data.data_root("elsewhere").name
        'elsewhere'
    """
    return pathlib.Path(root or os.environ.get("KACJAX_DATA") or "data").expanduser()


def cache_folder(root: PathLike | None = None) -> pathlib.Path:
    """The folder of the cache, which need not exist yet.

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
    """Downloads files with these MD5 sums, whole and checked, from the first address that works."""
    reason = "downloading was not asked for"
    for address in addresses if download else ():
        pooch = require("pooch", "images")
        loader = pooch.HTTPDownloader(progressbar=progress, chunk_size=1 << 16, timeout=30)
        try:
            for name, md5 in sums.items():
                reason = f"downloading {name} from {address} failed"
                pooch.retrieve(address + name, f"md5:{md5}", name, folder, None, loader)
            return
        # No network, no such file, a full disk; pooch raises ValueError for a wrong sum.
        except (OSError, ValueError) as error:
            reason += f": {error}"
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
    build: Callable[[], tuple[ImageArrays, str]],
) -> ImageArrays:
    """Images from the cache, or from `build` and then into the cache, warning of those left out.

    `build` returns the images and the text of that warning. The file is named after `source`, what
    the images are made from, and `settings`, what else they depend on; one of another fingerprint
    of the source is not used. A cache that fails costs time and a warning, not the images.
    """
    described = json.dumps([_FORMAT, os.fspath(source.resolve()), dict(settings)], sort_keys=True)
    digest = hashlib.sha256(described.encode()).hexdigest()[:16]
    file = folder / f"{source.name.split('.')[0]}-{digest}.npz"
    images, left_out = None, ""
    try:
        if file.is_file():
            with np.load(file, allow_pickle=False) as content:
                if str(content["fingerprint"]) == fingerprint:
                    left_out, classes = str(content["left_out"]), map(str, content["classes"])
                    images = ImageArrays(content["images"], content.get("labels"), tuple(classes))
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        warnings.warn(f"cache {file} is damaged and made anew: {error}", stacklevel=3)
    if images is None:
        images, left_out = build()
        arrays = {"images": images.images, "classes": np.array(images.classes, np.str_)}
        arrays |= {"left_out": np.array(left_out), "fingerprint": np.array(fingerprint)}
        arrays |= {} if images.labels is None else {"labels": images.labels}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(file, lambda stream: np.savez(stream, **arrays))
        except OSError as error:
            text = f"decoded images cannot be kept in {folder} and are decoded again each time"
            advice = "Set KACJAX_CACHE to a folder that can be written."
            warnings.warn(f"{text}: {error}. {advice}", stacklevel=3)
    if left_out:
        warnings.warn(left_out, stacklevel=3)
    return images
