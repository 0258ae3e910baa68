"""Paths as what JSON can hold, and back."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kacjax._validation import check_positive, choose
from kacjax.paths import ProbabilityPath
from kacjax.processes import PROCESSES
from kacjax.schedules import CLOCKS, SIGNALS, make_clock, make_signal


def path_to_dict(path: ProbabilityPath) -> dict[str, Any]:
    """What `path_from_dict` needs to make the path again; JSON can hold it.

    Raises:
        ValueError: If the process, signal or clock is not one of this library's, or signal and
            clock have another `T` than the path.
    """
    process = path.process
    numbers = {
        field.name: _to_json(getattr(process, field.name)) for field in dataclasses.fields(process)
    }
    for part in (path.signal, path.clock):
        if _to_json(part.T) != _to_json(path.T):
            raise ValueError(f"{part} must have the T of its path, {path.T}.")
    return {
        "process": {"name": _name("process", process, PROCESSES), **numbers},
        "signal": _name("signal", path.signal, SIGNALS),
        "clock": _name("clock", path.clock, CLOCKS),
        "T": _to_json(path.T),
    }


def path_from_dict(values: Mapping[str, Any]) -> ProbabilityPath:
    """The inverse of `path_to_dict`, exact in every number.

    Raises:
        ValueError: If an entry is missing, unknown or wrong.
    """
    try:
        numbers = {name: _from_json(value) for name, value in values["process"].items()}
        process = choose("process", numbers.pop("name"), PROCESSES)(**numbers)
        T = _from_json(values["T"])
        check_positive("T", T)
        signal, clock = make_signal(values["signal"], T), make_clock(values["clock"], T)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"values do not describe a path: {error!r} in {values!r}.") from error
    return ProbabilityPath(process, signal, clock, T)


def _name(what: str, part: Any, known: Mapping[str, type]) -> str:
    for name, kind in known.items():
        if type(part) is kind:
            return name
    raise ValueError(
        f"{what} must be one of {', '.join(sorted(known))}, or it cannot be written; got {part}."
    )


def _to_json(number: Any) -> Any:
    return np.asarray(number).tolist()


def _from_json(number: Any) -> Any:
    """An array has become a list."""
    return jnp.asarray(number, jnp.result_type(float)) if isinstance(number, list) else number
