"""The image files of a folder, a zip archive or a tar archive, and their classes."""

import contextlib
import functools
import hashlib
import lzma
import os
import pathlib
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int32

from kacjax.data.files import DataError, PathLike

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff")
LARGEST = 2**30  # Bytes of a file: a small archive could unpack to more than the memory.

# What Python's readers of archives raise on damaged ones.
ARCHIVE_DAMAGE = (OSError, EOFError, tarfile.TarError, zlib.error, lzma.LZMAError)
ARCHIVE_DAMAGE += (zipfile.BadZipFile, NotImplementedError)  # An unknown method of compression.


class ImageFiles:
    """Image files of a folder or archive, read one at a time, from any thread."""

    def __init__(self, path: pathlib.Path):
        self.path = path

    @functools.cached_property
    def _listed(self) -> tuple[tuple[str, ...], tuple[str, ...], Callable[[str], bytes | None]]:
        path = self.path
        try:
            if path.is_dir():
                names, read = _walk(path), lambda name: _read_file(path / name)
            elif path.suffix.lower() == ".zip":
                archive = zipfile.ZipFile(path)
                # Some programs of Windows write backslashes.
                every = {it.filename.replace("\\", "/"): it for it in archive.infolist()}
                members = {name: it for name, it in every.items() if not name.endswith("/")}
                names, read = members, lambda name: archive.open(members[name]).read(LARGEST)
            else:
                names = content = read_tar(path)
                read = content.get
        except ARCHIVE_DAMAGE as error:
            raise DataError(f"{path} cannot be read, it may be damaged: {error}") from error
        names = sorted(filter(_is_shown, names))
        images = [name for name in names if name.lower().endswith((*IMAGE_SUFFIXES, "/"))]
        if not images:
            raise DataError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)}).")
        return tuple(images), tuple(sorted({*names}.difference(images))), read

    @property
    def names(self) -> tuple[str, ...]:
        """The images, sorted, relative to `path`, and folders that are closed, ending in `/`."""
        return self._listed[0]

    @property
    def others(self) -> tuple[str, ...]:
        """The files that are no images by their names."""
        return self._listed[1]

    def read(self, name: str) -> bytes:
        """The content of one file; a pipe, socket or device is never opened."""
        if (content := self._listed[2](name)) is None:
            raise DataError("it is a pipe or device, a link to nothing, or larger than 1 GiB")
        return content

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
    if not path.is_dir() and not (is_data_file(path) and archived):
        raise DataError(f"{path} is neither a folder nor a .zip or .tar archive of images.")
    return ImageFiles(path)


def class_labels(names: Sequence[str]) -> tuple[Int32[np.ndarray, " num"] | None, tuple[str, ...]]:
    """Labels and classes as in `load_images`: none without two, -1 for images beside the classes."""
    folders, depth = [name.split("/")[:-1] for name in names], 0
    while len(heads := {folder[depth] for folder in folders if len(folder) > depth}) == 1:
        depth += 1
    if not heads:
        return None, ()
    # With zeros before its numbers, 2 sorts before 10.
    order = sorted(heads, key=lambda it: (re.sub(r"\d+", lambda n: n[0].zfill(255), it), it))
    numbers = {name: number for number, name in enumerate(order)}
    labels = [numbers[folder[depth]] if len(folder) > depth else -1 for folder in folders]
    return np.array(labels, np.int32), tuple(numbers)


def is_data_file(path: pathlib.Path) -> bool:
    """Whether there is a file; a pipe, socket or device, which might hang, is a `DataError`."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise DataError(f"{path} must be a regular file, and is a pipe, socket or device.")
    return path.is_file()


def read_tar(path: pathlib.Path) -> dict[str, bytes | None]:
    """The files of a tar archive, which has no directory, by one pass; None where there are none."""
    content, links = dict[str, bytes | None](), dict[str, str]()
    with tarfile.open(path) as archive:
        for member in archive:
            name = posixpath.normpath(member.name)
            if member.issym() or member.islnk():
                folder = posixpath.dirname(name) if member.issym() else ""
                links[name] = posixpath.normpath(posixpath.join(folder, member.linkname))
            elif not member.isdir():
                stream = archive.extractfile(member) if member.size <= LARGEST else None
                content[name] = stream and stream.read()
        # To `tarfile` a cut or broken header ends the archive; its true end is a block of zeros.
        archive.fileobj.seek(archive.offset)  # pyright: ignore
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # pyright: ignore
            raise tarfile.ReadError("its end is missing")
    return content | {name: content.get(target) for name, target in links.items()}


def _read_file(file: pathlib.Path) -> bytes | None:
    return file.read_bytes() if file.is_file() or file.is_dir() else None


def _walk(path: pathlib.Path) -> list[str]:
    os.listdir(path)  # Raises where the folder itself is closed.
    names, closed = [], []
    seen = {os.path.realpath(path)}
    # Linked folders are followed, but each real folder is entered once.
    for folder, subfolders, files in os.walk(path, onerror=closed.append, followlinks=True):
        names += [(pathlib.Path(folder) / name).relative_to(path).as_posix() for name in files]
        real = {name: os.path.realpath(os.path.join(folder, name)) for name in sorted(subfolders)}
        subfolders[:] = [name for name in real if real[name] not in seen]
        seen.update(real.values())
    return names + [f"{os.path.relpath(error.filename, path)}/" for error in closed]


def _is_shown(name: str) -> bool:
    hidden = (".", "__MACOSX", "lost+found")
    return not any(part.startswith(hidden) for part in name.split("/"))


def _stamp(file: pathlib.Path) -> str:
    with contextlib.suppress(OSError):  # Of a link that leads nowhere.
        status = file.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    return ""
