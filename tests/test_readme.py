"""The README: its example runs as printed, what it links to is there, and it is short."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


@pytest.mark.long
def test_library_example_runs_as_printed():
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    done = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, timeout=300, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(1000, 2) 2.0\n"


@pytest.mark.parametrize("target", re.findall(r'(?:src|srcset)="(.*?)"', TEXT))
def test_pictures_exist(target):
    assert (ROOT / target).stat().st_size > 5000


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?://)(.*?)\)", TEXT))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_it_is_short():
    assert len(TEXT.split()) <= 700


def test_the_two_commands_are_there():
    first, second = re.findall(r"```bash\n(.*?)\n(.*?)\n```", TEXT)[0]
    assert first == "pip install -e '.[experiments]' && python -m experiments.train digits"
    assert second == "pip install -e '.[test]' && pytest"
