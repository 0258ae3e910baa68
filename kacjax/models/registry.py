"""Networks by name, and back from a name with a configuration."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
        return network(**config, rngs=rngs)  # pyright: ignore[reportCallIssue]
    except TypeError as error:
        raise ValueError(f"config does not describe a network {name}: {error}") from error


def blank(make: Callable[[], Network]) -> Network:
    """The network that `make` makes, with zeros for parameters.

    To draw parameters takes a while, above all to compile that, and is in vain where others are
    about to replace them.
    """
    graphdef, parameters = nnx.split(nnx.eval_shape(make))
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), parameters)
    return nnx.merge(graphdef, zeros)
