"""What a run says of itself: the surroundings it was made in, and tables."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

_PACKAGES = ("kacjax", "jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "scikit-learn")


def commit() -> str:
    """The commit of the repository that this file is part of, marked where the library was changed.

    Empty without git, and where the file is part of another repository or of none.
    """
    root = Path(__file__).resolve().parents[1]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True, "cwd": root}

    def git(*command: str) -> str:
        return subprocess.run(["git", *command], **options).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return ""
        changed = git("status", "--porcelain", "--", "kacjax")
        return git("rev-parse", "HEAD") + "+changes" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return ""


def surroundings() -> dict[str, Any]:
    """Commit, versions and device."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    device = jax.devices()[0]
    return {
        "commit": commit(),
        "versions": versions,
        "device": {
            "platform": device.platform,
            "kind": device.device_kind,
            "count": jax.device_count(),
            "cpu_cores": os.cpu_count(),
        },
    }


def fingerprint(data: np.ndarray, labels: np.ndarray | None, classes: Sequence[str]) -> str:
    """Sixteen hexadecimal digits that tell data from others."""
    digest = hashlib.sha256(repr((data.shape, tuple(classes))).encode())
    for array in (data,) if labels is None else (data, labels):
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()[:16]


def table(title: str, rows: Mapping[str, float | int]) -> str:
    """Figures under a title, names at the left and numbers at the right; below 80 columns."""
    names = {name: name.replace("_", " ") for name in rows}
    width = max(map(len, names.values())) + 2
    values = {name: number(value) for name, value in rows.items()}
    right = max(map(len, values.values()))
    rule = "-" * max(width + right, len(title))
    lines = [f"{names[name]:<{width}}{values[name]:>{right}}" for name in rows]
    return "\n".join([title, rule, *lines, rule])


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table in Markdown, its first columns to the left and the others to the right."""
    rule = ["---"] * text + ["---:"] * (len(titles) - text)
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def columns(figures: Mapping[str, Mapping[str, float | int]]) -> str:
    """Figures of several runs as a table in Markdown, one run a column."""
    names = dict.fromkeys(name for column in figures.values() for name in column)
    rows = [
        [name.replace("_", " ")]
        + [number(column[name]) if name in column else "" for column in figures.values()]
        for name in names
    ]
    return markdown(["", *figures], rows)


def files(folder: Path) -> str:
    """Where a run lies and what is in it, below 80 columns."""
    names = sorted(
        entry.name + "/" * entry.is_dir()
        for entry in folder.iterdir()
        if not entry.name.startswith(".")
    )
    indent = "  "
    listing = textwrap.fill(
        " ".join(names), 78, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
    return f"{folder}/\n{listing}"


def number(value: float | int) -> str:
    """Four digits, and no more behind the point than they ask for."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
