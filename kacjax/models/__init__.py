"""Networks in Flax NNX: velocities `model(t, x, label=None, *, key=None)`, and a classifier."""

from kacjax.models.classifier import Classifier, ClassifierOutput, ImageClassifier
from kacjax.models.mlp import MLP
from kacjax.models.registry import MODELS, blank, rebuild
from kacjax.models.sizes import unet_size
from kacjax.models.unet import UNet

__all__ = [
    "MLP",
    "MODELS",
    "Classifier",
    "ClassifierOutput",
    "ImageClassifier",
    "UNet",
    "blank",
    "rebuild",
    "unet_size",
]
