"""Checks of values that a user may have given; each raises a `ValueError` with the value."""

import math
from collections.abc import Collection
from typing import Any


def check_positive(name: str, value: float) -> None:
    """Raises unless a number is positive and finite."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be positive and finite, got {value}.")


def check_count(name: str, value: Any, minimum: int = 1) -> None:
    """Raises unless `value` is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")


def check_choice(name: str, value: Any, known: Collection[str]) -> None:
    """Raises unless `value` is one of the known names."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(sorted(known))}; got {value!r}.")
