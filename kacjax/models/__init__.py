"""Networks in Flax NNX; each is a function `model(t, x)`."""

from kacjax.models.mlp import MLP

__all__ = ["MLP"]
