"""Where the real data lie, if they are there."""

import os
import pathlib

import pytest

_REPOSITORY = pathlib.Path(__file__).parents[2]
_PLACES = (_REPOSITORY / "../shared/data", _REPOSITORY / "../../shared/data")


def real_root(*names: str) -> pathlib.Path:
    """The folder that holds one of the files; skips the test where there is none."""
    chosen = os.environ.get("KACJAX_DATA")
    for place in (pathlib.Path(chosen),) if chosen else _PLACES:
        if any((place / name).exists() for name in names):
            return place
    pytest.skip(f"no {' or '.join(names)} at hand")
