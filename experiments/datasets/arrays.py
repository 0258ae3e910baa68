"""Numbers and labels from the files that people have: `.npy`, `.npz`, `.csv`, `.parquet`."""

import contextlib
import csv
import importlib
import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.command import UserError, user_errors

_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
Columns = dict[str, np.ndarray]


class Table(NamedTuple):
    """What a file holds."""

    data: np.ndarray  # Floats of shape `(num, *event)`.
    names: tuple[str, ...]  # Of the components, where they have any.
    labels: np.ndarray | None  # Number of each datum's class.
    classes: tuple[str, ...]  # Names of the classes, sorted: by size if they are numbers.
    label: str = "class"  # Of the column that they come from, if it is not a file of its own.


def read_arrays(file: Path, labels: str | None = None) -> Table:
    """Reads data, and labels from a column, an array or a file of their own."""
    columns = read_columns(file)
    found, label = None, "class"
    if labels in columns:
        found, label = columns.pop(labels), labels
    elif labels is not None:
        path = Path(os.path.expanduser(labels))
        if not path.is_file():
            names = ", ".join(list(columns)[:20])
            raise UserError(f"--labels must be a file or one of {names}; got {labels!r}.")
        of_file = read_columns(path)
        if len(of_file) != 1:
            raise UserError(f"--labels: {path} must hold one column, got {len(of_file)}.")
        (found,) = of_file.values()
    data, names = numbers_of(file, columns)
    if found is None:
        return Table(data, names, None, ())
    if found.shape != (len(data),):
        raise UserError(f"--labels must be one for each of {len(data)} data, got {found.shape}.")
    classes, numbers = np.unique(_plain(found), return_inverse=True)
    return Table(data, names, numbers.astype(np.int32), tuple(map(str, classes)), label)


def read_npy(file: Path) -> np.ndarray:
    """A `.npy` file of numbers, whose size must be what it says."""
    if not file.is_file():
        raise UserError(f"there is no file {file}.")
    damages = (OSError, ValueError, EOFError, MemoryError, SyntaxError)
    with user_errors(*damages, saying=f"{file} cannot be read as an array: ", ending="."):
        # Mapped, because a forged shape would otherwise be allocated.
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf" or not array.ndim:
            raise ValueError("it must hold one array of real numbers")
        return np.array(array)


def read_columns(file: Path) -> Columns:
    """Columns by name; an array alone is one column of any shape."""
    if file.suffix.lower() not in _SUFFIXES:
        raise UserError(f"{file} must be one of {', '.join(_SUFFIXES)} by its name.")
    if not file.is_file():
        raise UserError(f"there is no file {file}.")
    if file.suffix.lower() == ".npy":
        return {"": read_npy(file)}
    with user_errors(Exception, saying=f"{file} cannot be read: "):
        if file.suffix.lower() == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                return dict(archive)
        if file.suffix.lower() == ".csv":
            return _read_csv(file)
        return _read_parquet(file)


def _read_csv(file: Path) -> Columns:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        first = stream.readline()
        stream.seek(0)
        separator = max(",;\t", key=first.count)
        lines = [row for row in csv.reader(stream, delimiter=separator) if any(row)]
    if not lines:
        raise ValueError("it is empty.")
    rows, width = [[cell.strip() for cell in row] for row in lines], len(lines[0])
    for number, row in enumerate(rows, 1):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} columns and not {width}.")
    header = _has_header(rows[0], rows[1:])
    names = rows.pop(0) if header else [f"column {i}" for i in range(width)]
    if len(set(names)) < width:
        raise ValueError("two columns have one name.")
    # The index of pandas is no datum.
    kept = range(_has_index(names, rows), width)
    return {names[i]: np.array([row[i] for row in rows]) for i in kept}


