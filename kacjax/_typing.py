"""Array aliases that the signatures share."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray, UInt32

Scalar: TypeAlias = float | int | np.floating | np.integer | Num[Array, ""]
"""A number: Python, NumPy, or an array of rank zero."""

ArrayLike: TypeAlias = float | int | np.floating | np.integer | Num[Array, "..."] | np.ndarray
"""Anything that broadcasts as an array of numbers."""

Vector: TypeAlias = ArrayLike | Sequence[float] | Sequence[int]
"""An array of rank one, or a list of numbers."""

Key: TypeAlias = PRNGKeyArray
"""A `jax.random.key`."""

Shape: TypeAlias = tuple[int, ...]

__all__ = ["Array", "ArrayLike", "Float", "Int", "Key", "Scalar", "Shape", "UInt32", "Vector"]
