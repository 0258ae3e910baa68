"""The image files of a folder, a zip archive or a tar archive, and their classes."""

import functools
import hashlib
import lzma
import os
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from kacjax.data.files import DataError, PathLike

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

# What Python's readers of archives raise on damaged ones.
ARCHIVE_DAMAGE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
ARCHIVE_DAMAGE += (zipfile.BadZipFile, NotImplementedError)  # An unknown method of compression.


class ImageFiles:
    """Image files of a folder or archive, read one at a time, from any thread."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @functools.cached_property
    def _listed(self) -> tuple[tuple[str, ...], Callable[[str], bytes]]:
        path = self.path
        try:
            if path.is_dir():
                names, read = _walk(path), lambda name: (path / name).read_bytes()
            elif path.suffix.lower() == ".zip":
                archive = zipfile.ZipFile(path)
                names, read = archive.namelist(), archive.read
            else:
                content = read_tar(path)
                names, read = list(content), content.__getitem__
        except ARCHIVE_DAMAGE as error:
            raise DataError(f"{path} cannot be read, it may be damaged: {error}") from error
        if not (names := tuple(sorted(filter(_is_image, names)))):
            raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        return names, read

    @property
    def names(self) -> tuple[str, ...]:
        """The sorted names of the images, relative to `path`, with `/` between folders."""
        return self._listed[0]

    def read(self, name: str) -> bytes:
        """The content of one file."""
        return self._listed[1](name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What changes when an image is changed, added or removed; archives are not opened."""
        if not self.path.is_dir():
            return _stamp(self.path)
        listing = "\n".join(f"{name} {_stamp(self.path / name)}" for name in self.names)
        return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()


def image_files(path: PathLike) -> ImageFiles:
    """The images below a folder, or in a `.zip`, or a `.tar` with any compression.

    Hidden files and folders are passed over. A tar archive is read into memory. What is no folder
    or archive, and on reading the names a damaged or empty one, is a `DataError`.

    Example:
        >>> open("1.png", "w").close()
        >>> kacjax.data.image_files(".").names
        ('1.png',)
    """
    path = pathlib.Path(path).expanduser()
    if not path.exists():
        raise DataError(f"{path.absolute()} does not exist; images need a folder or an archive.")
    archived = ".tar" in path.name.lower() or path.suffix.lower() in (".zip", ".tgz", ".txz")
    if not path.is_dir() and not archived:
        raise DataError(f"{path} is neither a folder nor a .zip or .tar archive of images.")
    return ImageFiles(path)


def class_labels(names: Sequence[str]) -> tuple[Int32[np.ndarray, " num"] | None, tuple[str, ...]]:
    """Labels and sorted classes as in `load_images`; none if an image has no class, or all one."""
    common = posixpath.commonpath([posixpath.dirname(name) for name in names])
    shared = len(common.split("/")) if common else 0
    folders = [name.split("/")[shared:-1] for name in names]
    if not all(folders):
        return None, ()
    classes, labels = np.unique([folder[0] for folder in folders], return_inverse=True)
    return labels.astype(np.int32), tuple(map(str, classes))


def read_tar(path: pathlib.Path) -> dict[str, bytes]:
    """The files of a tar archive, which has no directory, by one pass."""
    with tarfile.open(path) as archive:
        return {
            posixpath.normpath(member.name): stream.read()
            for member in archive
            if member.isfile() and (stream := archive.extractfile(member))
        }


def _walk(path: pathlib.Path) -> list[str]:
    names: list[str] = []
    seen = {os.path.realpath(path)}
    # Linked folders are followed, but each real folder is entered once.
    for folder, subfolders, files in os.walk(path, followlinks=True):
        names += [(pathlib.Path(folder) / name).relative_to(path).as_posix() for name in files]
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
        subfolders[:] = [name for name in real if real[name] not in seen]
        seen.update(real.values())
    return names


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGE_SUFFIXES)


def _stamp(file: pathlib.Path) -> str:
    status = file.stat()
    return f"{status.st_size} {status.st_mtime_ns}"
