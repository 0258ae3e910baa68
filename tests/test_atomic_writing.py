"""A file appears whole or not at all."""

import os

import numpy as np
import pytest

from kacjax._files import write_atomically


def test_a_file_is_written_and_replaced(tmp_path):
    file = tmp_path / "file.bin"
    write_atomically(file, lambda stream: stream.write(b"old"))
    assert file.read_bytes() == b"old"

    def write(stream):
        stream.write(b"new")
        # Until it is whole, the earlier content is what readers see.
        assert file.read_bytes() == b"old"

    write_atomically(str(file), write)
    assert file.read_bytes() == b"new"
    write_atomically(file, lambda stream: np.savez(stream, a=np.arange(3)))
    assert np.load(file)["a"].tolist() == [0, 1, 2]
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
def test_failed_writing_leaves_what_was_there(tmp_path, error):
    file = tmp_path / "file.bin"
    file.write_bytes(b"old")

    def write(stream):
        stream.write(b"half of it")
        raise error

    with pytest.raises(type(error)):
        write_atomically(file, write)
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file.bin"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "usual").write_bytes(b"")
    write_atomically(tmp_path / "atomic", lambda stream: None)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_missing_folders_are_reported(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "absent/file", lambda stream: None)
    assert not os.listdir(tmp_path)
