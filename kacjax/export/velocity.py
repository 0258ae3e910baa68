"""A trained velocity in one small file: arrays in safetensors, all else in its header.

The header's entry `kacjax` is a digest, a blank, and JSON: the format, the class and the config of
the network, the path, what the network predicts, and notes.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
from flax import linen, nnx, traverse_util

from kacjax.export.file import Arrays, fill, named_arrays, read_file, write_file
from kacjax.export.registry import class_name, find_class, path_from_dict, path_to_dict
from kacjax.velocity import LinenNetwork, NNXNetwork, Velocity, wrap_network

_FORMAT = "kacjax-velocity-2"
_NAME = "velocity.safetensors"


def save_velocity(
    file: str | pathlib.Path, velocity: Callable[..., Any], notes: dict[str, Any] | None = None
) -> None:
    """Writes a velocity, as `fit` returns it; the file appears whole or not at all.

    Args:
        file: Target; replaced if it exists.
        velocity: A `kacjax.Velocity`, whose network and parts of the path are this library's or of
            classes that are registered, see `register`.
        notes: Anything else that JSON can hold, for readers: what it was trained on.

    Raises:
        ValueError: If it is no such velocity, or what would be written does not make it again.
        OSError: If the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/velocity.safetensors"
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=16)
        >>> velocity = kacjax.Velocity(network, kacjax.kac_path())
        >>> kacjax.save_velocity(file, velocity, {"data": "moons"})
        >>> kacjax.load_velocity(file).path.process
        KacProcess(a=9.0, c=3.0)
    """
    if not isinstance(velocity, Velocity):
        raise ValueError(f"velocity must be a kacjax.Velocity, as of fit, got {velocity!r:.100}.")
    network = module = velocity.network
    if isinstance(network, NNXNetwork):
        module = nnx.merge(network.graphdef, network.params, network.rest)
    elif isinstance(network, LinenNetwork):
        module = network.module
    name, config = class_name("velocity.network", module), getattr(module, "config", None)
    header = {
        "network": {"class": name, "config": config},
        "path": path_to_dict(velocity.path),
        "prediction": velocity.prediction,
        "classes": velocity.classes,
        "notes": notes or {},
    }
    try:
        header = json.loads(json.dumps(header))
    except (TypeError, ValueError) as error:
        raise ValueError(f"config and notes must be what JSON can hold: {error}") from error
    arrays = named_arrays(network)
    # What could not be read again must not be written.
    for mode in ("train", "eval"):
        header["network"]["mode"] = mode
        if _alike(_make("what would be written", header, arrays), velocity):
            return write_file(file, _FORMAT, header, arrays)
    raise ValueError(
        f"{name}.config must be all that it takes to make the network again, but {config!r:.300} "
        "makes another."
    )


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
        ValueError: file must be a file or a folder that holds velocity.safetensors, got /.
    """
    file = _find(file)
    return _make(str(file), *read_file(file, _FORMAT))


def load_notes(file: str | pathlib.Path) -> dict[str, Any]:
    """The notes that were saved with a velocity; `file` and errors are those of `load_velocity`.

    Example:
        >>> import tempfile
        >>> file = tempfile.mkdtemp() + "/velocity.safetensors"
        >>> velocity = kacjax.Velocity(kacjax.models.MLP(2, rngs=nnx.Rngs(0)), kacjax.kac_path())
        >>> kacjax.save_velocity(file, velocity, {"data": "moons"})
        >>> kacjax.export.load_notes(file)
        {'data': 'moons'}
    """
    file = _find(file)
    notes = read_file(file, _FORMAT)[0].get("notes")
    if not isinstance(notes, dict):
        raise ValueError(f"{file} must have notes that are a dictionary, got {notes!r:.100}.")
    return notes


def _find(file: str | pathlib.Path) -> pathlib.Path:
    file = pathlib.Path(file)
    if file.is_dir() and not (file / _NAME).exists():
        raise ValueError(f"file must be a file or a folder that holds {_NAME}, got {file}.")
    return file / _NAME if file.is_dir() else file


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


def _make(where: str, header: dict[str, Any], arrays: Arrays) -> Velocity:
    """The velocity that a header describes; shapes are compared before arrays are made."""
    try:
        values, path = header["network"], path_from_dict(header["path"])
        cls, config, frozen = (
            find_class(values["class"]),
            values["config"],
            values["mode"] == "eval",
        )
        if issubclass(cls, linen.Module):
            variables = {tuple(name.split(".")[1:]): array for name, array in arrays.items()}
            network = LinenNetwork(traverse_util.unflatten_dict(variables), cls(**config))
        elif issubclass(cls, nnx.Module):
            nnx.eval_shape(lambda: cls(**config, rngs=_FewKeys(100 + 10 * len(arrays))))
            module = nnx.eval_shape(lambda: cls(**config, rngs=nnx.Rngs(0)))
            if frozen:
                module.eval()
            # What was trained is what the file calls so.
            is_param = lambda path, _: ".".join(["params", *map(str, path)]) in arrays  # noqa: E731
            network = wrap_network(module, is_param)
        else:
            network = eqx.filter_eval_shape(lambda key: cls(**config, key=key), jax.random.key(0))
            network = eqx.nn.inference_mode(network) if frozen else network
        velocity = Velocity(network, path, header["prediction"], header["classes"])
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"{where} describes no velocity: {error!s:.1000}") from error
    return dataclasses.replace(velocity, network=fill(where, network, arrays))


def _alike(one: Any, two: Any) -> bool:
    """Whether two pytrees differ in nothing but the numbers in arrays, and functions."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=False)
    return jax.tree.structure(one) == jax.tree.structure(two) and all(
        x == y for x, y in pairs if isinstance(x, bool | int | float | str)
    )
