"""The random bits and normal variables of `jax.random`, faster on CPUs.

JAX draws them by the counter-based generator Threefry-2x32 (J. K. Salmon, M. A. Moraes, R. O. Dror,
D. E. Shaw, *Parallel random numbers: as easy as 1, 2, 3*, SC 2011): twenty rounds that add, rotate
and mix a key into the index of each value. On CPUs it runs them as a loop over whole arrays, which
go through memory every time, and that takes most of a noise sample. Here the rounds are unrolled, so
that the compiler makes one pass of them and of what uses the values.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from kacjax._typing import Array, Float, Key, Shape, UInt32

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def bits(key: Key, shape: Shape) -> UInt32[Array, "..."]:
    """Random bits: those of `jax.random.bits(key, shape)`, 32 for each value.

    Other generators than Threefry, and counts that need 64 bits, are left to JAX.
    """
    if not _is_known(key, shape):
        return jax.random.bits(key, shape)
    index = jnp.zeros(shape, jnp.uint32)
    for axis in range(len(shape)):
        stride = np.uint32(math.prod(shape[axis + 1 :]) % 2**32)
        index += stride * lax.broadcasted_iota(jnp.uint32, shape, axis)
    words = jax.random.key_data(key)
    high, low = _threefry(words[0], words[1], jnp.zeros(shape, jnp.uint32), index)
    return high ^ low


def normal(key: Key, shape: Shape, dtype: jnp.dtype) -> Float[Array, "..."]:
    """Standard normal variables: those of `jax.random.normal`, to rounding."""
    if dtype != jnp.float32 or not _is_known(key, shape):
        return jax.random.normal(key, shape, dtype)
    return _normal(key, tuple(shape))


def _is_known(key: Key, shape: Shape) -> bool:
    """Whether JAX draws so many bits by Threefry, each from its own index."""
    partitionable = jax.config.jax_threefry_partitionable  # pyright: ignore[reportAttributeAccessIssue]
    return (
        partitionable
        and jax.random.key_impl(key) == "threefry2x32"
        and jax.random.key_data(key).shape == (2,)
        and all(isinstance(size, int | np.integer) for size in shape)
        and math.prod(shape) < 2**32
    )


@partial(jax.jit, static_argnums=1)
def _normal(key: Key, shape: Shape) -> Float[Array, "..."]:
    def draw(key):
        # 23 bits are the mantissa of a number in [1, 2), which becomes one in (-1, 1).
        mantissa = (bits(key, shape) >> 9) | np.uint32(0x3F800000)
        unit = lax.bitcast_convert_type(mantissa, jnp.float32)
        least = np.nextafter(np.float32(-1), np.float32(0))
        level = jnp.maximum((unit - 1) * (np.float32(1) - least) + least, least)
        return np.float32(np.sqrt(2)) * lax.erf_inv(level)

    def draw_once(key):
        # XLA would repeat the rounds in all that reads their result. It does not look into a
        # branch; that this one is always taken it does not see. (With a batch of keys under `vmap`
        # both are computed, and the rounds are repeated.) The other one depends on the key too,
        # because both must vary over the same devices.
        word = jax.random.key_data(key)[0]
        other = lax.bitcast_convert_type(word, jnp.float32)
        return lax.cond((word | 1) > 0, draw, lambda _: jnp.broadcast_to(other, shape), key)

    # Elsewhere JAX unrolls the rounds itself, or has a kernel for them.
    return lax.platform_dependent(
        key, cpu=draw_once, default=lambda key: jax.random.normal(key, shape, jnp.float32)
    )


def _threefry(first: Array, second: Array, high: Array, low: Array) -> tuple[Array, Array]:
    keys = (first, second, first ^ second ^ _PARITY)
    high, low = high + first, low + second
    for turn in range(5):
        for distance in _ROTATIONS[turn % 2]:
            high += low
            low = high ^ (low << np.uint32(distance) | low >> np.uint32(32 - distance))
        high += keys[(turn + 1) % 3]
        low += keys[(turn + 2) % 3] + np.uint32(turn + 1)
    return high, low
