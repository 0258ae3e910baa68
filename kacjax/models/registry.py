"""Networks by name, and back from a name with a configuration."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from kacjax._validation import choose
from kacjax.models.base import Network
from kacjax.models.mlp import MLP
from kacjax.models.unet import UNet

MODELS: dict[str, type[Network]] = {"MLP": MLP, "UNet": UNet}
"""Every network that an exported file can name."""


def rebuild(name: str, config: Mapping[str, Any], rngs: nnx.Rngs) -> Network:
    """A network of the structure that `config` describes, with fresh parameters.

    Args:
        name: Class name, a key of `MODELS`; `type(model).__name__` of the original.
        config: The original's `config`.
        rngs: Random streams for initialisation.

    Raises:
        ValueError: If no network has that name, or the configuration does not fit it.
    """
    network = choose("name", name, MODELS)
    try:
        return network(**config, rngs=rngs)
    except TypeError as error:
        raise ValueError(f"config does not describe a network {name}: {error}") from error
