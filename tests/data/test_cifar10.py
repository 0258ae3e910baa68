"""CIFAR-10: the same images from all its forms; damage and danger are refused."""

import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from kacjax.data import CIFAR10_CLASSES, DataError, decoding, load_cifar10
from kacjax.data.cifar10_batches import from_binary, from_pickle
from tests.data.pictures import encode, plain
from tests.data.real import real_root

RNG = np.random.default_rng(0)
PLANES = {
    name: RNG.integers(0, 256, (4, 3072), np.uint8)
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
}
LABELS = {name: RNG.integers(0, 10, 4).tolist() for name in PLANES}


class Python2Pickler(pickle._Pickler):
    """Writes strings without an encoding, as the pickles of the authors have them."""

    def save(self, content, save_persistent_id=True):
        if isinstance(content, bytes):
            self.write(pickle.BINSTRING + len(content).to_bytes(4, "little") + content)
        else:
            super().save(content, save_persistent_id)


def python2(content) -> bytes:
    stream = io.BytesIO()
    Python2Pickler(stream, protocol=2).dump(content)
    return stream.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batch(name):
    return {b"data": PLANES[name], b"labels": LABELS[name], b"batch_label": b"one of five"}


def binary(name):
    return np.column_stack([np.array(LABELS[name], np.uint8), PLANES[name]]).tobytes()


def write(folder, form):
    folder.mkdir(parents=True)
    for name in PLANES:
        if form == "python":
            (folder / name).write_bytes(python2(batch(name)))
        else:
            (folder / f"{name}.bin").write_bytes(binary(name))


def pack(folder, archive):
    """Moves a folder into an archive beside it."""
    with tarfile.open(archive, f"w:{archive.suffix[1:]}") as packed:
        packed.add(folder, folder.name)
    shutil.rmtree(folder)


def check(root, split, names):
    images, labels, classes = load_cifar10(split, root, download=False, progress=False)
    planes = np.concatenate([PLANES[name] for name in names])
    for channel in range(3):
        np.testing.assert_array_equal(
            images[..., channel].reshape(-1, 1024), planes[:, channel * 1024 :][:, :1024]
        )
    np.testing.assert_array_equal(labels, np.concatenate([LABELS[name] for name in names]))
    assert labels.dtype == np.int32
    assert images.flags.c_contiguous
    assert classes == CIFAR10_CLASSES


@pytest.mark.parametrize(
    ("form", "folder", "archive"),
    [
        ("python", "cifar-10-batches-py", None),
        ("python", "cifar-10-batches-py", "cifar-10-python.tar.gz"),
        ("binary", "cifar10/cifar-10-batches-bin", None),
        ("binary", "cifar10/cifar-10-batches-bin", "cifar-10-binary.tar.gz"),
        ("binary", "renamed", None),
    ],
)
def test_batches_are_read_in_order(tmp_path, form, folder, archive):
    folder = tmp_path / folder
    write(folder, form)
    root = folder if folder.name == "renamed" else tmp_path
    if archive:
        pack(folder, folder.parent / archive)
    check(root, "train", [f"data_batch_{i}" for i in range(1, 6)])
    check(root, "test", ["test_batch"])


def test_pickles_of_all_protocols_are_read():
    expected = PLANES["test_batch"], LABELS["test_batch"]
    for content in (python2(batch("test_batch")), pickle.dumps(batch("test_batch"), 4)):
        for found, wanted in zip(from_pickle(content), expected, strict=True):
            np.testing.assert_array_equal(found, wanted)


