"""Networks in Flax NNX, called `network(t, x, label=None, *, key=None)`.

Here `t` are times in `[0, T]`, `x` as many points or images, `label` their classes from 0 up
(`classes` stands for none, as does no label), and `key` is a random key that switches dropout on.
"""

from kacjax.models.layers import blank
from kacjax.models.mlp import MLP
from kacjax.models.unet import UNet, unet_size

__all__ = ["MLP", "UNet", "blank", "unet_size"]
