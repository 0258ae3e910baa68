"""A trained velocity in one small file: arrays in safetensors, all else as JSON in its header."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import linen, nnx, traverse_util
from safetensors.numpy import save

from kacjax._files import write_atomically
from kacjax.checkpoints.manager import check_same, from_bits, named_leaves, to_bits
from kacjax.paths import ProbabilityPath
from kacjax.velocity import LinenNetwork, NNXNetwork, Velocity, wrap_network

_FORMAT = "kacjax-velocity-2"
_NAME = "velocity.safetensors"
_CLASSES: dict[str, type] = {}


def register(cls: type) -> type:
    """Lets files hold objects of a class, by its name; a decorator, needed to write and to read.

    - A part of a path (process, signal, clock, or what these hold) is a dataclass, as every
      `eqx.Module`, of numbers, strings, arrays, tuples, and objects of registered classes.
    - So is a `kacjax.predictions.Prediction`, and the same holds for it.
    - A network has an attribute `config`, a dictionary that JSON can hold. It is made again by
      `cls(**config, rngs=...)` in Flax NNX, `cls(**config)` in Linen, and `cls(**config, key=...)`
      otherwise, as in Equinox.

    Another class of the same name is a `ValueError`.

    Example:
        >>> @kacjax.export.register
        ... class PowerClock(eqx.Module):
        ...     exponent: float
        ...     def __call__(self, u):
        ...         return u**self.exponent
        >>> kacjax.export.path_to_dict(kacjax.kac_path(clock=PowerClock(1.5)))["clock"]
        {'class': 'PowerClock', 'exponent': 1.5}
    """
    known = _CLASSES.get(cls.__name__, cls)
    # A class that is defined again, as in a notebook, replaces its former self.
    if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise ValueError(f"cls must have a name of its own, but {known} has that of {cls}.")
    _CLASSES[cls.__name__] = cls
    return cls


def _class_name(what: str, value: Any) -> str:
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
        raise ValueError(f"{what} is a {name}, which is not decorated by @kacjax.export.register.")
    return name


def _find_class(name: Any) -> type:
    if not isinstance(name, str) or name not in _CLASSES:
        known = f"{', '.join(sorted(_CLASSES))}, or your own with @kacjax.export.register"
        raise ValueError(f"class must be one of {known}; got {name!r:.100}.")
    return _CLASSES[name]


def path_to_dict(path: ProbabilityPath) -> dict[str, Any]:
    """A dictionary for JSON from which `path_from_dict` makes the path again, exactly.

    Its parts must be of classes of this library or of `register`: others are a `ValueError`.

    Example:
        >>> kacjax.export.path_to_dict(kacjax.kac_path())["process"]
        {'class': 'KacProcess', 'a': 9.0, 'c': 3.0}
    """
    return _to_json("path", path)


def path_from_dict(values: Mapping[str, Any]) -> ProbabilityPath:
    """The path of `path_to_dict`; an entry that is missing, unknown or wrong is a `ValueError`.

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


def save_velocity(
    file: str | pathlib.Path, velocity: Callable[..., Any], notes: dict[str, Any] | None = None
) -> None:
    """Writes a velocity, as `fit` returns it, whole or not at all.

    Args:
        file: Target; replaced if it exists.
        velocity: A `kacjax.Velocity` of this library's classes or those you `register`.
        notes: Anything else that JSON can hold, for readers: what it was trained on.

    Raises:
        ValueError: If what would be written does not make such a velocity again, or `file` is a
            folder or in none.
        OSError: If the file cannot be written.

    Example:
        >>> velocity = kacjax.Velocity(kacjax.models.MLP(2, rngs=nnx.Rngs(0)), kacjax.kac_path())
        >>> kacjax.save_velocity("velocity.safetensors", velocity, {"data": "moons"})
        >>> kacjax.load_velocity("velocity.safetensors").path.process
        KacProcess(a=9.0, c=3.0)
    """
    file = pathlib.Path(file)
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"file must be the name of a file in a folder that exists, got {file}.")
    if not isinstance(velocity, Velocity):
        raise ValueError(f"velocity must be a kacjax.Velocity, as of fit, got {velocity!r:.100}.")
    network = module = velocity.network
    if isinstance(network, NNXNetwork):
        module = nnx.merge(network.graphdef, network.params, network.rest)
    elif isinstance(network, LinenNetwork):
        module = network.module
    name, config = _class_name("velocity.network", module), getattr(module, "config", None)
    header = {
        "format": _FORMAT,
        "network": {"class": name, "config": config},
        "path": path_to_dict(velocity.path),
        "prediction": _to_json("velocity.prediction", velocity.prediction),
        "classes": velocity.classes,
        "notes": notes or {},
    }
    try:
        header = json.loads(json.dumps(header))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config and notes must be what JSON can hold: {error}") from error
    leaves = named_leaves(eqx.filter(network, _is_array))
    arrays = {name: np.array(to_bits(leaf), order="C") for name, leaf in leaves.items()}
    # What could not be read again must not be written.
    for mode in ("train", "eval"):
        header["network"]["mode"] = mode
        if _alike(_make("what would be written", header, arrays), velocity):
            break
    else:
        wanted = "be all that it takes to make the network again"
        raise ValueError(f"{name}.config must {wanted}, but {config!r:.300} makes another.")
    text = json.dumps(header)
    # One entry: the library writes several in random order, and equal runs must give equal files.
    content = save(arrays, {"kacjax": f"{_digest(text, arrays)} {text}"})
    write_atomically(file, lambda stream: stream.write(content))


