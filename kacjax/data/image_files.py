"""The image files of a folder, a zip archive or a tar archive, and their classes."""

import abc
import functools
import hashlib
import lzma
import os
import pathlib
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int32

from kacjax.data.files import DataError, PathLike, stamp

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")

ARCHIVE_DAMAGE = (
    OSError,
    EOFError,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,  # By zipfile, of a compression method that is none.
    zlib.error,
    lzma.LZMAError,
)
"""What Python's readers of archives raise on damaged ones."""


class ImageFiles(abc.ABC):
    """Image files by name: read one at a time, from any thread.

    Attributes:
        path: The folder or archive.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """The sorted names of the images, relative to `path`, with `/` between folders.

        Raises:
            DataError: If the archive is damaged, or there are no images.
        """
        try:
            names = sorted(filter(_is_image, self._list()))
        except ARCHIVE_DAMAGE as error:
            raise DataError(f"{self.path} cannot be read, it may be damaged: {error}") from error
        if not names:
            raise DataError(f"{self.path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        return tuple(names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """What changes when an image is changed, added or removed; archives are not opened."""
        return stamp(self.path)

    @abc.abstractmethod
    def read(self, name: str) -> bytes:
        """The content of one file."""

    @abc.abstractmethod
    def _list(self) -> Iterable[str]:
        """All files."""


class _FolderFiles(ImageFiles):
    def _list(self) -> Iterable[str]:
        seen = {os.path.realpath(self.path)}
        # Linked folders are followed, but each real folder is entered once.
        for folder, subfolders, files in os.walk(self.path, followlinks=True):
            relative = pathlib.Path(folder).relative_to(self.path)
            yield from ((relative / name).as_posix() for name in files)
            real = {
                name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)
            }
            subfolders[:] = [name for name in real if real[name] not in seen]
            seen.update(real.values())

    @functools.cached_property
    def fingerprint(self) -> str:
        listing = "\n".join(f"{name} {stamp(self.path / name)}" for name in self.names)
        return hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


class _ZipFiles(ImageFiles):
    @functools.cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.path)

    def _list(self) -> Iterable[str]:
        return self._archive.namelist()

    def read(self, name: str) -> bytes:
        return self._archive.read(name)


class _TarFiles(ImageFiles):
    """A tar archive has no directory: one pass takes the (still compressed) images to memory."""

    @functools.cached_property
    def _content(self) -> dict[str, bytes]:
        with tarfile.open(self.path) as archive:
            return {
                posixpath.normpath(member.name): stream.read()
                for member in archive
                if member.isfile() and (stream := archive.extractfile(member))
            }

    def _list(self) -> Iterable[str]:
        return self._content

    def read(self, name: str) -> bytes:
        return self._content[name]


def image_files(path: PathLike) -> ImageFiles:
    """The images of a folder, with all that lies below it, or of a zip or tar archive.

    Hidden files and folders are passed over. A tar archive is read into memory.

    Args:
        path: A folder, a `.zip`, or a `.tar` with any compression.

    Raises:
        DataError: If there is no such thing.
    """
    path = pathlib.Path(path).expanduser()
    if path.is_dir():
        return _FolderFiles(path)
    if not path.exists():
        raise DataError(f"{path.absolute()} does not exist; images need a folder or an archive.")
    if path.suffix.lower() == ".zip":
        return _ZipFiles(path)
    if ".tar" in path.name.lower() or path.suffix.lower() in (".tgz", ".txz"):
        return _TarFiles(path)
    raise DataError(f"{path} is neither a folder nor a .zip or .tar archive of images.")


def class_labels(
    names: Sequence[str],
) -> tuple[Int32[np.ndarray, " num"] | None, tuple[str, ...]]:
    """Labels from class folders, and the sorted classes.

    Folders that all images share are passed over; the next folder of each name is its class. Where
    an image has none, or all have the same, there are no classes.
    """
    folders = [name.split("/")[:-1] for name in names]
    common = posixpath.commonpath([posixpath.dirname(name) for name in names])
    shared = len(common.split("/")) if common else 0
    if not all(len(folder) > shared for folder in folders):
        return None, ()
    classes, labels = np.unique([folder[shared] for folder in folders], return_inverse=True)
    return labels.astype(np.int32), tuple(map(str, classes))


def _is_image(name: str) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGE_SUFFIXES)
