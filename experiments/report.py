"""What a run says of itself: the surroundings it was made in, and a table at its end."""

import importlib.metadata
import os
import platform
import subprocess
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

_PACKAGES = ("kacjax", "jax", "jaxlib", "flax", "optax", "diffrax", "numpy", "scikit-learn")


def commit() -> str:
    """The commit of the source, marked where the library was changed since; empty without git."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    options: dict[str, Any] = {"capture_output": True, "text": True, "check": True}
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], **options).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "--", "kacjax"], **options).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + "+changes" * bool(changed.strip())


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


def table(title: str, rows: Mapping[str, float | int]) -> str:
    """Figures under a title, names at the left and numbers at the right; below 80 columns."""
    names = {name: name.replace("_", " ") for name in rows}
    width = max(map(len, names.values())) + 2
    values = {name: _number(value) for name, value in rows.items()}
    right = max(map(len, values.values()))
    rule = "-" * max(width + right, len(title))
    lines = [f"{names[name]:<{width}}{values[name]:>{right}}" for name in rows]
    return "\n".join([title, rule, *lines, rule])


def markdown(columns: Mapping[str, Mapping[str, float | int]]) -> str:
    """Figures of several runs as a table in Markdown, one run a column."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [["", *columns], ["---"] + ["---:"] * len(columns)]
    for name in names:
        cells = [_number(column[name]) if name in column else "" for column in columns.values()]
        rows.append([name.replace("_", " "), *cells])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


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


def _number(value: float | int) -> str:
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
