"""Images from a trained velocity."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments.config import SamplingConfig
from experiments.sampling import draw, network
from kacjax._typing import Key
from kacjax.data import to_uint8
from kacjax.training import NetworkVelocity

# Images that are generated together.
_CHUNK = 256


def draw_images(
    velocity: NetworkVelocity, key: Key, sampling: SamplingConfig, num: int | None = None
) -> tuple[UInt8[np.ndarray, "num height width colours"], int]:
    """Images as bytes, and how often the network was evaluated for each.

    A network that knows classes draws them in turn.

    Args:
        velocity: The velocity.
        key: Random key.
        sampling: How to generate.
        num: How many, if not as many as `sampling` says.

    Raises:
        UserError: If the solver diverged.
    """
    config = network(velocity).config
    sampling = sampling if num is None else dataclasses.replace(sampling, num_samples=num)
    num, labels = sampling.num_samples, None
    if config["classes"]:
        labels = jnp.arange(num, dtype=jnp.int32) % config["classes"]
    shape, chunk = (num, *config["shape"]), min(num, _CHUNK)
    samples, nfe = draw(velocity, key, shape, sampling, labels=labels, chunk_size=chunk)
    return to_uint8(samples), nfe
