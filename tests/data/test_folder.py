"""A user's own images: decoded, labelled, and cached until they change."""

import zipfile

import numpy as np
import pytest

from kacjax.data import DataError, folder, load_images
from tests.data.pictures import encode, plain


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """Seven images of two classes, and a cache of their own."""
    monkeypatch.setenv("KACJAX_CACHE", str(tmp_path / "cache"))
    for name, values in {"cats": (10, 20, 30), "dogs": (40, 50, 60, 70)}.items():
        (tmp_path / "pets" / name).mkdir(parents=True)
        for value in values:
            (tmp_path / "pets" / name / f"{value}.png").write_bytes(encode(plain(value)))
    return tmp_path / "pets"


@pytest.fixture
def decoded(monkeypatch):
    """The contents of the files that have been decoded."""
    contents, decode = [], folder.decode_image
    monkeypatch.setattr(
        folder, "decode_image", lambda *args: contents.append(args[0]) or decode(*args)
    )
    return contents


def test_images_and_classes(pets):
    images, labels, classes = load_images(pets, 4, progress=False)
    assert images.shape == (7, 4, 4, 3)
    np.testing.assert_array_equal(images[:, 1, 2, 0], [10, 20, 30, 40, 50, 60, 70])
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert classes == ("cats", "dogs")
    gray = load_images(pets / "cats", 5, channels=1, progress=False)
    np.testing.assert_array_equal(
        gray.images,
        np.broadcast_to(np.array([10, 20, 30], np.uint8)[:, None, None, None], (3, 5, 5, 1)),
    )
    assert (gray.labels, gray.classes) == (None, ())


def test_all_forms_are_read(pets):
    for name, form in (("a.gif", "gif"), ("b.tif", "tiff"), ("c.TIFF", "tiff"), ("d.jfif", "jpeg")):
        (pets / "mice").mkdir(exist_ok=True)
        (pets / "mice" / name).write_bytes(encode(plain(204), form))
    images, labels, classes = load_images(pets, (4, 6), progress=False)
    assert classes == ("cats", "dogs", "mice")
    assert labels.tolist() == [0] * 3 + [1] * 4 + [2] * 4
    np.testing.assert_allclose(images[7:].astype(float), np.full((4, 4, 6, 3), 204), atol=2)
    assert load_images(pets, (6, 4), progress=False).images.shape == (11, 6, 4, 3)


def test_images_beside_the_classes_are_named_or_left_out(pets):
    (pets / "cover.png").write_bytes(encode(plain(99)))
    with pytest.raises(DataError, match=r"1 of 8 .* beside the folders of classes, as cover\.png"):
        load_images(pets, 4, progress=False)
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"cover\.png\. They are left out"):
            images, labels, classes = load_images(pets, 4, unreadable="skip", progress=False)
        np.testing.assert_array_equal(images[:, 0, 0, 0], [10, 20, 30, 40, 50, 60, 70])
        assert (labels.tolist(), classes) == ([0, 0, 0, 1, 1, 1, 1], ("cats", "dogs"))


def test_other_files_are_counted_in_one_warning(pets):
    for number in range(7):
        (pets / "cats" / f"{number}.svg").touch()
    (pets / "cats/20.png").write_bytes(b"text")
    for _ in range(2):
        with pytest.warns(UserWarning, match="no images") as caught:
            load_images(pets, 4, unreadable="skip", progress=False)
        (said,) = (str(each.message) for each in caught)
        assert "7 file(s) in " in said
        assert "cats/0.svg" in said
        assert "cats/5.svg" not in said
        assert "cats/20.png" in said


@pytest.mark.parametrize("names", [("train", "test"), ("Train", "val"), ("train2017", "val2017")])
def test_splits_are_no_classes(pets, names):
    for old, new in zip(("cats", "dogs"), names, strict=True):
        (pets / old).rename(pets / new)
    (pets / "extra").mkdir()
    (pets / "extra/1.png").write_bytes(encode(plain(1)))
    said = f"{sorted(names)[0]} and {sorted(names)[1]}: pass one of these folders as path"
    with pytest.raises(DataError, match=said):
        load_images(pets, 4, progress=False)
    assert load_images(pets / names[0], 4, progress=False).labels is None


def test_a_class_may_be_called_train(pets):
    (pets / "cats").rename(pets / "train")
    assert load_images(pets, 4, progress=False).classes == ("dogs", "train")


def test_zip_is_the_same(pets):
    with zipfile.ZipFile(pets.parent / "pets.zip", "w") as archive:
        for file in pets.rglob("*.png"):
            archive.write(file, file.relative_to(pets.parent))
    for one, other in zip(
        load_images(pets, 4, progress=False),
        load_images(pets.parent / "pets.zip", 4, progress=False),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_decoded_once_until_something_changes(pets, decoded):
    first = load_images(pets, 4, progress=False)
    again = load_images(pets, 4, progress=False)
    assert len(decoded) == 7
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.labels, again.labels)
    (pets / "cats/10.png").write_bytes(encode(plain(200)))
    assert load_images(pets, 4, progress=False).images[0, 0, 0, 0] == 200
    assert len(decoded) == 14
    load_images(pets, 4, channels=1, progress=False)
    load_images(pets, 4, cache=pets.parent / "other", progress=False)
    assert len(decoded) == 28
    assert {path.name for path in pets.iterdir()} == {"cats", "dogs"}
    # A cache among the images does not change them.
    for _ in range(2):
        load_images(pets, 4, cache=pets / "cache", progress=False)
    assert len(decoded) == 35


def test_unreadable_images(pets):
    (pets / "cats/20.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"1 of 7 .* cats/20\.png"):
        load_images(pets, 4, progress=False)
    for _ in range(2):  # Decoded, then from the cache.
        with pytest.warns(UserWarning, match=r"1 of 7 .* cats/20\.png.* left out"):
            images, labels, _ = load_images(pets, 4, unreadable="skip", progress=False)
        np.testing.assert_array_equal(images[:, 0, 0, 0], [10, 30, 40, 50, 60, 70])
        assert labels.tolist() == [0, 0, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, "size must be an integer of at least 1, got 0"),
        ({"size": (4, 0)}, "size must be an integer of at least 1, got 0"),
        ({"size": 4, "channels": 4}, r"channels must be 3 \(color\) or 1 \(gray\), got 4"),
        ({"size": 4, "unreadable": "no"}, "unreadable must be one of error, skip; got 'no'"),
    ],
)
def test_options_are_checked(pets, options, said):
    with pytest.raises(ValueError, match=said):
        load_images(pets, **options)


def test_missing_pillow_names_the_extra(pets, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(ImportError, match=r'PIL.Image .* pip install "kacjax\[images\]"'):
        load_images(pets, 4, progress=False)
