r"""Batches of a set on the device, as a function of seed and step alone.

The rows form one endless stream: epoch after epoch, each a fresh permutation of the set. The
permutation is not stored. Position $r$ of an epoch is written as a pair
$(l, r) \in \mathbb Z_A \times \mathbb Z_B$ with $AB \ge n$, and passes through rounds

$$ l \leftarrow l + h(r \oplus k_i) \bmod A, \qquad r \leftarrow r + h(l \oplus k_{i+1}) \bmod B $$

with an integer hash $h$ and the epoch's keys $k_i$. Each round is a bijection. A result beyond $n$
is sent through the rounds again until it lies within, which is a bijection of $\{0, ..., n - 1\}$.
A batch costs work in proportion to its own size, on any device, without a loader or its state.

Source: J. Black, P. Rogaway, *Ciphers with arbitrary finite domains*, CT-RSA 2002, sections 3, 4.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32, Integer, Num, UInt32

from kacjax._typing import Key
from kacjax._validation import check_count
from kacjax.data.images import to_float

LARGEST_SET = 2**30 - 1
"""More rows than this would overflow 32-bit arithmetic."""
LAST_STEP = 2**32 - 1
"""Steps are unsigned numbers of 32 bits."""

# Enough that the orders of very small sets are evenly distributed; large ones need fewer.
_ROUNDS = 24
_ROUNDS_OF_LARGE = 12
_LARGE = 1000
_IMAGE_RANK = 4


def epoch_rows(
    key: Key, step: int | np.integer | Integer[Array, ""], batch_size: int, num: int
) -> Int32[Array, " {batch_size}"]:
    """The rows of batch `step` of an endless stream whose every epoch is a new permutation.

    Batch `step` holds the positions `step * batch_size` to `(step + 1) * batch_size - 1` of the
    stream, so that a batch may straddle epochs, and two batches of one size are one of twice the
    size. The arithmetic is exact without 64-bit integers; epochs count modulo 2^32.

    Args:
        key: Random key of the stream.
        step: Number of the batch, from 0 to 2^32 - 1; may be traced.
        batch_size: Rows to a batch; static.
        num: Rows of the set, below 2^30; static.

    Raises:
        ValueError: If a size or `step` is out of range.
    """
    return _draw(key, step, batch_size, num)[0]


def draw_batch(
    images: Num[Array, "num *event"] | np.ndarray,
    key: Key,
    step: int | np.integer | Integer[Array, ""],
    batch_size: int,
    *,
    flip: bool = False,
    labels: Integer[Array, " num"] | np.ndarray | None = None,
) -> tuple[Float[Array, "{batch_size} *event"], Integer[Array, " {batch_size}"] | None]:
    """Batch `step` of a set that lies on the device, see `epoch_rows`.

    Args:
        images: Bytes, which are scaled to `[-1, 1]`, or floats, which pass as they are.
        key: Random key of the stream.
        step: Number of the batch, from 0 to 2^32 - 1; may be traced.
        batch_size: Static.
        flip: Mirror each image left to right with probability one half. Whether it is mirrored
            depends on the key, the epoch and the image alone.
        labels: The class of each row of `images`.

    Returns:
        The batch as floats, and its labels or None.

    Raises:
        ValueError: If the shapes or types do not fit, or a number is out of range.
    """
    images = jnp.asarray(images)
    floats = jnp.issubdtype(images.dtype, jnp.floating)
    if images.ndim == 0 or not (floats or images.dtype == jnp.uint8):
        raise ValueError(
            "images must be uint8 or floats of shape (num, ...), "
            f"got {images.dtype} of shape {images.shape}."
        )
    if flip and images.ndim != _IMAGE_RANK:
        raise ValueError(
            f"flip needs images of shape (num, height, width, channels), got {images.shape}."
        )
    if labels is not None and labels.shape != images.shape[:1]:
        raise ValueError(
            f"labels must have the shape {images.shape[:1]} of the rows of images, "
            f"got {labels.shape}."
        )
    rows, mirrored = _draw(key, step, batch_size, images.shape[0])
    batch = _take(images, rows)
    if flip:
        batch = jnp.where(mirrored[:, None, None, None], batch[:, :, ::-1], batch)
    drawn = None if labels is None else _take(jnp.asarray(labels), rows)
    return (batch if floats else to_float(batch)), drawn


def _take(array: Array, rows: Array) -> Array:
    return array.at[rows].get(mode="promise_in_bounds")


def _draw(
    key: Key, step: Any, batch: int, num: int
) -> tuple[Int32[Array, " b"], Bool[Array, " b"]]:
    """The rows of a batch, and a fair coin for each that depends on its epoch and row."""
    check_count("batch_size", batch)
    check_count("num", num)
    if max(num, batch) > LARGEST_SET:
        raise ValueError(f"num and batch_size must lie below 2^30, got {num} and {batch}.")
    if isinstance(step, int | np.integer):
        check_count("step", step, 0)
        if step > LAST_STEP:
            raise ValueError(f"step must be at most 2^32 - 1, got {step}.")
        step = np.uint32(step)
    return _compiled(key, jnp.asarray(step).astype(jnp.uint32), batch, num)


@partial(jax.jit, static_argnums=(2, 3))
def _compiled(
    key: Key, step: UInt32[Array, ""], batch: int, num: int
) -> tuple[Int32[Array, " b"], Bool[Array, " b"]]:
    epoch, first = _locate(step, batch, num)
    # A batch begins at a multiple of the common divisor, which bounds the epochs that it meets.
    epochs = 1 + (num - math.gcd(num, batch) + batch - 1) // num
    rounds = _ROUNDS if num < _LARGE else _ROUNDS_OF_LARGE
    of_epoch = lambda e: jax.random.fold_in(key, e)  # noqa: E731
    keys = jax.vmap(lambda e: jax.random.bits(of_epoch(e), (rounds + 2,), jnp.uint32))(
        epoch + jnp.arange(epochs, dtype=jnp.uint32)
    )
    position = first + jnp.arange(batch, dtype=jnp.uint32)
    keys = _take(keys, position // num).T
    rows = _permute(position % num, keys[:-2], num)
    coin = _hash(_hash(rows ^ keys[-2]) ^ keys[-1]) >> 31
    return rows.astype(jnp.int32), coin.astype(bool)


def _locate(
    step: UInt32[Array, "..."], batch: int, num: int
) -> tuple[UInt32[Array, "..."], UInt32[Array, "..."]]:
    """`divmod(step * batch, num)`, of which the product needs more than 32 bits."""
    # Long division: the batch size enters in digits so short that remainder and digit, times
    # what they are multiplied by, stay below 2^31 each.
    width = 31 - num.bit_length()
    digits = [batch >> shift & (1 << width) - 1 for shift in range(0, batch.bit_length(), width)]
    epoch, row = step // num * batch, jnp.zeros_like(step)
    quotient = jnp.zeros_like(step)
    for digit in reversed(digits):
        value = (row << width) + step % num * digit
        quotient, row = (quotient << width) + value // num, value % num
    return epoch + quotient, row


def _halves(num: int) -> tuple[int, int]:
    """Two sizes near the root of `num`, whose product is `num` or little more; one of them even.

    Rotations of odd sizes are even permutations: with two of them half of all would be missing.
    """
    root = math.isqrt(num)
    if num % 2 == 0:
        for size in range(root, root // 2, -1):
            if num % size == 0:
                return num // size, size
    size = root + 2 - root % 2
    return size, -(-num // size)


def _permute(
    x: UInt32[Array, " b"], keys: UInt32[Array, "rounds b"], num: int
) -> UInt32[Array, " b"]:
    """A bijection of the numbers below `num`; each number has its own column of keys."""
    a, b = _halves(num)

    def through_rounds(x: Array) -> Array:
        left, right = x // b, x % b
        for i in range(0, len(keys), 2):
            left = (left + _hash(right ^ keys[i]) % a) % a
            right = (right + _hash(left ^ keys[i + 1]) % b) % b
        return left * b + right

    x = through_rounds(x)
    if a * b == num:
        return x
    return jax.lax.while_loop(
        lambda x: jnp.any(x >= num), lambda x: jnp.where(x >= num, through_rounds(x), x), x
    )


def _hash(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A bijection of 32 bits in which each input bit turns each output bit with even odds.

    Source: C. Wellons, *Prospecting for hash functions* (2018), the function `lowbias32`.
    """
    x = (x ^ x >> 16) * np.uint32(0x7FEB352D)
    x = (x ^ x >> 15) * np.uint32(0x846CA68B)
    return x ^ x >> 16