def load_velocity(file: str | pathlib.Path) -> Velocity:
    """Reads a velocity: a function `velocity(t, x)` with its `velocity.path`; see `save_velocity`.

    Args:
        file: What `save_velocity` wrote, or a folder that holds it as `velocity.safetensors`.

    Raises:
        ValueError: If the file is damaged, of another kind, or of a class that is not registered.
        OSError: If there is no such file, or it cannot be read.

    Example:
        >>> kacjax.load_velocity("/")
        Traceback (most recent call last):
            ...
        ValueError: file must be a file, or a folder that holds velocity.safetensors, got /.
    """
    return _make(str(file), *_read(file))


def load_notes(file: str | pathlib.Path) -> dict[str, Any]:
    """The notes that were saved with a velocity; `file` and errors are those of `load_velocity`.

    Example:
        >>> velocity = kacjax.Velocity(kacjax.models.MLP(2, rngs=nnx.Rngs(0)), kacjax.kac_path())
        >>> kacjax.save_velocity("velocity.safetensors", velocity, {"data": "moons"})
        >>> kacjax.export.load_notes("velocity.safetensors")
        {'data': 'moons'}
    """
    notes = _read(file)[0].get("notes")
    if not isinstance(notes, dict):
        raise ValueError(f"{file} must have notes that are a dictionary, got {notes!r:.100}.")
    return notes


def _to_json(what: str, value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_to_json(what, part) for part in value]}
    kinds = (jnp.floating, jnp.integer, jnp.bool_)
    if any(jnp.issubdtype(getattr(value, "dtype", object), kind) for kind in kinds):
        array = np.asarray(value)
        return {"array": array.tolist(), "dtype": array.dtype.name} if array.ndim else array.item()
    values = {"class": _class_name(what, value)}
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
    return _find_class(value.get("class"))(**fields)


def _read(file: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file that is whole."""
    file = pathlib.Path(file)
    file = file / _NAME if (file / _NAME).is_file() else file
    if file.exists() and not file.is_file():
        raise ValueError(f"file must be a file, or a folder that holds {_NAME}, got {file}.")
    try:
        with safetensors.safe_open(file, framework="np") as stream:
            entry = (stream.metadata() or {}).get("kacjax", "")
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    digest, _, text = entry.partition(" ")
    if not entry:
        raise ValueError(f"{file} is a safetensors file, but none of kacjax.")
    if digest != _digest(text, arrays):
        raise ValueError(f"{file} is damaged: its content is not what was written.")
    try:
        header = json.loads(text)
        if header["format"] == _FORMAT:
            return header, arrays
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} has no header that can be read: {error}") from error
    raise ValueError(f"{file} has the format {header['format']}, wanted is {_FORMAT}.")


class _FewKeys(nnx.Rngs):
    """Random streams that end, so that a forged depth does not take for ever."""

    def __init__(self, limit: int):
        self.left = limit
        super().__init__(0)

    def __getattr__(self, name: str) -> Any:
        self.left -= 1
        if self.left < 0:
            raise ValueError("config is that of a larger network")
        return super().__getattr__(name)


def _make(where: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Velocity:
    """The velocity that a header describes, with the arrays; shapes are compared before any is made."""
    try:
        values, path = header["network"], path_from_dict(header["path"])
        cls, frozen = _find_class(values["class"]), values["mode"] == "eval"
        make: Callable[..., Any] = functools.partial(cls, **values["config"])
        if issubclass(cls, linen.Module):
            variables = {tuple(name.split(".")[1:]): array for name, array in arrays.items()}
            network = LinenNetwork(traverse_util.unflatten_dict(variables), make())
        elif issubclass(cls, nnx.Module):
            nnx.eval_shape(lambda: make(rngs=_FewKeys(100 + 3 * len(arrays))))
            module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
            if frozen:
                module.eval()
            # What was trained is what the file calls so.
            is_param = lambda path, _: ".".join(["params", *map(str, path)]) in arrays  # noqa: E731
            network = wrap_network(module, is_param)
        else:
            network = eqx.filter_eval_shape(lambda key: make(key=key), jax.random.key(0))
            network = eqx.nn.inference_mode(network) if frozen else network
        prediction = _from_json(header["prediction"])
        velocity = Velocity(network, path, prediction, header["classes"])
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{where} describes no velocity: {error!s:.1000}") from error
    abstract, rest = eqx.partition(network, _is_array)
    named, leaves = named_leaves(abstract), []
    check_same(where, _shapes(arrays), _shapes({n: to_bits(leaf) for n, leaf in named.items()}))
    for name, leaf in named.items():
        array = jnp.asarray(arrays[name])
        if array.dtype != arrays[name].dtype:
            raise ValueError(f"{where} holds {arrays[name].dtype}: set jax_enable_x64 to read it.")
        leaves.append(from_bits(array, leaf))
    filled = jax.tree.unflatten(jax.tree.structure(abstract), leaves)
    return dataclasses.replace(velocity, network=eqx.combine(filled, rest))


def _alike(one: Any, two: Any) -> bool:
    """Whether two pytrees differ in nothing but the numbers in arrays, and functions."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=False)
    return jax.tree.structure(one) == jax.tree.structure(two) and all(
        x == y for x, y in pairs if isinstance(x, bool | int | float | str)
    )


def _is_array(leaf: Any) -> bool:
    return hasattr(leaf, "shape") and hasattr(leaf, "dtype")


def _shapes(named: dict[str, Any]) -> dict[str, str]:
    return {name: f"an array of shape {tuple(leaf.shape)}" for name, leaf in named.items()}


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name}:{array.dtype}{list(array.shape)}".encode() + array.tobytes())
    return digest.hexdigest()