class Danger:
    """A pickle of it runs a command where it is trusted."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickles_run_no_code(tmp_path):
    content = pickle.dumps({b"data": Danger(f"touch {tmp_path}/ran")})
    with pytest.raises(DataError, match="system is not admitted"):
        from_pickle(content)
    with pytest.raises(DataError, match="eval is not admitted"):
        from_pickle(b"c__builtin__\neval\n(S'1'\ntR.")
    assert not os.listdir(tmp_path)


def test_damaged_batches_are_described():
    content = python2(batch("test_batch"))
    with pytest.raises(DataError, match="cannot be unpickled"):
        from_pickle(content[:-100])
    with pytest.raises(DataError, match="holds a list"):
        from_pickle(pickle.dumps([1]))
    for wrong in (
        {},
        {"data": PLANES["test_batch"]},
        {"data": PLANES["test_batch"], "labels": "four"},
        {"data": PLANES["test_batch"], "labels": [1, 2, 3]},
        {"data": PLANES["test_batch"].astype(int), "labels": [1, 2, 3, 4]},
        {"data": PLANES["test_batch"], "labels": [1, 2, 3, -4]},
    ):
        with pytest.raises(DataError, match="3072 bytes and a label for each image"):
            from_pickle(pickle.dumps(wrong, 4))
    with pytest.raises(DataError, match="12291 bytes, not a multiple of 3073"):
        from_binary(binary("test_batch")[:-1])


def test_damage_names_the_file(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    write(folder, "binary")
    (folder / "data_batch_3.bin").write_bytes(b"text")
    with pytest.raises(DataError, match=r"data_batch_3\.bin in .*batches-bin is damaged: it has 4"):
        load_cifar10(root=tmp_path)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"batches-bin lacks data_batch_3\.bin"):
        load_cifar10(root=tmp_path)
    (folder / "test_batch.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match="the label 10"):
        load_cifar10("test", tmp_path)
    pack(folder, tmp_path / "cifar-10-binary.tar.gz")
    whole = (tmp_path / "cifar-10-binary.tar.gz").read_bytes()
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"tar\.gz cannot be read"):
        load_cifar10(root=tmp_path)


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """Two JPEG images of each class, one in the test split; the value tells which."""
    monkeypatch.setenv("KACJAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cifar10-jpeg"
    for split, num in (("train", 2), ("test", 1)):
        for label, name in enumerate(CIFAR10_CLASSES):
            (folder / split / name).mkdir(parents=True)
            for index in range(num):
                content = encode(plain(20 * label + 5 * index, 32), "jpeg")
                (folder / split / name / f"{index:04}.jpg").write_bytes(content)
    return folder


@pytest.mark.parametrize("packed", [False, True])
def test_photographs_are_decoded_once(photographs, packed, monkeypatch):
    if packed:
        pack(photographs, photographs.parent / "cifar10-jpeg.tar.xz")
    root = photographs.parent
    values = np.arange(0, 200, 20)
    for _ in range(2):
        images, labels, classes = load_cifar10("train", root, progress=False)
        assert images.shape == (20, 32, 32, 3)
        expected = np.stack([values, values + 5], axis=1).ravel()
        np.testing.assert_allclose(images[:, 16, 16, 1].astype(float), expected, atol=2)
        np.testing.assert_array_equal(labels, np.repeat(np.arange(10), 2))
        assert classes == CIFAR10_CLASSES
        test = load_cifar10("test", root, progress=False)
        np.testing.assert_array_equal(test.labels, np.arange(10))
        # From now on nothing is decoded.
        monkeypatch.setattr(decoding, "decode_image", None)
    if packed:
        direct = load_cifar10("test", root / "cifar10-jpeg.tar.xz", progress=False)
        np.testing.assert_array_equal(direct.images, test.images)


def test_wrong_photographs_are_refused(photographs):
    file = photographs / "train/cat/0001.jpg"
    file.write_bytes(encode(plain(0, 28), "jpeg"))
    with pytest.raises(DataError, match=r"train/cat/0001\.jpg .*28 by 28 pixels"):
        load_cifar10(root=photographs, progress=False)
    file.rename(photographs / "train/cat/0001.png")
    (photographs / "train/cat").rename(photographs / "train/unicorn")
    with pytest.raises(DataError, match="train/unicorn, which is no class"):
        load_cifar10(root=photographs, progress=False)


def test_absent_data_are_named(tmp_path):
    with pytest.raises(DataError, match=r"Put cifar-10-python\.tar\.gz from https"):
        load_cifar10(root=tmp_path, download=False)
    with pytest.raises(ValueError, match="split must be one of test, train; got 'all'"):
        load_cifar10("all", tmp_path)


@pytest.mark.slow
def test_real_photographs(tmp_path, monkeypatch):
    root = real_root("cifar10-jpeg.tar.xz", "cifar-10-python.tar.gz", "cifar-10-batches-py")
    monkeypatch.setenv("KACJAX_CACHE", str(tmp_path))
    for split, num in (("train", 50_000), ("test", 10_000)):
        images, labels, _ = load_cifar10(split, root, download=False, progress=False)
        assert images.shape == (num, 32, 32, 3)
        assert np.bincount(labels).tolist() == [num // 10] * 10
        # The means of red, green and blue over the training images, from the literature.
        means = images.mean(axis=(0, 1, 2)) / 255
        np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=0.01)
