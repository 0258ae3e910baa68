"""Images from a trained velocity."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8
from jaxtyping import PRNGKeyArray as Key

from experiments.config import SamplingConfig
from experiments.sampling import draw
from kacjax import Velocity
from kacjax.data import to_uint8

CHUNK = 256
"""Images that are generated together."""


def draw_images(
    velocity: Velocity, key: Key, sampling: SamplingConfig, num: int | None = None
) -> tuple[UInt8[np.ndarray, "num height width channels"], int]:
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
    config = velocity.network.config
    num = sampling.num_samples if num is None else num
    labels = in_turn(range(velocity.classes or 0), num)
    shape, chunk = (num, *config["shape"]), min(num, CHUNK)
    samples, nfe = draw(velocity, key, shape, sampling, labels=labels, chunk_size=chunk)
    return to_uint8(samples), nfe


def in_turn(classes: Sequence[int], num: int) -> Int[Array, " num"] | None:
    """A label for each of `num` samples: the classes in turn; none if there are no classes."""
    if not classes:
        return None
    return jnp.asarray(classes, jnp.int32)[jnp.arange(num) % len(classes)]
