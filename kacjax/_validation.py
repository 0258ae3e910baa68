"""Checks of concrete values where they enter; traced values pass through."""

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import jax
import jax.core
import numpy as np

T = TypeVar("T")


def is_concrete(value: Any) -> bool:
    """Whether `value` holds numbers that can be looked at now, outside any trace."""
    return not isinstance(value, jax.core.Tracer) and isinstance(
        value, int | float | np.ndarray | np.generic | jax.Array
    )


def check_positive(name: str, value: Any) -> None:
    """Raises a `ValueError` unless every concrete number in `value` is positive and finite."""
    if is_concrete(value):
        array = np.asarray(value)
        if not (np.all(np.isfinite(array)) and np.all(array > 0)):
            raise ValueError(f"{name} must be positive and finite, got {_show(array)}.")


def check_nonnegative(name: str, value: Any) -> None:
    """Raises a `ValueError` unless every concrete number in `value` is at least zero."""
    if is_concrete(value):
        array = np.asarray(value)
        if not np.all(array >= 0):
            raise ValueError(f"{name} must not be negative or NaN, got {_show(array)}.")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raises a `ValueError` unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")


def choose(name: str, value: str, known: Mapping[str, T]) -> T:
    """Looks `value` up in `known`, or raises a `ValueError` that lists what is known."""
    check_choice(name, value, known)
    return known[value]


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raises a `ValueError` that lists `known` unless `value` is in it."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(sorted(known))}; got {value!r}.")


def _show(array: np.ndarray) -> str:
    if array.ndim == 0:
        return str(array.item())
    return f"an array of shape {array.shape} from {array.min()} to {array.max()}"
