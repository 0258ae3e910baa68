"""Downloads, checked against known sums; without a network, what to put where."""

import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from kacjax._optional import require
from kacjax.data.files import DATA_VARIABLE, DataError

_SECONDS = 30
_CHUNK = 1 << 16


class Remote(NamedTuple):
    """A file to download.

    Attributes:
        name: Its name.
        addresses: Folders on the web that hold it, in the order in which they are tried.
        md5: Its MD5 sum.
    """

    name: str
    addresses: tuple[str, ...]
    md5: str


def fetch(
    what: str,
    remotes: Sequence[Remote],
    folder: pathlib.Path,
    *,
    download: bool = True,
    progress: bool = True,
) -> None:
    """Downloads files into a folder; each appears there whole and checked, or not at all.

    Args:
        what: The name of the data, for messages.
        remotes: The files.
        folder: Where they go; it is made if need be.
        download: Whether to try at all.
        progress: Show a bar.

    Raises:
        DataError: If a file cannot be had; the message says which files to put where.
        ImportError: If pooch is not installed.
    """
    reason = "and downloading was not asked for"
    if download:
        pooch = require("pooch", "images")
        for remote in remotes:
            failures = []
            for address in remote.addresses:
                try:
                    pooch.retrieve(
                        address + remote.name,
                        known_hash=f"md5:{remote.md5}",
                        fname=remote.name,
                        path=folder,
                        downloader=pooch.HTTPDownloader(
                            progressbar=progress, chunk_size=_CHUNK, timeout=_SECONDS
                        ),
                    )
                    break
                # No network, no such file, a full disk; pooch raises ValueError for a wrong sum.
                except (OSError, ValueError) as error:
                    failures.append(f"{address}: {error}")
            else:
                reason = f"and downloading {remote.name} failed ({'; '.join(failures)})"
                break
        else:
            return
    names = ", ".join(remote.name for remote in remotes)
    raise DataError(
        f"{what} was not found in {folder}, {reason}. Put {names} from "
        f"{remotes[0].addresses[0]} into {folder.absolute()}, or name the folder that holds them "
        f"by root or the environment variable {DATA_VARIABLE}."
    )
