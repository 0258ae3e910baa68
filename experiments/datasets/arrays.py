"""Numbers and labels from the files that people have: `.npy`, `.npz`, `.csv`, `.parquet`."""

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.command import UserError, user_errors

_SUFFIXES = (".npy", ".npz", ".csv", ".parquet")


class Table(NamedTuple):
    """What a file holds."""

    data: np.ndarray  # Floats of shape `(num, *event)`.
    names: tuple[str, ...]  # Of the components, where they have any.
    labels: np.ndarray | None  # Number of each datum's class.
    classes: tuple[str, ...]  # Names of the classes, sorted: by size if they are numbers.
    label: str = "class"  # Of the column that they come from, if it is not a file of its own.


def read_arrays(file: Path, labels: str | None = None) -> Table:
    """Reads data, and labels from a column, an array or a file of their own."""
    file = file.expanduser()
    columns = _read(file)
    found, label = None, "class"
    if labels in columns:
        found, label = columns.pop(labels), labels
    elif labels is not None:
        path = Path(labels).expanduser()
        if not path.is_file():
            names = ", ".join(list(columns)[:20])
            raise UserError(f"--labels must be a file or one of {names}; got {labels!r}.")
        of_file = _read(path)
        if len(of_file) != 1:
            raise UserError(f"--labels: {path} must hold one column, got {len(of_file)}.")
        (found,) = of_file.values()
    if not columns:
        raise UserError(f"{file} holds no data beside the labels.")
    data, names = _numbers(file, columns)
    if found is None:
        return Table(data, names, None, ())
    if found.shape != (len(data),):
        raise UserError(f"--labels must be one for each of {len(data)} data, got {found.shape}.")
    classes, numbers = np.unique(_plain(found), return_inverse=True)
    return Table(data, names, numbers.astype(np.int32), tuple(map(str, classes)), label)


def columns_of(file: Path) -> list[str]:
    """The names of the columns of a table, or of the arrays of an archive."""
    return list(_read(file))


def read_data(file: Path, names: Sequence[str]) -> np.ndarray:
    """The numbers of columns with these names, in this order."""
    columns = _read(file)
    return _numbers(file, {name: columns[name] for name in names})[0]


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


def _read(file: Path) -> dict[str, np.ndarray]:
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


def _read_csv(file: Path) -> dict[str, np.ndarray]:
    with file.open(newline="", encoding="utf-8-sig") as stream:
        first = stream.readline()
        stream.seek(0)
        separator = max(",;\t", key=first.count)
        rows = [row for row in csv.reader(stream, delimiter=separator) if any(row)]
    if not rows:
        raise ValueError("it is empty.")
    header = rows.pop(0) if not any(map(_is_number, rows[0])) else None
    width = len(header or rows[0])
    for number, row in enumerate(rows, 1 + (header is not None)):
        if len(row) != width:
            raise ValueError(f"row {number} has {len(row)} columns and not {width}.")
    names = [name.strip() for name in header] if header else [f"column {i}" for i in range(width)]
    if len(set(names)) < width:
        raise ValueError("two columns have one name.")
    return {name: np.array([row[i].strip() for row in rows]) for i, name in enumerate(names)}


def _read_parquet(file: Path) -> dict[str, np.ndarray]:
    for module, reader in (("pandas", "read_parquet"), ("pyarrow.parquet", "read_table")):
        try:
            table = getattr(importlib.import_module(module), reader)(file)
        except ImportError:
            continue
        names = table.columns if module == "pandas" else table.column_names
        return {str(name): np.asarray(table[name]) for name in names}
    raise ValueError("reading .parquet needs pandas or pyarrow.")


def _numbers(file: Path, columns: dict[str, np.ndarray]) -> tuple[np.ndarray, tuple[str, ...]]:
    """All columns side by side as float64; one array alone keeps its shape."""
    parts = {}
    for name, column in columns.items():
        what = f"{file}: column {name!r}" if name else f"{file}"
        if not len(np.atleast_1d(column)) or not column.ndim:
            raise UserError(f"{what} must not be empty, got shape {column.shape}.")
        try:
            if column.dtype.kind not in "biufUO":
                raise TypeError
            parts[name] = np.asarray(column, np.float64)
        except (ValueError, TypeError) as error:
            advice = f"; if these are classes, name them by --labels {name!r}" * bool(name)
            got = f"{column[:1].tolist()!s:.60}"
            raise UserError(f"{what} must hold numbers, got {got}{advice}.") from error
        others = np.sum(~np.isfinite(parts[name]))
        if others:
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
    if not data.size:
        raise UserError(f"{file} must not be empty, got shape {data.shape}.")
    if np.abs(data).max() > 1e30:
        raise UserError(f"{file} must hold numbers below 1e30, got {np.abs(data).max():.3g}.")
    return data, names


def _plain(labels: Any) -> np.ndarray:
    """Labels as integers if all of them are some, and as text if they are no numbers."""
    text = np.array([str(label) for label in np.asarray(labels).tolist()])
    values = [float(label) for label in text if _is_number(label)]
    if len(values) < len(text):
        return text
    others = [value for value in values if not value.is_integer()]
    if others:
        raise UserError(f"--labels must be integers or text, got the number {others[0]:g}.")
    return np.array(values).astype(np.int64)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
