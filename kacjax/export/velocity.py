"""A trained velocity in one small file: parameters in safetensors, all else in its header.

```python
velocity = kacjax.load_velocity("velocity.safetensors")
x = kacjax.generate(velocity, velocity.path, jax.random.key(0), shape=(64, 32, 32, 3))
```

The header's entry `kacjax` is a digest, a blank, and JSON: the format, the network's class and
keywords, the path, what the network predicts, and notes. The digest tells whether any of it, or a
number, has changed.
"""

import pathlib
from typing import Any

from flax import nnx

from kacjax import models
from kacjax.export.file import fill, read_file, write_file
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
    """
    network = nnx.merge(velocity.graphdef, velocity.parameters)
    name = type(network).__name__
    if models.MODELS.get(name) is not type(network):
        known = ", ".join(sorted(models.MODELS))
        raise ValueError(f"velocity must be of a network among {known} to be written, got {name}.")
    header = {
        "network": {"class": name, "config": network.config},
        "path": path_to_dict(velocity.path),
        "parameterisation": velocity.parameterisation,
        "notes": notes or {},
    }
    write_file(file, _FORMAT, header, velocity.parameters)


def load_velocity(file: str | pathlib.Path) -> NetworkVelocity:
    """Reads a velocity: a function `velocity(t, x)` with its `velocity.path`.

    Raises:
        ValueError: If the file is damaged or not of this kind.
        OSError: If there is no such file, or it cannot be read.
    """
    header, arrays = read_file(file, _FORMAT)
    try:
        path = path_from_dict(header["path"])
        network = header["network"]
        model = models.blank(
            lambda: models.rebuild(network["class"], network["config"], nnx.Rngs(0))
        )
        parameterisation = header["parameterisation"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file} holds no velocity that this version knows: {error}") from error
    graphdef, parameters = fill(file, model, arrays)
    return NetworkVelocity(parameters, path, graphdef, parameterisation)


def load_notes(file: str | pathlib.Path) -> dict[str, Any]:
    """What was noted in the file.

    Raises:
        ValueError, OSError, ImportError: As `load_velocity`.
    """
    return read_file(file, _FORMAT)[0]["notes"]
