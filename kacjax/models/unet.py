"""A U-Net for images."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from kacjax._validation import check_choice, check_count, choose
from kacjax.models import layers
from kacjax.models.layers import Labels, Map, Times

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


class UNet(layers.Network):
    r"""U-Net `network(t, x, label=None, *, key=None)` for images `(batch, height, width, colors)`.

    An encoder of `len(multipliers)` levels, each of `blocks` residual blocks and half the
    resolution of the one before; a middle of two residual blocks with attention between; a
    decoder of `blocks + 1` residual blocks a level, each of which sees the map that the encoder
    made there, last one first. At initialization the output is zero.

    Args:
        shape: `(height, width, colors)`; `2**(len(multipliers) - 1)` must divide the sides.
        rngs: Random streams for initialization.
        channels: Channels of the first level, even.
        multipliers: Channels of each level in units of `channels`.
        blocks: Residual blocks a level.
        attention: Shorter sides of the maps with self-attention after each residual block; by
            default the nearest to 16, if one lies in 8 to 32.
        head_channels: Channels of an attention head; by default the most that fit, up to 64.
        dropout: Share of numbers dropped in each residual block where a call has a `key`.
        classes: Number of classes; without it the network knows no labels.
        second_time: Whether calls may have a second time, `until`, as flow maps need.
        outputs: Numbers in the output for each of the last axis of `x`; 2 for the prediction `bounded`.
        T: Final time of the path, the unit of `t`.
        dtype: Type of convolutions and matrix products, `float32` or `bfloat16`; parameters,
            normalization, softmax and the embedding of the time are float32.
        remat: Compute residual blocks twice instead of keeping them: less memory, more time.

    Raises:
        ValueError: As `MLP`, or if a number does not divide another or is no level's resolution.

    Sources: Dhariwal and Nichol, *Diffusion Models Beat GANs on Image Synthesis*, arXiv 2105.05233;
    Ho et al., *Denoising Diffusion Probabilistic Models*, arXiv 2006.11239.

    Example:
        >>> size = kacjax.models.unet_size("tiny")
        >>> make = lambda: kacjax.models.UNet((8, 8, 1), rngs=nnx.Rngs(0), **size)
        >>> nnx.eval_shape(lambda: make()(jnp.ones(2), jnp.ones((2, 8, 8, 1)))).shape
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
        second_time: bool = False,
        outputs: int = 1,
    ):
        sides = _sides(shape, multipliers)
        check_count("channels", channels)
        check_count("blocks", blocks)
        if channels % 2:
            raise ValueError(f"channels must be even, got {channels}.")
        widths = [channels * multiplier for multiplier in multipliers]
        attention = _attention(attention, sides)
        attends = [side in attention for side in sides]
        attended = [w for w, attend in zip(widths, attends, strict=True) if attend] + widths[-1:]
        if head_channels is None:
            head_channels = max(n for n in range(1, 65) if math.gcd(*attended) % n == 0)
        check_count("head_channels", head_channels)
        if math.gcd(*attended) % head_channels:
            raise ValueError(f"head_channels must divide each of {attended}, got {head_channels}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")
        dtype = dtype if isinstance(dtype, str) else jnp.dtype(dtype).name
        check_choice("dtype", dtype, ("float32", "bfloat16"))
        check_count("outputs", outputs)
        self.remember(UNet.__init__, locals())
        self.shape: tuple[int, ...] = tuple(shape)
        self.dtype: str = dtype
        self.remat: bool = remat
        self.condition: layers.ConditionEmbedding = layers.ConditionEmbedding(
            channels, 2 * channels, T, classes, second_time, rngs=rngs
        )
        options = {"dtype": jnp.dtype(dtype), "rngs": rngs}

        def residual(inputs: int, outputs: int, attend: bool) -> nnx.Module:
            heads = outputs // head_channels if attend else 0
            return layers.ResidualBlock(inputs, outputs, 2 * channels, dropout, heads, **options)

        self.first: nnx.Conv = layers.convolution(shape[-1], channels, **options)
        current, skips, encoder, decoder = channels, [channels], [], []
        for level, (width, attend) in enumerate(zip(widths, attends, strict=True)):
            if level:
                encoder.append(layers.Resample(current, up=False, **options))
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
                decoder.append(layers.Resample(current, up=True, **options))
        self.encoder: nnx.List[nnx.Module] = nnx.List(encoder)
        self.middle: nnx.List[nnx.Module] = nnx.List(middle)
        self.decoder: nnx.List[nnx.Module] = nnx.List(decoder)
        self.norm: layers.GroupNorm = layers.GroupNorm(current)
        self.last: nnx.Conv = layers.convolution(current, shape[-1] * outputs, zero=True, **options)

    def __call__(
        self, t: Times, x: Map, label: Labels = None, *, until: Times | None = None, key: Any = None
    ) -> Float[Array, "batch height width outputs"]:
        """What is learned, in the type of `x`, float32 at least; see `kacjax.models`."""
        t, x = layers.check_points(t, x, self.shape)
        time = self.condition(t.astype(jnp.float32), label, until)
        block = (nnx.remat if self.remat else lambda call: call)(layers.ResidualBlock.__call__)
        h = self.first(x.astype(self.dtype))
        skips, down = [h], len(self.encoder)
        for number, layer in enumerate([*self.encoder, *self.middle, *self.decoder]):
            if isinstance(layer, layers.ResidualBlock):
                if number >= down + len(self.middle):
                    h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(layer, h, time, None if key is None else jax.random.fold_in(key, number))
            else:
                h = layer(h)
            if number < down:
                skips.append(h)
        return self.last(jax.nn.silu(self.norm(h))).astype(x.dtype)


def _sides(shape: Sequence[int], multipliers: Sequence[int]) -> list[int]:
    """The shorter side of the maps at each level, of images that can be halved so often."""
    factor = 2 ** (len(multipliers) - 1)
    for name, values in (("shape", shape), ("multipliers", multipliers)):
        for value in values:
            check_count(f"{name}, each number,", value)
    if not multipliers:
        raise ValueError("multipliers must hold a positive integer for each level, got ().")
    if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
        asked = f"with sides that {factor} divides, for {len(multipliers)} levels"
        raise ValueError(f"shape must be (height, width, colors) {asked}; got {tuple(shape)}.")
    return [min(shape[:2]) // 2**level for level in range(len(multipliers))]


def _attention(attention: Sequence[int] | None, sides: Sequence[int]) -> tuple[int, ...]:
    """The resolutions with attention: those that were given, or the default."""
    if attention is None:
        nearest = min(sides, key=lambda side: abs(math.log(side / 16)))
        return (nearest,) if 8 <= nearest <= 32 else ()
    if not set(attention) <= set(sides):
        raise ValueError(f"attention must be among {tuple(sides)}, got {tuple(attention)}.")
    return tuple(attention)
