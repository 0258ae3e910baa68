"""Image files: the same list and content from a folder, a zip and a tar archive."""

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


@pytest.mark.parametrize("form", ["zip", "xz", "gz"])
def test_damaged_archives_are_named(tmp_path, form):
    path = make(tmp_path, form)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{path.name} cannot be read, it may be damaged"):
        _ = image_files(path).names
