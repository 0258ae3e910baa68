"""A small classifier with statistics as after some training, and images for it."""

import numpy as np
from flax import nnx

from experiments.judging.classifier import Classifier, ImageClassifier

SHAPE = (16, 16, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, *SHAPE)).astype(np.uint8)


def small_classifier() -> ImageClassifier:
    model = Classifier(SHAPE, 4, rngs=nnx.Rngs(0), channels=(4, 8))
    for block in model.blocks:
        block.norm.mean[...] = block.norm.mean[...] + 0.1
        block.norm.var[...] = block.norm.var[...] * 2
    return ImageClassifier(model, ("a", "b", "c", "d"))
