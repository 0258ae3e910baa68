"""Where the real data lie, if the variable KACJAX_DATA says so."""

import os
import pathlib

import pytest


def real_root(*names: str) -> pathlib.Path:
    """The folder KACJAX_DATA if it holds one of the files; skips the test otherwise."""
    root = os.environ.get("KACJAX_DATA")
    if root and any((pathlib.Path(root) / name).exists() for name in names):
        return pathlib.Path(root)
    pytest.skip(f"no {' or '.join(names)} in the folder KACJAX_DATA")
