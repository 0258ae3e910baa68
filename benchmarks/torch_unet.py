"""The U-Net of `kacjax.models.UNet` in PyTorch, written from its description.

For comparison only: the same blocks in the same order, with PyTorch's own layers, in NCHW with
the memory format `channels_last`.
"""

import math

import torch
from torch import nn
from torch.nn import functional


def norm(channels: int) -> nn.GroupNorm:
    """Up to 32 groups of at least four channels."""
    fits = [g for g in (32, 16, 8, 4, 2) if channels % g == 0 and channels // g >= 4]
    groups = max(fits, default=1)
    return nn.GroupNorm(groups, channels)


def conv(inputs: int, outputs: int, zero: bool = False) -> nn.Conv2d:
    """A 3x3 convolution that keeps the resolution."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1)
    if zero:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    return layer


class TimeEmbedding(nn.Module):
    """Sinusoids of the time and of its logarithm, and two layers."""

    def __init__(self, sinusoids: int, width: int, T: float):
        super().__init__()
        half = sinusoids // 2
        self.T = T
        self.register_buffer("frequencies", torch.exp(-math.log(1e4) * torch.arange(half) / half))
        self.register_buffer("scales", math.pi * torch.arange(1, 5))
        self.layers = nn.Sequential(
            nn.Linear(sinusoids + 9, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )

    def forward(self, t):
        """The embedding of times `(batch,)`."""
        relative = (t / self.T).clamp(min=1e-3)
        log = relative.log()[:, None] / -math.log(1e-3)
        angles = torch.cat([1000 * relative[:, None] * self.frequencies, log * self.scales], dim=1)
        return self.layers(torch.cat([angles.sin(), angles.cos(), log], dim=1))


class Attention(nn.Module):
    """Self-attention between pixels, added."""

    def __init__(self, channels: int, head_channels: int):
        super().__init__()
        self.heads = channels // head_channels
        self.norm = norm(channels)
        self.inputs = nn.Linear(channels, 3 * channels)
        self.output = nn.Linear(channels, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x):
        """Applies the block."""
        batch, channels, height, width = x.shape
        pixels = self.norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        qkv = self.inputs(pixels).view(batch, height * width, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = (
            functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(pixels.shape)
        )
        return x + self.output(mixed).view(batch, height, width, channels).permute(0, 3, 1, 2)


class Residual(nn.Module):
    """Residual block, scaled and shifted by the time, with attention where wanted."""

    def __init__(self, inputs, outputs, width, dropout, head_channels):
        super().__init__()
        self.first_norm, self.first = norm(inputs), conv(inputs, outputs)
        self.modulation = nn.Linear(width, 2 * outputs)
        self.second_norm, self.second = norm(outputs), conv(outputs, outputs, zero=True)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = Attention(outputs, head_channels) if head_channels else nn.Identity()

    def forward(self, x, time):
        """Applies the block."""
        h = self.first(functional.silu(self.first_norm(x)))
        scale, shift = self.modulation(time)[:, :, None, None].chunk(2, dim=1)
        h = functional.silu(self.second_norm(h) * (1 + scale) + shift)
        return self.attention(self.skip(x) + self.second(self.dropout(h)))


class Resample(nn.Module):
    """Halves or doubles the resolution in both branches of a residual block."""

    def __init__(self, channels: int, up: bool):
        super().__init__()
        self.norm, self.conv = norm(channels), conv(channels, channels, zero=True)
        self.up = up

    def forward(self, x, time):
        """Applies the block; the time is not used."""
        change = (lambda y: functional.interpolate(y, scale_factor=2.0)) if self.up else self._halve
        return change(x) + self.conv(change(functional.silu(self.norm(x))))

    @staticmethod
    def _halve(x):
        return functional.avg_pool2d(x, 2)


class TorchUNet(nn.Module):
    """The network; keywords as those of `kacjax.models.UNet`."""

    def __init__(
        self, shape, channels, multipliers, blocks, attention, head_channels, dropout, T=1.0, **_
    ):
        super().__init__()
        width, colors = 2 * channels, shape[-1]
        self.time = TimeEmbedding(channels, width, T)
        self.first = conv(colors, channels)
        self.encoder, self.middle, self.decoder = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        heads = [
            head_channels if min(shape[:2]) >> level in attention else None
            for level in range(len(multipliers))
        ]
        levels = [channels * multiplier for multiplier in multipliers]
        current, skips = channels, [channels]
        for level, outputs in enumerate(levels):
            if level:
                self.encoder.append(Resample(current, up=False))
                skips.append(current)
            for _ in range(blocks):
                self.encoder.append(Residual(current, outputs, width, dropout, heads[level]))
                current = outputs
                skips.append(current)
        for attend in (head_channels, None):
            self.middle.append(Residual(current, current, width, dropout, attend))
        for level, outputs in reversed(list(enumerate(levels))):
            for _ in range(blocks + 1):
                inputs = current + skips.pop()
                self.decoder.append(Residual(inputs, outputs, width, dropout, heads[level]))
                current = outputs
            if level:
                self.decoder.append(Resample(current, up=True))
        self.norm, self.last = norm(current), conv(current, colors, zero=True)

    def forward(self, t, x):
        """The velocity at images `(batch, colors, height, width)`."""
        time = self.time(t)
        h = self.first(x)
        skips = [h]
        for layer in self.encoder:
            h = layer(h, time)
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)
        for layer in self.decoder:
            if isinstance(layer, Residual):
                h = torch.cat([h, skips.pop()], dim=1)
            h = layer(h, time)
        return self.last(functional.silu(self.norm(h))).float()
