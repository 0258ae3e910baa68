"""What a run says of itself: the surroundings it was made in, and tables."""

import csv
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.special import stdtrit

# Of an interval.
CONFIDENCE = 0.95
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


def digest(values: Any) -> str:
    """Ten hexadecimal digits that stand for a configuration, of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]


def table(title: str, rows: Mapping[str, float | int]) -> str:
    """Figures under a title, names at the left and numbers at the right; below 80 columns."""
    cells = {name.replace("_", " "): number(value) for name, value in rows.items()}
    width, right = max(map(len, cells)) + 2, max(map(len, cells.values()))
    rule = "-" * max(width + right, len(title))
    lines = [f"{name:<{width}}{value:>{right}}" for name, value in cells.items()]
    return "\n".join([title, rule, *lines, rule])


class Interval(NamedTuple):
    """A mean over seeds, with the half-width of its interval; NaN for one seed, which has none."""

    mean: float
    half: float
    seeds: int

    @property
    def ends(self) -> tuple[float | str, float | str]:
        """Where it begins and ends, as a table for programs has it."""
        mean, half, _ = self
        return ("", "") if math.isnan(half) else (mean - half, mean + half)


def interval(values: Sequence[float]) -> Interval:
    r"""The mean $\bar x$ with $t_{0.975, n-1} \, s / \sqrt n$, `s` the sample's deviation."""
    array, n, half = np.asarray(values, np.float64), len(values), math.nan
    if n > 1:
        factor = stdtrit(n - 1, (1 + CONFIDENCE) / 2)
        half = float(factor * array.std(ddof=1) / math.sqrt(n))
    return Interval(float(array.mean()), half, n)


def markdown(titles: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
    """A table in Markdown, its first columns to the left and the others to the right."""
    rule = ["---"] * text + ["---:"] * (len(titles) - text)
    return "".join(f"| {' | '.join(row)} |\n" for row in (titles, rule, *rows))


def csv_text(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table for programs."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([titles, *rows])
    return text.getvalue()


def align(row: Sequence[str], sizes: Sequence[int], text: int) -> str:
    """One line, as far as there are sizes: the first columns at the left, the others at the right."""
    cells = zip(row, sizes, strict=False)
    padded = [f"{cell:{'<' if i < text else '>'}{size}}" for i, (cell, size) in enumerate(cells)]
    return " ".join(padded).rstrip()


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
    lines = textwrap.wrap(" ".join(names), 76, break_on_hyphens=False)
    return "\n".join([f"{folder}/", *(f"  {line}" for line in lines)])


def plus_minus(figure: Interval) -> str:
    """A mean with its half-width, as `0.981 ± 0.012` or `(3.5 ± 0.4)e-4`."""
    mean, half, _ = figure
    if not math.isfinite(mean):
        return f"{mean}"
    if mean == 0 or 0.01 <= abs(mean) < 1000:
        if math.isnan(half):
            return f"{mean:.3g}"
        digits = min(4, max(0, 1 - math.floor(math.log10(half)))) if half > 0 else 4
        return f"{mean:.{digits}f} ± {half:.{digits}f}"
    exponent = math.floor(math.log10(abs(mean)))
    if math.isnan(half):
        return f"{mean / 10**exponent:.2f}e{exponent}"
    # The last digit is the half-width's first one; what is shown as 10 is 1 of the next exponent.
    place = math.floor(math.log10(half)) if half > 0 else exponent
    place = min(exponent - 1, max(exponent - 4, place))
    exponent = math.floor(math.log10(round(abs(mean), -place)))
    digits = exponent - place
    return f"({mean / 10**exponent:.{digits}f} ± {half / 10**exponent:.{digits}f})e{exponent}"


def number(value: float | int) -> str:
    """Four digits, and no more behind the point than they ask for."""
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"
