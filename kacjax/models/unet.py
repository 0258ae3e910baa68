"""A U-Net for images."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from kacjax._typing import Key
from kacjax._validation import check_choice, check_count, check_positive
from kacjax.models.base import Network
from kacjax.models.blocks import Resample, ResidualBlock, convolution
from kacjax.models.embeddings import ConditionEmbedding
from kacjax.models.normalisation import GroupNorm

COMPUTE_TYPES = ("float32", "bfloat16")


class UNet(Network):
    r"""U-Net `model(t, x, label=None, *, key=None)` for images `(batch, height, width, colours)`.

    An encoder of `len(multipliers)` levels, each of `blocks` residual blocks and half the
    resolution of the one before; a middle of two residual blocks with attention between; a
    decoder of `blocks + 1` residual blocks a level, each of which sees the map that the encoder
    made there, last one first. Level `i` has `channels * multipliers[i]` channels. The time, and
    the class where there are any, scale and shift the normalised maps of every residual block.
    At initialisation the output is zero.

    Parameters are float32. Convolutions and matrix products compute in `dtype`; normalisation,
    softmax, the embedding of the time and the output are float32.

    The size `cifar10` of `unet_size` has 35,526,531 parameters for 32x32x3 without classes. Of a
    residual block from `i` to `o` channels they are $9 i o + 9 o^2 + 2 i + 518 o$ (two 3x3
    convolutions, two norms, the map of the 256 numbers of the embedding to scale and shift), and
    $i o + o$ more where `i` is not `o`; of attention $4 c^2 + 6 c$; of a change of resolution
    $9 c^2 + 3 c$:

    | part | from and to, times | parameters |
    | --- | --- | ---: |
    | time embedding | 137 to 256 to 256 | 101,120 |
    | first and last convolution, last norm | 3 to 128, 128 to 3 | 7,299 |
    | encoder | 128 to 128 (2), 128 to 256, 256 to 256 (5) | 8,337,408 |
    | middle | 256 to 256 (2), attention | 2,889,216 |
    | decoder | 512 to 256 (8), 384 to 256, 384 to 128, 256 to 128 (2) | 19,772,288 |
    | attention at 16x16 | 256 (5) | 1,318,400 |
    | changes of resolution | 128, 256 (5) | 3,100,800 |

    Args:
        shape: `(height, width, colours)` of an image; `2**(len(multipliers) - 1)` must divide the
            sides.
        rngs: Random streams for initialisation.
        channels: Channels of the first level, even.
        multipliers: Channels of each level in units of `channels`.
        blocks: Residual blocks a level.
        attention: Resolutions with self-attention after each residual block, in pixels of the
            shorter side of the feature map: 16 means 16x16. The middle has attention always.
        head_channels: Channels of an attention head.
        dropout: Share of numbers dropped in each residual block where a call has a `key`.
        classes: Number of classes; without it the network knows no labels.
        T: Final time of the path, the unit of `t`.
        dtype: Compute type, `float32` or `bfloat16`.
        remat: Whether to compute residual blocks again in the backward pass instead of keeping
            what they computed: less memory, about a third more time.

    Raises:
        ValueError: If a number is out of its range or does not divide another, or `attention`
            names a resolution that no level has.

    Sources: Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, arXiv 2105.05233;
    Ho et al., *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        rngs: nnx.Rngs,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        head_channels: int = 64,
        dropout: float = 0.0,
        classes: int | None = None,
        T: float = 1.0,
        dtype: str = "float32",
        remat: bool = False,
    ):
        sides = _check_shape(shape, multipliers)
        for name, value in (("channels", channels), ("blocks", blocks)):
            check_count(name, value)
        if channels % 2:
            # There are as many sinusoids of the time, half of them sines and half cosines.
            raise ValueError(f"channels must be even, got {channels}.")
        _check_attention(attention, sides, channels, multipliers, head_channels)
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        check_positive("T", T)
        check_choice("dtype", dtype, COMPUTE_TYPES)
        self.remember(
            shape=shape,
            channels=channels,
            multipliers=multipliers,
            blocks=blocks,
            attention=attention,
            head_channels=head_channels,
            dropout=dropout,
            classes=classes,
            T=T,
            dtype=dtype,
            remat=remat,
        )
        self.shape, self.dtype, self.remat = tuple(shape), dtype, remat
        width = 2 * channels
        self.condition = ConditionEmbedding(channels, width, T=T, classes=classes, rngs=rngs)

        def residual(inputs: int, outputs: int, attend: bool) -> ResidualBlock:
            heads = head_channels if attend else None
            return ResidualBlock(inputs, outputs, width, dropout, heads, dtype=dtype, rngs=rngs)

        current = channels
        self.first = convolution(shape[-1], channels, 3, dtype=dtype, rngs=rngs)
        skips = [channels]
        encoder: list[nnx.Module] = []
        levels = list(enumerate(zip(sides, multipliers, strict=True)))
        for level, (side, multiplier) in levels:
            if level:
                encoder.append(Resample(current, up=False, dtype=dtype, rngs=rngs))
                skips.append(current)
            for _ in range(blocks):
                encoder.append(residual(current, channels * multiplier, side in attention))
                current = channels * multiplier
                skips.append(current)
        middle = [residual(current, current, attend) for attend in (True, False)]
        decoder: list[nnx.Module] = []
        for level, (side, multiplier) in reversed(levels):
            for _ in range(blocks + 1):
                outputs = channels * multiplier
                decoder.append(residual(current + skips.pop(), outputs, side in attention))
                current = outputs
            if level:
                decoder.append(Resample(current, up=True, dtype=dtype, rngs=rngs))
        self.encoder, self.middle = nnx.List(encoder), nnx.List(middle)
        self.decoder = nnx.List(decoder)
        self.norm = GroupNorm(current)
        self.last = convolution(current, shape[-1], 3, dtype=dtype, rngs=rngs, zero=True)

    def __call__(
        self,
        t: Float[Array, " batch"],
        x: Float[Array, "batch height width colours"],
        label: Int[Array, " batch"] | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "batch height width colours"]:
        """The velocity, or whatever is trained, at images `x` and times `t`; float32.

        Args:
            t: Times in `[0, T]`.
            x: Images.
            label: Classes from 0 up; `classes` stands for none, as does no `label`.
            key: Random key of the dropout; without one nothing is dropped.

        Raises:
            ValueError: If `x` has another shape than the network, or labels are out of range.
        """
        if x.shape[1:] != self.shape:
            raise ValueError(f"x must have shape (batch, *{self.shape}), got {x.shape}.")
        time = self.condition(t.astype(jnp.float32), label)
        h = self.first(x.astype(self.dtype))
        skips, count = [h], 0

        def apply(layer: Any, h: Array) -> Array:
            nonlocal count
            if isinstance(layer, Resample):
                return layer(h)
            count += 1
            block_key = None if key is None else jax.random.fold_in(key, count)
            function = nnx.remat(_apply) if self.remat else _apply
            return function(layer, h, time, block_key)

        for layer in self.encoder:
            h = apply(layer, h)
            skips.append(h)
        for layer in self.middle:
            h = apply(layer, h)
        for layer in self.decoder:
            if not isinstance(layer, Resample):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
            h = apply(layer, h)
        return self.last(jax.nn.silu(self.norm(h))).astype(jnp.float32)


