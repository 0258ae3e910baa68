"""Image files: the same list and content from a folder, a zip and a tar archive."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest

from kacjax.data import DataError, image_files
from kacjax.data.image_files import class_labels

FILES = {
    "cat/b.PNG": b"1",
    "cat/a.jpg": b"2",
    "dog/deep/er/c.webp": b"3",
    "dog/notes.txt": b"no image",
    ".hidden/x.png": b"no",
    "__MACOSX/cat/._a.jpg": b"no",
    "dog/._c.webp": b"no",
    "bird/d.jpeg": b"4",
    "bird/e.bmp": b"5",
}
NAMES = ("bird/d.jpeg", "bird/e.bmp", "cat/a.jpg", "cat/b.PNG", "dog/deep/er/c.webp")


def make(path, form):
    """The files above as a folder or archive."""
    folder = path / "folder"
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    if form == "folder":
        return folder
    if form == "zip":
        with zipfile.ZipFile(path / "images.zip", "w") as archive:
            for name in FILES:
                archive.write(folder / name, name)
        return path / "images.zip"
    with tarfile.open(path / f"images.tar.{form}", f"w:{form}") as archive:
        archive.add(folder, ".")
    return path / f"images.tar.{form}"


@pytest.mark.parametrize("form", ["folder", "zip", "xz", "gz"])
def test_all_forms_are_one(tmp_path, form):
    files = image_files(make(tmp_path, form))
    assert files.names == NAMES
    assert [files.read(name) for name in NAMES] == [FILES[name] for name in NAMES]


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_fingerprint_is_of_the_content(tmp_path, form):
    path = make(tmp_path, form)
    before = image_files(path).fingerprint
    assert image_files(path).fingerprint == before
    if form == "folder":
        (path / "cat/f.png").write_bytes(b"6")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("cat/f.png", b"6")
    assert image_files(path).fingerprint != before


def test_linked_folders_are_followed_once(tmp_path):
    make(tmp_path, "folder")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/cats").symlink_to(tmp_path / "folder/cat")
    (tmp_path / "set/loop").symlink_to(tmp_path / "set")
    assert image_files(tmp_path / "set").names == ("cats/a.jpg", "cats/b.PNG")


@pytest.mark.parametrize(
    ("names", "labels", "classes"),
    [
        (["a/1.png", "b/2.png", "a/3.png"], [0, 1, 0], ("a", "b")),
        (["set/x/b/1.png", "set/x/a/z/2.png"], [1, 0], ("a", "b")),
        (["a/1.png", "ab/2.png"], [0, 1], ("a", "ab")),
        (["1.png", "2.png"], None, ()),
        (["set/1.png", "set/2.png"], None, ()),
        (["a/1.png", "2.png"], None, ()),
        (["a/1.png", "b/2.png", "3.png"], [0, 1, -1], ("a", "b")),
        (["x/1.png", "set/b/2.png", "set/a/3.png", "x.png"], [1, 0, 0, -1], ("set", "x")),
        (["0.png", "s/a/1.png", "s/b/2.png", "s/3.png"], [-1, 0, 1, -1], ("a", "b")),
        ([f"{i}/x.png" for i in (0, 1, 10, 11, 2)], [0, 1, 3, 4, 2], ("0", "1", "2", "10", "11")),
        (["c10/x.png", "c9a/x.png", "c09/x.png"], [2, 1, 0], ("c09", "c9a", "c10")),
    ],
)
def test_folders_are_classes(names, labels, classes):
    found, named = class_labels(names)
    assert named == classes
    if labels is None:
        assert found is None
    else:
        assert found.dtype == np.int32
        assert found.tolist() == labels


def test_what_holds_no_images_is_named(tmp_path):
    with pytest.raises(DataError, match="absent does not exist"):
        image_files(tmp_path / "absent")
    with pytest.raises(DataError, match=r"holds no images \(\.png, \.jpg"):
        _ = image_files(tmp_path).names
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="neither a folder nor"):
        image_files(tmp_path / "notes.txt")


def test_names_with_backslashes_are_those_of_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("cat\\", "cat\\a.png", "dog\\b.png"):
            archive.writestr(name, name)
    files = image_files(tmp_path / "a.zip")
    assert (files.names, files.others) == (("cat/a.png", "dog/b.png"), ())
    assert files.read("dog/b.png") == b"dog\\b.png"


def write_tar(path, *members, **files):
    """A plain archive of files and of links `(name, type, target)`."""
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cat/{name}.png")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, kind, target in members:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            archive.addfile(member)
    return path


def test_links_in_a_tar_are_followed(tmp_path):
    path = write_tar(
        tmp_path / "a.tar",
        ("dog/b.png", tarfile.LNKTYPE, "cat/a.png"),
        ("dog/c.png", tarfile.SYMTYPE, "../cat/a.png"),
        ("dog/d.png", tarfile.LNKTYPE, "cat/none.png"),
        ("dog/e.png", tarfile.FIFOTYPE, ""),
        a=b"1",
    )
    files = image_files(path)
    assert files.names == ("cat/a.png", *(f"dog/{name}.png" for name in "bcde"))
    assert [files.read(f"dog/{name}.png") for name in "bc"] == [b"1", b"1"]
    for name in "de":
        with pytest.raises(DataError, match="a pipe or device, a link to nothing"):
            files.read(f"dog/{name}.png")


@pytest.mark.parametrize("size", [512 * 2, 512 * 2 + 9, 512 * 4])
def test_tar_without_its_end_is_damaged(tmp_path, size):
    """A member is a header and a block of content; what is cut at a header looked like the end."""
    path = write_tar(tmp_path / "a.tar", a=b"1", b=b"2")
    content = path.read_bytes()
    path.write_bytes(content[:size])
    with pytest.raises(DataError, match=r"a\.tar cannot be read, it may be damaged: its end"):
        _ = image_files(path).names
    path.write_bytes(content[: 512 * 2] + b"x" * 512 + content[512 * 3 :])
    with pytest.raises(DataError, match="its end is missing"):
        _ = image_files(path).names


def test_what_cannot_be_opened_is_named_and_never_read(tmp_path, monkeypatch):
    path = make(tmp_path, "folder")
    os.mkfifo(path / "cat/pipe.png")
    (path / "cat/dead.png").symlink_to(tmp_path / "absent.png")
    (path / "cat/device.png").symlink_to("/dev/zero")
    before, scan = image_files(path).fingerprint, os.scandir

    def closed(folder):
        if os.fspath(folder).endswith("dog"):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", closed)
    files = image_files(path)
    assert files.fingerprint != before
    assert files.names == (
        *("bird/d.jpeg", "bird/e.bmp", "cat/a.jpg", "cat/b.PNG"),
        *("cat/dead.png", "cat/device.png", "cat/pipe.png", "dog/"),
    )
    for name in ("dead", "device", "pipe"):
        with pytest.raises(DataError, match="a pipe or device, a link to nothing"):
            files.read(f"cat/{name}.png")
    with pytest.raises(OSError, match="dog"):
        files.read("dog/")
    os.mkfifo(tmp_path / "images.zip")
    with pytest.raises(DataError, match=r"images\.zip must be a regular file, and is a pipe"):
        image_files(tmp_path / "images.zip")


def test_other_files_are_listed(tmp_path):
    assert image_files(make(tmp_path, "folder")).others == ("dog/notes.txt",)


@pytest.mark.parametrize("form", ["zip", "xz", "gz"])
def test_damaged_archives_are_named(tmp_path, form):
    path = make(tmp_path, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{path.name} cannot be read, it may be damaged"):
        _ = image_files(path).names
