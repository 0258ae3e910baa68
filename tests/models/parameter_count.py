"""The U-Net's number of parameters by hand, from its description alone."""


def residual(i: int, o: int, width: int) -> int:
    """Two norms, two 3x3 convolutions, scale and shift of the time, a linear map where needed."""
    norms, convolutions = 2 * i + 2 * o, 9 * i * o + o + 9 * o * o + o
    return norms + convolutions + (width + 1) * 2 * o + ((i + 1) * o if i != o else 0)


def attention(c: int) -> int:
    """Norm, queries with keys and values, output."""
    return 2 * c + (c + 1) * 3 * c + (c + 1) * c


def resample(c: int) -> int:
    """Norm and one 3x3 convolution."""
    return 2 * c + 9 * c * c + c


def unet_parameter_count(
    side: int,
    colors: int,
    channels: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attend: tuple[int, ...],
    classes: int | None = None,
) -> dict[str, int]:
    """Parameters of each part of the network."""
    width, levels = 2 * channels, [channels * m for m in multipliers]
    parts = {
        # `channels` sinusoids of the time, eight of its logarithm, and that.
        "time": (channels + 9 + 1) * width + (width + 1) * width,
        "labels": 0 if classes is None else (classes + 1) * width,
        "first": 9 * colors * channels + channels,
        "last": 2 * levels[0] + 9 * colors * levels[0] + colors,
        "middle": 2 * residual(levels[-1], levels[-1], width) + attention(levels[-1]),
        "encoder": 0,
        "decoder": 0,
        "attention": 0,
        "resampling": 0,
    }
    current, skips = channels, [channels]
    for level, c in enumerate(levels):
        if level:
            # The map that the level above ended with, on its way down, and a map so wide up.
            parts["resampling"] += resample(current) + resample(c)
            skips.append(current)
        for _ in range(blocks):
            parts["encoder"] += residual(current, c, width)
            current = c
            skips.append(c)
    for level, c in reversed(list(enumerate(levels))):
        for _ in range(blocks + 1):
            parts["decoder"] += residual(current + skips.pop(), c, width)
            current = c
        if side >> level in attend:
            parts["attention"] += (2 * blocks + 1) * attention(c)
    return parts
