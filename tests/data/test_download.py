"""Downloads from a server on this machine, checked; and what is said where there is none."""

import functools
import hashlib
import http.server
import os
import threading

import pytest

from kacjax.data import DataError
from kacjax.data.files import fetch

CONTENT = b"some data" * 1000
MD5 = hashlib.md5(CONTENT).hexdigest()
# Nothing listens at the port for discarding.
NOWHERE = "http://127.0.0.1:9/"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The address of a folder with `data.gz`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served").mkdir()
    (tmp_path / "served/data.gz").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            """Says nothing, where the base class writes to the terminal."""

    handler = functools.partial(Quiet, directory=tmp_path / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def test_file_arrives_whole_with_a_bar(server, tmp_path, capfd):
    fetch("Toys", {"data.gz": MD5}, (NOWHERE, server), tmp_path / "new/folder", True, True)
    assert (tmp_path / "new/folder/data.gz").read_bytes() == CONTENT
    assert "100%" in capfd.readouterr().err


def test_file_with_another_sum_is_refused(server, tmp_path):
    with pytest.raises(DataError, match=r"Toys was not found in .*hash.*Put data.gz from"):
        fetch("Toys", {"data.gz": "0" * 32}, (server,), tmp_path / "new", True, False)
    assert not os.listdir(tmp_path / "new")


def test_without_a_network_it_says_which_files_to_put_where(server, tmp_path):
    sums = {"data.gz": MD5, "more.gz": MD5}
    with pytest.raises(DataError) as caught:
        fetch("Toys", sums, (server,), tmp_path / "new", True, False)
    said = str(caught.value)
    assert f"downloading more.gz from {server} failed" in said
    assert f"Put data.gz, more.gz from {server} into {tmp_path / 'new'}" in said
    assert "KACJAX_DATA" in said
    with pytest.raises(DataError, match=r"not asked for\. Put data.gz, more.gz"):
        fetch("Toys", sums, (server,), tmp_path / "other", False, False)
    assert not (tmp_path / "other").exists()
