"""The stream of images: whole epochs, shared among processes, continued exactly."""

import json
import shutil
import zipfile

import numpy as np
import pytest

from kacjax.data import DataError, stream_images
from tests.data.pictures import encode, plain

NUM = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Image `i` has the value `i`; the first ten are of class `a`."""
    path = tmp_path_factory.mktemp("images")
    for index in range(NUM):
        (path / "ab"[index >= 10]).mkdir(exist_ok=True)
        (path / "ab"[index >= 10] / f"{index:02}.png").write_bytes(encode(plain(index)))
    return path


def values(stream, num):
    return np.array([next(stream).images[:, 0, 0, 0] for _ in range(num)])


def test_epochs_are_new_permutations(folder):
    stream = stream_images(folder, 4, 6, seed=3)
    assert (stream.num, stream.shape, stream.classes) == (NUM, (4, 4, 3), ("a", "b"))
    batches = [next(stream) for _ in range(NUM)]
    assert all(batch.images.shape == (6, 4, 4, 3) for batch in batches)
    assert all(np.array_equal(batch.labels, batch.images[:, 0, 0, 0] >= 10) for batch in batches)
    epochs = np.concatenate([batch.images[:, 0, 0, 0] for batch in batches]).reshape(-1, NUM)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(NUM), (6, 1)))
    assert len(np.unique(epochs, axis=0)) == 6
    other = values(stream_images(folder, 4, 6, seed=4), 1)
    assert not np.array_equal(other[0], epochs[0, :6])
    stream.close()


@pytest.mark.parametrize("taken", [0, 1, 7])
def test_saved_stream_continues_exactly(folder, taken):
    stream = stream_images(folder, 4, 6, seed=3, threads=2, prefetch=3)
    values(stream, taken)
    state = json.loads(json.dumps(stream.get_state()))
    ahead = values(stream, 9)
    fresh = stream_images(folder, 4, 6, seed=3, threads=1, prefetch=1)
    fresh.set_state(state)
    np.testing.assert_array_equal(values(fresh, 9), ahead)
    assert fresh.get_state() == stream.get_state() == {**state, "step": taken + 9}
    # Also back, on a stream that has decoded ahead.
    stream.set_state(state)
    np.testing.assert_array_equal(values(stream, 9), ahead)


def test_processes_share_each_batch(folder):
    whole = stream_images(folder, 4, 6, seed=3)
    values(whole, 2)
    state = whole.get_state()
    expected = values(whole, 5)
    for count in (2, 3):
        parts = [stream_images(folder, 4, 6, seed=3, process=(i, count)) for i in range(count)]
        for part in parts:
            part.set_state(state)
        together = np.concatenate([values(part, 5) for part in parts], axis=1)
        np.testing.assert_array_equal(together, expected)


def test_state_of_another_stream_is_refused(folder, tmp_path):
    stream = stream_images(folder, 4, 6, seed=3)
    with pytest.raises(ValueError, match="has the seed 4, this one 3"):
        stream.set_state(stream_images(folder, 4, 6, seed=4).get_state())
    with pytest.raises(ValueError, match="has the batch_size 3, this one 6"):
        stream.set_state(stream_images(folder, 4, 3, seed=3).get_state())
    with pytest.raises(ValueError, match="has the images "):
        stream.set_state(stream_images(folder / "a", 4, 6, seed=3).get_state())
    with pytest.raises(ValueError, match="step must be an integer of at least 0, got None"):
        stream.set_state({**stream.get_state(), "step": None})


def test_zip_and_batches_larger_than_the_set(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for file in sorted((folder / "a").iterdir()):
            archive.write(file, file.name)
    batch = next(stream_images(tmp_path / "a.zip", 4, 30, seed=0, channels=1))
    assert batch.labels is None
    assert batch.images.shape == (30, 4, 4, 1)
    counts = np.bincount(batch.images[:, 0, 0, 0])
    assert counts.tolist() == [3] * 10
    single = tmp_path / "single"
    single.mkdir()
    (single / "x.png").write_bytes(encode(plain(9)))
    np.testing.assert_array_equal(values(stream_images(single, 4, 2, seed=0), 2), 9)


@pytest.mark.filterwarnings("ignore:.* The next image is used instead")
def test_unreadable_images_are_named_or_replaced(folder, tmp_path):
    for index in range(4):
        (tmp_path / f"{index}.png").write_bytes(encode(plain(index)))
    (tmp_path / "3.png").write_bytes(b"text")
    stream = stream_images(tmp_path, 4, 4, seed=0)
    with pytest.raises(DataError, match=r"3\.png in .* cannot be read.*unreadable=\"skip\""):
        next(stream)
    with pytest.warns(UserWarning, match=r"3\.png .* The next image is used instead"):
        batch = next(stream_images(tmp_path, 4, 4, seed=0, unreadable="skip", threads=1))
    assert sorted(batch.images[:, 0, 0, 0]) == [0, 0, 1, 2]
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(b"text")
    with (
        pytest.warns(UserWarning, match=r"3\.png .* The next image is used instead"),
        pytest.raises(DataError, match=r"no image in .* can be read"),
    ):
        next(stream_images(tmp_path, 4, 4, seed=0, unreadable="skip", threads=1))


def test_sides_and_images_beside_the_classes(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "set")
    (tmp_path / "set/cover.png").write_bytes(encode(plain(99)))
    with pytest.raises(DataError, match=r"1 of 24 .* as cover\.png"):
        stream_images(tmp_path / "set", 4, 6, seed=0)
    with pytest.warns(UserWarning, match=r"cover\.png\. They are left out"):
        stream = stream_images(tmp_path / "set", (4, 6), NUM, seed=0, unreadable="skip")
    assert (stream.num, stream.shape) == (NUM, (4, 6, 3))
    images, labels = next(stream)
    assert sorted(images[:, 0, 0, 0]) == list(range(NUM))
    np.testing.assert_array_equal(labels, images[:, 0, 0, 0] >= 10)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 0}, "batch_size must be"),
        ({"batch_size": 7, "process": (0, 2)}, "multiple of 2 processes, got 7"),
        ({"process": (2, 2)}, r"index < count, got \(2, 2\)"),
        ({"seed": -1}, "seed must be"),
        ({"seed": 2**32}, r"below 2\^32"),
        ({"threads": 0}, "threads must be"),
    ],
)
def test_options_are_checked(folder, options, said):
    with pytest.raises(ValueError, match=said):
        stream_images(folder, 4, **{"batch_size": 6, "seed": 0, **options})


def test_missing_grain_names_the_extra(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    with pytest.raises(ImportError, match=r"grain .*kacjax\[images\]"):
        stream_images(folder, 4, 6, seed=0)
