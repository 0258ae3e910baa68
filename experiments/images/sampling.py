"""Images from a trained velocity."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from experiments.config import SamplingConfig
from experiments.sampling import Labelled, draw, network
from kacjax._typing import Key
from kacjax.data import to_uint8
from kacjax.training import NetworkVelocity


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
    function = velocity
    if config["classes"]:
        label = jnp.arange(sampling.num_samples, dtype=jnp.int32) % config["classes"]
        function = Labelled(velocity, label)
    shape = (sampling.num_samples, *config["shape"])
    samples, nfe = draw(function, velocity.path, key, shape, sampling)
    return to_uint8(samples), nfe
