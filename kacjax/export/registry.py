"""Classes that files may name, and paths as what JSON can hold."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from kacjax.paths import ProbabilityPath

_CLASSES: dict[str, type] = {}
_NUMBERS = (jnp.floating, jnp.integer, jnp.bool_)


def register(cls: type) -> type:
    """Lets files hold objects of a class, by its name; a decorator, needed to write and to read.

    - A part of a path (process, signal, clock, or what these hold) is a dataclass, as every
      `eqx.Module`, of numbers, strings, arrays, tuples, and objects of registered classes. It is
      made again by `cls(**fields)`.
    - A network has an attribute `config`, a dictionary that JSON can hold. It is made again by
      `cls(**config, rngs=...)` in Flax NNX, `cls(**config)` in Linen, and `cls(**config, key=...)`
      otherwise, as in Equinox.

    Raises:
        ValueError: If another class of that name is registered.

    Example:
        >>> @kacjax.export.register
        ... class Power(eqx.Module):
        ...     exponent: float
        ...     def __call__(self, u):
        ...         return u**self.exponent
        >>> kacjax.export.path_to_dict(kacjax.kac_path(clock=Power(1.5)))["clock"]
        {'class': 'Power', 'exponent': 1.5}
    """
    known = _CLASSES.get(cls.__name__, cls)
    # A class that is defined again, as in a notebook, replaces its former self.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"cls must have a name of its own, but {known} has that of {cls}.")
    _CLASSES[cls.__name__] = cls
    return cls


def class_name(what: str, value: Any) -> str:
    """The name of an object's class, or a `ValueError` that says how to register it."""
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
        raise ValueError(
            f"{what} is a {name}, which files do not know: decorate that class with "
            "@kacjax.export.register, whose help says what it must have."
        )
    return name


def find_class(name: Any) -> type:
    """The class of a name, or a `ValueError` that lists those that are registered."""
    if not isinstance(name, str) or name not in _CLASSES:
        raise ValueError(
            f"class must be one of {', '.join(sorted(_CLASSES))}, got {name!r:.100}; one of your "
            "own is known once it is defined, decorated with @kacjax.export.register."
        )
    return _CLASSES[name]


def path_to_dict(path: ProbabilityPath) -> dict[str, Any]:
    """What `path_from_dict` needs to make the path again; JSON can hold it.

    Raises:
        ValueError: If the class of the process, the signal or the clock is not registered.

    Example:
        >>> kacjax.export.path_to_dict(kacjax.kac_path())["process"]
        {'class': 'KacProcess', 'a': 9.0, 'c': 3.0}
    """
    return _to_json("path", path)


def path_from_dict(values: Mapping[str, Any]) -> ProbabilityPath:
    """The inverse of `path_to_dict`, exact in every number.

    Raises:
        ValueError: If an entry is missing, unknown or wrong.

    Example:
        >>> values = kacjax.export.path_to_dict(kacjax.flow_matching_path(sigma=0.5))
        >>> kacjax.export.path_from_dict(values).process
        WienerProcess(sigma=0.5)
    """
    try:
        path = _from_json(values)
        if isinstance(path.T, str) or np.shape(path.T) or not callable(path.coefficients):
            raise TypeError(f"T must be a number, got {path.T!r:.100}")
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"values must describe a path, got {values!r:.300}: {error}") from error
    return path


def _to_json(what: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_to_json(what, part) for part in value]}
    if any(jnp.issubdtype(getattr(value, "dtype", object), kind) for kind in _NUMBERS):
        array = np.asarray(value)
        return {"array": array.tolist(), "dtype": array.dtype.name} if array.ndim else array.item()
    values = {"class": class_name(what, value)}
    for field in dataclasses.fields(value):
        if field.init:
            values[field.name] = _to_json(f"{what}.{field.name}", getattr(value, field.name))
    return values


def _from_json(value: Any) -> Any:
    if isinstance(value, list):  # Written by hand.
        return jnp.asarray(value, jnp.result_type(float))
    if not isinstance(value, Mapping):
        return value
    if "array" in value:
        return jnp.asarray(np.asarray(value["array"], jnp.dtype(value["dtype"])))
    for kind in (list, tuple):
        if kind.__name__ in value:
            return kind(map(_from_json, value[kind.__name__]))
    fields = {name: _from_json(part) for name, part in value.items() if name != "class"}
    return find_class(value.get("class"))(**fields)
