"""The cache is found again, never stale, whole or absent, and never in the way."""

import os
import pathlib
import re

import numpy as np
import pytest

from kacjax.data import ImageArrays, cache_folder, data_root
from kacjax.data.files import cached_images

IMAGES = ImageArrays(
    np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3), np.array([1, 0], np.int32), ("á", "b")
)


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "source.tar.xz"
    file.write_bytes(b"content")
    return file


class Maker:
    """Makes the images, and counts how often."""

    def __init__(self, images=IMAGES, left_out=""):
        self.images, self.left_out, self.calls = images, left_out, 0

    def __call__(self):
        self.calls += 1
        return self.images, self.left_out


def same(one: ImageArrays, other: ImageArrays) -> bool:
    return all(map(np.array_equal, one, other))


@pytest.mark.parametrize("images", [IMAGES, ImageArrays(IMAGES.images)])
def test_second_time_comes_from_the_cache(source, tmp_path, images):
    make = Maker(images)
    for _ in range(2):
        found = cached_images(source, "1", {"size": 2}, tmp_path / "new/cache", make)
        assert same(found, images)
        assert found.images.dtype == np.uint8
    assert make.calls == 1
    assert len(os.listdir(tmp_path / "new/cache")) == 1


def test_images_that_were_left_out_are_named_each_time(source, tmp_path):
    make = Maker(left_out="b\udcff.png is left out")
    for _ in range(2):
        with pytest.warns(UserWarning, match=re.escape(make.left_out)):
            assert same(cached_images(source, "1", {}, tmp_path / "cache", make), IMAGES)
    assert make.calls == 1


def test_other_states_and_settings_and_sources_are_made_anew(source, tmp_path):
    make, cache = Maker(), tmp_path / "cache"
    other = tmp_path / "other.tar.xz"
    for origin, fingerprint, size in (
        (source, "1", 2),
        (source, "2", 2),
        (source, "1", 2),
        (source, "1", 3),
        (other, "1", 2),
    ):
        cached_images(origin, fingerprint, {"size": size}, cache, make)
    assert make.calls == 5
    # A new state replaces the old one; settings and sources have their own files.
    assert len(os.listdir(cache)) == 3


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 no archive", None])
def test_damaged_cache_is_named_and_made_anew(source, tmp_path, damage):
    make, cache = Maker(), tmp_path / "cache"
    cached_images(source, "1", {}, cache, make)
    (file,) = cache.iterdir()
    file.write_bytes(file.read_bytes()[:-40] if damage is None else damage)
    with pytest.warns(UserWarning, match=f"{file.name} is damaged"):
        assert same(cached_images(source, "1", {}, cache, make), IMAGES)
    assert same(cached_images(source, "1", {}, cache, make), IMAGES)
    assert make.calls == 2


def test_cache_that_cannot_be_written_costs_a_warning(source, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="KACJAX_CACHE"):
        assert same(cached_images(source, "1", {}, tmp_path / "file/cache", Maker()), IMAGES)


def test_interrupted_writing_leaves_nothing(source, tmp_path, monkeypatch):
    def full(stream, **arrays):
        stream.write(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert same(cached_images(source, "1", {}, tmp_path / "cache", Maker()), IMAGES)
    assert not os.listdir(tmp_path / "cache")


def test_folders_follow_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("KACJAX_DATA", raising=False)
    monkeypatch.delenv("KACJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    monkeypatch.chdir(tmp_path)
    assert data_root() == pathlib.Path("data")
    assert cache_folder() == tmp_path / "user/kacjax"
    monkeypatch.setenv("KACJAX_DATA", str(tmp_path))
    assert data_root() == tmp_path
    assert data_root("elsewhere") == pathlib.Path("elsewhere")
    assert cache_folder() == tmp_path / "kacjax-cache"
    monkeypatch.setenv("KACJAX_CACHE", str(tmp_path / "chosen"))
    assert cache_folder() == tmp_path / "chosen"


def test_folder_that_is_read_only_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.delenv("KACJAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    (tmp_path / "data").mkdir(mode=0o555)
    assert cache_folder(tmp_path / "data") == tmp_path / "user/kacjax"