def _apply(block: ResidualBlock, h: Array, time: Array, key: Key | None) -> Array:
    return block(h, time, key)


def _check_shape(shape: Sequence[int], multipliers: Sequence[int]) -> list[int]:
    """Checks sides against levels; returns the resolution of each level."""
    if len(shape) != 3:
        raise ValueError(f"shape must be (height, width, colours), got {tuple(shape)}.")
    for side in shape:
        check_count("shape, each number,", side)
    if not multipliers:
        raise ValueError("multipliers must hold a positive integer for each level, got ().")
    for multiplier in multipliers:
        check_count("multipliers, each number,", multiplier)
    factor = 2 ** (len(multipliers) - 1)
    if shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"shape must have sides that {factor} divides, for {len(multipliers)} levels; "
            f"got {tuple(shape)}."
        )
    return [min(shape[:2]) // 2**level for level in range(len(multipliers))]


def _check_attention(
    attention: Sequence[int],
    sides: Sequence[int],
    channels: int,
    multipliers: Sequence[int],
    head_channels: int,
) -> None:
    """Checks that levels have the resolutions, and channels that the heads divide."""
    for resolution in attention:
        if resolution not in sides:
            raise ValueError(
                f"attention must name resolutions of the levels, {', '.join(map(str, sides))}; "
                f"got {resolution}."
            )
    check_count("head_channels", head_channels)
    levels = [level for level, side in enumerate(sides) if side in attention]
    for level in (*levels, len(sides) - 1):
        if channels * multipliers[level] % head_channels:
            raise ValueError(
                f"head_channels must divide the {channels * multipliers[level]} channels at "
                f"resolution {sides[level]}, got {head_channels}."
            )