def _has_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether a first row names columns: by a text that does not come again in its column.

    Or by 0, 1, 2, ..., as pandas writes it where columns have no names.
    """
    named = first[not first[0] :]
    if named == list(map(str, range(len(named)))):
        return first not in rows
    texts = [i for i, cell in enumerate(first) if cell and not _is_number(cell)]
    new = any(all(row[i] != first[i] for row in rows) for i in texts)
    return new or _has_index(first, rows)


def _has_index(names: list[str], rows: list[list[str]]) -> bool:
    """Whether the first column has no name and counts the rows, as the index of pandas does."""
    counted = len(names) > 1 and not names[0]
    return counted and [row[0] for row in rows] == list(map(str, range(len(rows))))


def _read_parquet(file: Path) -> Columns:
    for module, reader in (("pandas", "read_parquet"), ("pyarrow.parquet", "read_table")):
        try:
            table = getattr(importlib.import_module(module), reader)(file)
        except ImportError:
            continue
        names = table.columns if module == "pandas" else table.column_names
        return {str(name): np.asarray(table[name]) for name in names}
    raise ValueError("reading .parquet needs pandas or pyarrow.")


def numbers_of(file: Path, columns: Columns) -> tuple[np.ndarray, tuple[str, ...]]:
    """All columns side by side as float64; one array alone keeps its shape."""
    if not columns:
        raise UserError(f"{file} holds no data beside the labels.")
    parts = {}
    for name, column in columns.items():
        what = f"{file}: column {name!r:.60}" if name else f"{file}"
        if not column.size or not column.ndim:
            raise UserError(f"{what} must not be empty, got shape {column.shape}.")
        parts[name] = _floats(what, name, column)
        if others := np.sum(~np.isfinite(parts[name])):
            raise UserError(f"{what} must be finite, got {others} others.")
    if len(parts) == 1:
        (data,) = parts.values()
        data = data[:, None] if data.ndim == 1 else data
        names = tuple(parts) if data.shape[1:] == (1,) and "" not in parts else ()
    elif len({len(part) for part in parts.values()}) > 1 or any(p.ndim > 2 for p in parts.values()):
        shapes = ", ".join(f"{name} {part.shape}" for name, part in parts.items())
        raise UserError(f"{file} must hold columns of one length, got {shapes}.")
    else:
        wide = {name: part.reshape(len(part), -1) for name, part in parts.items()}
        data = np.concatenate(list(wide.values()), axis=1)
        names = tuple(
            f"{name} {i}" if part.shape[1] > 1 else name
            for name, part in wide.items()
            for i in range(part.shape[1])
        )
    if np.abs(data).max() > 1e30:
        raise UserError(f"{file} must hold numbers below 1e30, got {np.abs(data).max():.3g}.")
    return data, names


def _floats(what: str, name: str, column: np.ndarray) -> np.ndarray:
    """A column as numbers; of what is none, the first cell is shown."""
    with contextlib.suppress(ValueError, TypeError):
        if column.dtype.kind in "biufUO":
            return np.asarray(column, np.float64)
    cells = list(map(str, column.ravel().tolist()))
    bad = [i for i, cell in enumerate(cells) if not _is_number(cell)] or [0]
    row, got, advice = bad[0] * len(column) // len(cells) + 1, cells[bad[0]], ""
    if len(got.split()) > 1 and all(map(_is_number, got.split())):
        advice = "; columns must be separated by , or ; or a tab"
    elif name and len(bad) == len(cells):
        advice = f"; if these are classes, name them by --labels {name!r}"
    raise UserError(f"{what} must hold numbers, got {got[:50]!r} in row {row} of the data{advice}.")


def _plain(labels: np.ndarray) -> np.ndarray:
    """Labels as integers if all of them are plain ones of at most 18 digits, else as text."""
    text = [str(int(v) if type(v) is float and v.is_integer() else v) for v in labels.tolist()]
    if all(re.fullmatch("0|-?[1-9][0-9]{0,17}", label) for label in text):
        return np.array(text).astype(np.int64)
    numbers = [float(label) for label in text if _is_number(label)]
    others = [number for number in numbers if not number.is_integer()]
    if others and len(numbers) == len(text):
        raise UserError(f"--labels must be integers or text, got the number {others[0]:g}.")
    return np.array(text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
