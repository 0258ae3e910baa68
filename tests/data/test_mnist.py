"""MNIST: idx files in all folders and forms, and what is said of damaged ones."""

import gzip
import os
import tracemalloc

import numpy as np
import pytest

from kacjax.data import MNIST_CLASSES, DataError, load_mnist
from kacjax.data.mnist import read_idx
from tests.data.real import real_root

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 10


def idx(array: np.ndarray) -> bytes:
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write(folder, images=IMAGES, labels=LABELS, names="{}-{}-idx{}-ubyte.gz", prefix="train"):
    folder.mkdir(parents=True, exist_ok=True)
    for kind, array in (("images", images), ("labels", labels)):
        name = names.format(prefix, kind, array.ndim)
        content = idx(array)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    return folder


@pytest.mark.parametrize("subfolder", [".", "mnist", "MNIST/raw"])
@pytest.mark.parametrize(
    "names", ["{}-{}-idx{}-ubyte.gz", "{}-{}-idx{}-ubyte", "{}-{}.idx{}-ubyte"]
)
def test_all_folders_and_forms_are_found(tmp_path, subfolder, names):
    write(tmp_path / subfolder, names=names)
    write(tmp_path / subfolder, IMAGES[:5], LABELS[:5], names, "t10k")
    for split, num in (("train", 12), ("test", 5)):
        digits = load_mnist(split, tmp_path, download=False)
        np.testing.assert_array_equal(digits.images, IMAGES[:num, ..., None])
        np.testing.assert_array_equal(digits.labels, LABELS[:num])
        assert digits.labels.dtype == np.int32
        assert digits.classes == MNIST_CLASSES == tuple("0123456789")
        digits.images[0] = 0  # It is the caller's own.


def test_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("KACJAX_DATA", str(write(tmp_path)))
    assert len(load_mnist(download=False).images) == 12


def test_absent_files_are_named(tmp_path):
    write(tmp_path, names="{}-{}-idx{}-ubyte")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"Put train-labels-idx1-ubyte\.gz from https") as caught:
        load_mnist(root=tmp_path, download=False)
    assert f"into {tmp_path / 'mnist'}" in str(caught.value)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ValueError, match="split must be one of test, train; got 'valid'"):
        load_mnist("valid", tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "begins with nothing"),
        (b"\0\0\x08\x01" + bytes(20), "begins with 00 00 08 01, not 00 00 08 03"),
        (b"\0\0\x0d\x03" + bytes(20), "no idx file: it begins with 00 00 0d 03"),
        (idx(IMAGES)[:-1], r"damaged: it should hold \(12, 28, 28\) bytes, and 9407 were read"),
        (idx(IMAGES) + b"x", "9409 were read"),
        (idx(IMAGES)[:9], "is no idx file"),
        (gzip.compress(idx(IMAGES))[:-300], "cannot be read: .*delete it"),
        (gzip.compress(idx(IMAGES))[:100] + bytes(9000), "cannot be read"),
    ],
)
def test_damage_is_described(tmp_path, content, said):
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        read_idx(file, 3)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(("num", "said"), [(12, "9409 were read"), (2**31, "were read")])
def test_what_unpacks_to_more_than_it_says_stays_packed(tmp_path, num, said):
    file = tmp_path / "train-images-idx3-ubyte.gz"
    start = idx(np.empty((0, 28, 28), np.uint8)).replace(bytes(4), num.to_bytes(4, "big"))
    with gzip.open(file, "wb", compresslevel=1) as stream:
        stream.write(start)
        for _ in range(64):
            stream.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(DataError, match=said):
        read_idx(file, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (2**20 if num == 12 else 2**31)


def test_pipes_are_never_opened(tmp_path):
    write(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()
    os.mkfifo(tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(DataError, match=r"labels-idx1-ubyte\.gz must be a regular file"):
        load_mnist(root=tmp_path)


def test_labels_must_fit(tmp_path):
    with pytest.raises(DataError, match=r"12 images, .* 11 labels"):
        load_mnist(root=write(tmp_path / "a", labels=LABELS[:-1]))
    with pytest.raises(DataError, match="the label 12"):
        load_mnist(root=write(tmp_path / "b", labels=LABELS + 3))


def test_real_digits(tmp_path):
    root = real_root("train-images-idx3-ubyte.gz", "mnist", "MNIST")
    # The counts of classes that the authors of the set publish.
    counts = {
        "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
        "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    }
    means = {"train": 33.318421, "test": 33.791224}
    for split, num in (("train", 60_000), ("test", 10_000)):
        digits = load_mnist(split, root, download=False)
        assert digits.images.shape == (num, 28, 28, 1)
        assert np.bincount(digits.labels).tolist() == counts[split]
        assert digits.images.mean() == pytest.approx(means[split], abs=1e-5)
