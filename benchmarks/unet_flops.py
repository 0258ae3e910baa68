"""Floating-point operations of the U-Net by hand, and the device's peak in matrix products."""

import math
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.common import time_calls


def forward_flops(config: Mapping[str, Any]) -> int:
    """Operations of the matrix products and convolutions for one image, forward.

    A multiplication and an addition count as two; what is elementwise is left out. A training step
    takes three times as many: for each product, one for the gradient of either factor.

    Args:
        config: `UNet.config`.
    """
    height, width, colors = config["shape"]
    channels, blocks, embedding = config["channels"], config["blocks"], 2 * config["channels"]
    levels = [channels * multiplier for multiplier in config["multipliers"]]
    pixels = [height * width // 4**level for level in range(len(levels))]
    attend = [min(height, width) >> i in config["attention"] for i in range(len(levels))]

    def conv(inputs: int, outputs: int, level: int) -> int:
        return 2 * 9 * pixels[level] * inputs * outputs

    def attention(level: int) -> int:
        n, c = pixels[level], levels[level]
        return 2 * n * c * 4 * c + 2 * 2 * n * n * c

    def residual(inputs: int, level: int, attends: bool) -> int:
        outputs = levels[level]
        total = conv(inputs, outputs, level) + conv(outputs, outputs, level)
        total += 2 * embedding * 2 * outputs
        if inputs != outputs:
            total += 2 * pixels[level] * inputs * outputs
        return total + (attention(level) if attends else 0)

    # The time's features: sinusoids, and nine of its logarithm.
    total = 2 * (channels + 9) * embedding + 2 * embedding**2
    total += conv(colors, channels, 0) + conv(levels[0], colors, 0)
    current, skips = channels, [channels]
    for level, outputs in enumerate(levels):
        if level:
            total += conv(current, current, level)
            skips.append(current)
        for _ in range(blocks):
            total += residual(current, level, attend[level])
            current = outputs
            skips.append(current)
    bottom = len(levels) - 1
    total += 2 * residual(current, bottom, False) + attention(bottom)
    for level in reversed(range(len(levels))):
        for _ in range(blocks + 1):
            total += residual(current + skips.pop(), level, attend[level])
            current = levels[level]
        if level:
            total += conv(current, current, level - 1)
    return total


def matrix_peak(dtype: str, seconds: float = 2.0) -> dict[str, float]:
    """Operations per second of square matrix products on random data, for several sides.

    Args:
        dtype: Type of the matrices; what accumulates is float32.
        seconds: Time to spend on each side.
    """
    sides = (512, 1024, 2048) if jax.default_backend() == "cpu" else (4096, 8192, 16384)
    # The same number of operations for each side, so that no call is short.
    counts = {side: max(1, (sides[-1] // side) ** 3) for side in sides}
    return {str(side): _product_speed(side, counts[side], dtype, seconds) for side in sides}


def _product_speed(side: int, count: int, dtype: str, seconds: float) -> float:
    a, b = jax.random.normal(jax.random.key(0), (2, side, side))
    # Products with `b` keep the size of the numbers.
    a, b = a.astype(dtype), (b / math.sqrt(side)).astype(dtype)

    @jax.jit
    def products(a, b):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ b, a)

    elapsed = time_calls({"products": lambda: products(a, b)}, seconds)["products"]
    return 2 * side**3 * count / elapsed
