"""The batch files of CIFAR-10: Python pickles, read without trusting them, and plain binary."""

import contextlib
import io
import pickle
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from kacjax.data.files import DataError

_PLANES = 3 * 32 * 32


class Batch(NamedTuple):
    """The content of a batch file.

    Attributes:
        planes: For each image its red, its green, and its blue plane, row by row.
        labels: Class numbers.
    """

    planes: UInt8[np.ndarray, "num 3072"]
    labels: Int32[np.ndarray, " num"]


def from_pickle(content: bytes) -> Batch:
    """Reads a batch of the python form: a dictionary with `data` and `labels`.

    A pickle can run any code. This reader admits NumPy arrays beside Python's own dictionaries,
    lists, strings and numbers, and refuses everything else.

    Raises:
        DataError: If it is no such pickle.
    """
    try:
        # Strings of Python 2 have no encoding.
        batch = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    # "Other exceptions may also be raised during unpickling", says the documentation.
    except Exception as error:
        raise DataError(f"it cannot be unpickled: {error}") from error
    if not isinstance(batch, dict):
        raise DataError(f"it holds a {type(batch).__name__}, not a dictionary.")
    planes, labels = (batch.get(name, batch.get(name.encode())) for name in ("data", "labels"))
    with contextlib.suppress(TypeError, ValueError):
        labels = np.asarray(labels, np.int32)
    if (
        isinstance(planes, np.ndarray)
        and isinstance(labels, np.ndarray)
        and planes.dtype == np.uint8
        and planes.shape == (labels.size, _PLANES)
        and labels.ndim == 1
        and labels.min(initial=0) >= 0
    ):
        return Batch(planes, labels)
    raise DataError(f"it does not hold {_PLANES} bytes and a label for each image.")


def from_binary(content: bytes) -> Batch:
    """Reads a batch of the binary form: for each image a byte of label, then its planes.

    Raises:
        DataError: If it is not a whole number of images.
    """
    if not content or len(content) % (1 + _PLANES):
        raise DataError(f"it has {len(content)} bytes, not a multiple of {1 + _PLANES}.")
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PLANES)
    return Batch(records[:, 1:], records[:, 0].astype(np.int32))


class _ArrayUnpickler(pickle.Unpickler):
    """Admits what an array is pickled as, under the names of NumPy 1 and 2."""

    # The function that arrays name as their maker, private to NumPy.
    _make_array: Any = np.empty(0).__reduce__()[0]
    _admitted = {  # noqa: RUF012 - never changed
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("numpy.core.multiarray", "_reconstruct"): _make_array,
        ("numpy._core.multiarray", "_reconstruct"): _make_array,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise pickle.UnpicklingError(f"{module}.{name} is not admitted")
        return self._admitted[module, name]
