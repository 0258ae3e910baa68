"""Networks in Flax NNX; each is a function `model(t, x, label=None, *, key=None)`."""

from kacjax.models.mlp import MLP
from kacjax.models.registry import MODELS, blank, rebuild
from kacjax.models.sizes import unet_size
from kacjax.models.unet import UNet

__all__ = ["MLP", "MODELS", "UNet", "blank", "rebuild", "unet_size"]
