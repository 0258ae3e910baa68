"""CIFAR-10: the same images from all its forms; damage and danger are refused."""

import io
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest

from kacjax.data import CIFAR10_CLASSES, DataError, folder, load_cifar10
from kacjax.data.cifar10 import read_batch
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
    records = np.concatenate([np.array(LABELS[name], np.uint8)[:, None], PLANES[name]], axis=1)
    return records.tobytes()


def write(folder, form="python"):
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
        ("python", "cifar10/cifar-10-batches-py", None),
        ("python", "renamed", None),
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
    columns = {"data": np.asfortranarray(PLANES["test_batch"]), "labels": LABELS["test_batch"]}
    old = python2(batch("test_batch"))
    for content in (old, pickle.dumps(batch("test_batch"), 4), pickle.dumps(columns, 4)):
        for found, wanted in zip(read_batch(content), expected, strict=True):
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
        read_batch(content)
    with pytest.raises(DataError, match="eval is not admitted"):
        read_batch(b"c__builtin__\neval\n(S'1'\ntR.")
    assert not os.listdir(tmp_path)


class Forged:
    """Pickled as an array of this shape, dtype and content."""

    def __init__(self, shape, dtype, content):
        self.dtype, self.state = dtype, (1, shape, dtype, False, content)

    def __reduce__(self):
        make, arguments, _ = np.empty(0).__reduce__()
        return make, arguments, self.state


class ForgedDtype:
    """Pickled as a dtype with this name and a state of its own."""

    def __init__(self, name, state):
        self.name, self.state = name, state

    def __reduce__(self):
        return np.dtype, (self.name, False, True), self.state


@pytest.mark.parametrize(
    "forged",
    [
        # NumPy takes these bytes for pointers to objects, and ends with a segmentation fault.
        Forged((1, 3072), np.dtype(object), b"\x41" * 8 * 3072),
        Forged((1, 3072), ForgedDtype("O8", (3, "|", None, None, None, -1, -1, 63)), bytes(24576)),
        Forged((1, 3072), ForgedDtype("V8", (3, "|", None, None, None, 8, 1, 0)), bytes(24576)),
        # The content does not fill the shape, or is none.
        Forged((10**9, 3072), np.dtype(np.uint8), bytes(3072)),
        Forged((2**62, 4), np.dtype(np.uint8), bytes(3072)),
        Forged((1, 3072), np.dtype(np.uint8), [1] * 3072),
        Forged((1, 3072), None, bytes(3072)),
        Forged("shape", np.dtype(np.uint8), bytes(3072)),
    ],
)
@pytest.mark.parametrize("where", ["data", "labels"])
def test_forged_arrays_are_refused(forged, where):
    content = {"data": PLANES["test_batch"][:1], "labels": [1], where: forged}
    with pytest.raises(DataError, match="cannot be unpickled"):
        read_batch(pickle.dumps(content, 4))


def test_the_state_of_a_dtype_is_never_used():
    # An object type under the name of bytes: what counts is the name.
    state = (3, "|", ("O", (1,)), ("f0",), {"f0": (np.dtype(object), 0)}, 8, 1, 63)
    forged = Forged((1, 3072), ForgedDtype("u1", state), bytes(range(256)) * 12)
    planes, labels = read_batch(pickle.dumps({"data": forged, "labels": [3]}, 4))
    np.testing.assert_array_equal(planes[0], np.tile(np.arange(256), 12))
    assert planes.dtype == np.uint8
    assert labels.tolist() == [3]


def test_damaged_batches_are_described():
    content = python2(batch("test_batch"))
    with pytest.raises(DataError, match="cannot be unpickled"):
        read_batch(content[:-100])
    with pytest.raises(DataError, match="cannot be unpickled: 'list' object"):
        read_batch(pickle.dumps([1]))
    planes = PLANES["test_batch"]
    for wrong in (
        {},
        {"data": planes},
        {"data": planes, "labels": "four"},
        {"data": planes, "labels": [1, 2, 3]},
        {"data": planes, "labels": [1, 2, 3, 4.5]},
        {"data": planes, "labels": [1, 2, 3, 2**70]},
        {"data": planes[:0], "labels": []},
        {"data": planes[:0], "labels": np.array([], np.uint8)},
        {"data": planes[0], "labels": [1]},
        {"data": planes.tolist(), "labels": [1, 2, 3, 4]},
    ):
        with pytest.raises(DataError, match="3072 bytes and a label for each image"):
            read_batch(pickle.dumps(wrong, 4))
    with pytest.raises(DataError, match="array of type i8, not of bytes"):
        read_batch(pickle.dumps({"data": planes.astype(int), "labels": [1, 2, 3, 4]}, 4))
    for labels in ([1, 2, 3, -4], [1, 2, 3, 10], [1, 2, 3, 2**40]):
        with pytest.raises(DataError, match=rf"labels from .*{labels[-1]}.*, not 0 to 9"):
            read_batch(pickle.dumps({"data": planes, "labels": labels}, 4))


def test_damaged_binary_batches_are_described(tmp_path):
    with pytest.raises(DataError, match="12291 bytes, not a multiple of 3073"):
        read_batch(binary("test_batch")[:-1], binary=True)
    with pytest.raises(DataError, match="3072 bytes and a label for each image"):
        read_batch(b"", binary=True)
    folder = tmp_path / "cifar-10-batches-bin"
    write(folder, "binary")
    (folder / "data_batch_3.bin").write_bytes(b"\x0a" + bytes(3072))
    with pytest.raises(DataError, match=r"batch_3\.bin in .*batches-bin is .* labels from 10 to"):
        load_cifar10(root=tmp_path)
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"batches-bin lacks data_batch_3\.bin"):
        load_cifar10(root=tmp_path)


def test_pipes_are_never_opened(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write(folder)
    os.mkfifo(folder / "extra_batch")
    with pytest.raises(DataError, match="extra_batch must be a regular file"):
        load_cifar10(root=tmp_path, download=False)
    os.mkfifo(tmp_path / "cifar-10-python.tar.gz")
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz must be a regular file"):
        load_cifar10(root=tmp_path)


def test_damage_names_the_file(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    write(folder)
    (folder / "data_batch_3").write_bytes(b"text")
    with pytest.raises(
        DataError, match=r"data_batch_3 in .*batches-py is damaged: it cannot be un"
    ):
        load_cifar10(root=tmp_path)
    (folder / "data_batch_3").unlink()
    with pytest.raises(DataError, match="batches-py lacks data_batch_3"):
        load_cifar10(root=tmp_path)
    pack(folder, tmp_path / "cifar-10-python.tar.gz")
    whole = (tmp_path / "cifar-10-python.tar.gz").read_bytes()
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(whole[: len(whole) // 2])
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
        monkeypatch.setattr(folder, "decode_image", None)
    if packed:
        direct = load_cifar10("test", root / "cifar10-jpeg.tar.xz", progress=False)
        np.testing.assert_array_equal(direct.images, test.images)


def test_wrong_photographs_are_refused(photographs):
    file = photographs / "train/cat/0001.jpg"
    file.write_bytes(b"text")
    with pytest.raises(DataError, match=r"1 of 20 .*train/cat/0001\.jpg"):
        load_cifar10(root=photographs, progress=False)
    file.write_bytes(encode(plain(7, 48), "jpeg"))
    with pytest.raises(DataError, match=r"cat/0001\.jpg .*it has 48 by 48 pixels, not 32"):
        load_cifar10(root=photographs, progress=False)
    file.unlink()
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
