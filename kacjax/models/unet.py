"""A U-Net for images."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from kacjax._typing import Key
from kacjax._validation import check_choice, check_count, choose
from kacjax.models.layers import (
    ConditionEmbedding,
    GroupNorm,
    Resample,
    ResidualBlock,
    convolution,
)
from kacjax.models.network import MODELS, Network, check_points, positive

_SIZES: dict[str, dict[str, Any]] = {
    "cifar10": {"channels": 128, "multipliers": (1, 2, 2, 2), "blocks": 2, "dropout": 0.1},
    "mnist": {"channels": 64, "multipliers": (1, 2, 2), "blocks": 2, "dropout": 0.1},
    "tiny": {"channels": 8, "multipliers": (1, 2, 4), "blocks": 1, "attention": ()},
}


def unet_size(name: str) -> dict[str, Any]:
    """Keywords of `UNet` for a named size.

    | name | for images | parameters, without classes |
    | --- | --- | ---: |
    | `cifar10` | 32x32x3, the size of the paper | 35,526,531 |
    | `mnist` | 28x28x1 | 6,416,193 |
    | `tiny` | any whose sides 4 divides; for tests and two CPU cores | 160,227 for 32x32x3 |

    Raises:
        ValueError: If the name is not one of these.

    Example:
        >>> kacjax.models.unet_size("mnist")["multipliers"]
        (1, 2, 2)
    """
    return dict(choose("name", name, _SIZES))


class UNet(Network):
    r"""U-Net `network(t, x, label=None, *, key=None)` for images `(batch, height, width, colors)`.

    An encoder of `len(multipliers)` levels, each of `blocks` residual blocks and half the
    resolution of the one before; a middle of two residual blocks with attention between; a
    decoder of `blocks + 1` residual blocks a level, each of which sees the map that the encoder
    made there, last one first. The time, and the class where there are any, scale and shift the
    normalized maps of every residual block. At initialization the output is zero.

    Parameters are float32; convolutions and matrix products compute in `dtype`, normalization,
    softmax and the embedding of the time in float32. With `c` for `channels`, a residual block
    from `i` to `o` channels has $9 i o + 9 o^2 + 2 i + 6 o + 4 c o$ parameters, and $i o + o$ more
    where `i` is not `o`; attention has $4 o^2 + 6 o$, a change of resolution $9 o^2 + 3 o$.

    Args:
        shape: `(height, width, colors)` of an image; `2**(len(multipliers) - 1)` must divide the
            sides.
        rngs: Random streams for initialization.
        channels: Channels of the first level, even.
        multipliers: Channels of each level in units of `channels`.
        blocks: Residual blocks a level.
        attention: Resolutions with self-attention after each residual block, in pixels of the
            shorter side of the feature map: 16 means 16x16. By default that of the levels which is
            nearest to 16, if it lies in 8 to 32. The middle has attention always.
        head_channels: Channels of an attention head; by default 64, or the most that divide the
            channels.
        dropout: Share of numbers dropped in each residual block where a call has a `key`.
        classes: Number of classes; without it the network knows no labels.
        T: Final time of the path, the unit of `t`.
        dtype: Compute type, `float32` or `bfloat16`.
        remat: Whether to compute residual blocks again in the backward pass instead of keeping
            what they computed: less memory, about a third more time.

    Raises:
        ValueError: If a number is out of its range, does not divide another, or `attention` names
            a resolution that no level has; in a call, if a shape or label does not fit.

    Sources: Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, arXiv 2105.05233;
    Ho et al., *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239.

    Example:
        >>> size = kacjax.models.unet_size("tiny")
        >>> network = kacjax.models.UNet((8, 8, 1), rngs=nnx.Rngs(0), **size)
        >>> network(jnp.ones(2), jnp.ones((2, 8, 8, 1))).shape
        (2, 8, 8, 1)
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        rngs: nnx.Rngs,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        head_channels: int | None = None,
        dropout: float = 0.0,
        classes: int | None = None,
        T: float = 1.0,
        dtype: DTypeLike = "float32",
        remat: bool = False,
    ):
        sides = _sides(shape, multipliers)
        check_count("channels", channels)
        check_count("blocks", blocks)
        if channels % 2:
            # There are as many sinusoids of the time, half of them sines and half cosines.
            raise ValueError(f"channels must be even, got {channels}.")
        widths = [channels * multiplier for multiplier in multipliers]
        attention = _attention(attention, sides)
        attends = [side in attention for side in sides]
        attended = [w for w, attend in zip(widths, attends, strict=True) if attend] + widths[-1:]
        head_channels = math.gcd(64, *attended) if head_channels is None else head_channels
        check_count("head_channels", head_channels)
        if any(width % head_channels for width in attended):
            raise ValueError(
                f"head_channels must divide the channels of maps with attention, "
                f"{', '.join(map(str, attended))}; got {head_channels}."
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        T = positive("T", T)
        dtype = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
        check_choice("dtype", dtype, ("float32", "bfloat16"))
        self.remember(UNet.__init__, locals())
        self.shape, self.dtype, self.remat = tuple(shape), dtype, remat
        embedding = 2 * channels
        self.condition = ConditionEmbedding(channels, embedding, T=T, classes=classes, rngs=rngs)
        options = {"dtype": jnp.dtype(dtype), "rngs": rngs}

        def residual(inputs: int, outputs: int, attend: bool) -> ResidualBlock:
            heads = outputs // head_channels if attend else 0
            return ResidualBlock(inputs, outputs, embedding, dropout, heads, **options)

        current = channels
        self.first = convolution(shape[-1], channels, **options)
        skips, encoder, decoder = [channels], [], []
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            if level:
                encoder.append(Resample(current, up=False, **options))
                skips.append(current)
            for _ in range(blocks):
                encoder.append(residual(current, width, attend))
                current = width
                skips.append(current)
        middle = [residual(current, current, attend) for attend in (True, False)]
        for level in reversed(range(len(widths))):
            for _ in range(blocks + 1):
                decoder.append(residual(current + skips.pop(), widths[level], attends[level]))
                current = widths[level]
            if level:
                decoder.append(Resample(current, up=True, **options))
        self.encoder, self.middle = nnx.List(encoder), nnx.List(middle)
        self.decoder = nnx.List(decoder)
        self.norm = GroupNorm(current)
        self.last = convolution(current, shape[-1], zero=True, **options)

    def __call__(
        self,
        t: Float[Array, " batch"],
        x: Float[Array, "batch height width colors"],
        label: Int[Array, " batch"] | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "batch height width colors"]:
        """What is learned, in the type of `x`, float32 at least; see `kacjax.models`."""
        t, x = check_points(t, x, self.shape)
        time = self.condition(t.astype(jnp.float32), label)
        block = nnx.remat(ResidualBlock.__call__) if self.remat else ResidualBlock.__call__
        h = self.first(x.astype(self.dtype))
        skips, count = [h], 0

        def apply(layer: ResidualBlock | Resample, h: Array) -> Array:
            nonlocal count
            if isinstance(layer, Resample):
                return layer(h)
            count += 1
            return block(layer, h, time, None if key is None else jax.random.fold_in(key, count))

        for layer in self.encoder:
            h = apply(layer, h)
            skips.append(h)
        for layer in self.middle:
            h = apply(layer, h)
        for layer in self.decoder:
            if isinstance(layer, ResidualBlock):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = apply(layer, h)
        return self.last(jax.nn.silu(self.norm(h))).astype(x.dtype)


def _sides(shape: Sequence[int], multipliers: Sequence[int]) -> list[int]:
    """The resolution of each level, by the shorter side, of sides that can be halved so often."""
    if len(shape) != 3 or not multipliers:
        raise ValueError(
            "shape must be (height, width, colors), and multipliers must hold a positive integer "
            f"for each level; got {tuple(shape)} and {tuple(multipliers)}."
        )
    for name, values in (("shape", shape), ("multipliers", multipliers)):
        for value in values:
            check_count(f"{name}, each number,", value)
    factor = 2 ** (len(multipliers) - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"shape must have sides that {factor} divides, for {len(multipliers)} levels; "
            f"got {tuple(shape)}."
        )
    return [min(shape[:2]) // 2**level for level in range(len(multipliers))]


def _attention(attention: Sequence[int] | None, sides: Sequence[int]) -> tuple[int, ...]:
    """The resolutions with attention: those that were given, or the default."""
    if attention is None:
        nearest = min(sides, key=lambda side: abs(math.log(side / 16)))
        return (nearest,) if 8 <= nearest <= 32 else ()
    for resolution in attention:
        if resolution not in sides:
            raise ValueError(
                f"attention must name resolutions of the levels, {', '.join(map(str, sides))}; "
                f"got {resolution}."
            )
    return tuple(attention)


MODELS["UNet"] = UNet
