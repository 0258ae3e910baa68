"""A trained velocity in one small file: parameters in safetensors, all else in its header.

```python
velocity = kacjax.load_velocity("velocity.safetensors")
x = kacjax.generate(velocity, velocity.path, jax.random.key(0), shape=(64, 32, 32, 3))
```

The header's entry `kacjax` is JSON: the format, the network's class and keywords, the path, and
what the network predicts. The entry `digest` tells whether any of it, or a number, has changed.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from kacjax import models
from kacjax._optional import require
from kacjax.checkpoints.leaves import check_kinds, kinds, named_leaves
from kacjax.export.paths import path_from_dict, path_to_dict
from kacjax.training import NetworkVelocity

_FORMAT = "kacjax-velocity-1"


def save_velocity(
    file: str | pathlib.Path, velocity: NetworkVelocity, notes: dict[str, Any] | None = None
) -> None:
    """Writes a velocity, as `fit` returns it; the file appears whole or not at all.

    Args:
        file: Target; replaced if it exists.
        velocity: Its network is one of `kacjax.models`.
        notes: Anything else that JSON can hold, for readers: what it was trained on.

    Raises:
        ValueError: If network or path are not this library's own.
        OSError: If the file cannot be written.
        ImportError: If the extra `images` is not installed.
    """
    safetensors = require("safetensors.numpy", "images")
    network = nnx.merge(velocity.graphdef, velocity.parameters)
    name = type(network).__name__
    if models.MODELS.get(name) is not type(network):
        known = ", ".join(sorted(models.MODELS))
        raise ValueError(f"velocity must be of a network among {known} to be written, got {name}.")
    header = {
        "format": _FORMAT,
        "network": {"class": name, "config": network.config},
        "path": path_to_dict(velocity.path),
        "parameterisation": velocity.parameterisation,
        "notes": notes or {},
    }
    leaves = named_leaves(nnx.to_pure_dict(velocity.parameters))
    arrays = {name: np.array(leaf, order="C") for name, leaf in leaves.items()}
    text = json.dumps(header)
    content = safetensors.save(arrays, {"kacjax": text, "digest": _digest(text, arrays)})
    file = pathlib.Path(file)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def load_velocity(file: str | pathlib.Path) -> NetworkVelocity:
    """Reads a velocity: a function `velocity(t, x)` with its `velocity.path`.

    Raises:
        ValueError: If the file is damaged or not of this kind.
        OSError: If there is no such file, or it cannot be read.
        ImportError: If the extra `images` is not installed.
    """
    header, arrays = _read(file)
    try:
        path = path_from_dict(header["path"])
        network = header["network"]
        model = models.blank(
            lambda: models.rebuild(network["class"], network["config"], nnx.Rngs(0))
        )
        parameterisation = header["parameterisation"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no velocity that this version knows: {error}") from error
    graphdef, parameters = nnx.split(model)
    pure = nnx.to_pure_dict(parameters)
    check_kinds(file, kinds(arrays), kinds(named_leaves(pure)))
    leaves = [jnp.asarray(arrays[name]) for name in named_leaves(pure)]
    nnx.replace_by_pure_dict(parameters, jax.tree.unflatten(jax.tree.structure(pure), leaves))
    return NetworkVelocity(parameters, path, graphdef, parameterisation)


def load_notes(file: str | pathlib.Path) -> dict[str, Any]:
    """What was noted in the file.

    Raises:
        ValueError, OSError, ImportError: As `load_velocity`.
    """
    return _read(file)[0]["notes"]


def _read(file: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    safetensors = require("safetensors", "images")
    try:
        with safetensors.safe_open(file, framework="np") as stream:
            entries = stream.metadata() or {}
            arrays = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged or no safetensors file: {error}") from error
    if "kacjax" not in entries:
        raise ValueError(f"{file} is a safetensors file, but holds no velocity of kacjax.")
    if entries.get("digest") != _digest(entries["kacjax"], arrays):
        raise ValueError(f"{file} is damaged: its content is not what was written.")
    header = json.loads(entries["kacjax"])
    if header.get("format") != _FORMAT:
        raise ValueError(f"{file} has the format {header.get('format')}, wanted is {_FORMAT}.")
    return header, arrays


def _digest(text: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(text.encode())
    for name, kind in sorted(kinds(arrays).items()):
        digest.update(f"{name}:{kind}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
