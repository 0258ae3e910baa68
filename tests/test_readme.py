"""The README's library example runs as printed."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def test_library_example_runs_as_printed():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 15
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(1000, 2) 3.0 0.")


@pytest.mark.parametrize("target", re.findall(r"!\[.*?\]\((.*?)\)", TEXT))
def test_pictures_exist(target):
    assert (ROOT / target).stat().st_size > 5000


def test_nothing_is_left_to_fill_in():
    assert "RESULTS" not in TEXT
