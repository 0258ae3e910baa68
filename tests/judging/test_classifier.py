"""The classifier of images, as a network and as a function."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.judging.classifier import Classifier
from kacjax.data import to_float
from tests.judging.small_classifier import IMAGES, small_classifier


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


def test_features_and_probabilities(classifier):
    features, probabilities = classifier(IMAGES)
    assert features.shape == (7, 8)
    assert np.all(np.asarray(features) >= 0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    head = classifier.state["head"]
    logits = features @ head["kernel"][...] + head["bias"][None, :]
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-4)


def test_bytes_and_floats_are_the_same_images_and_each_is_judged_alone(classifier):
    features, _ = classifier(IMAGES)
    np.testing.assert_allclose(classifier(to_float(IMAGES))[0], features, atol=1e-5)
    np.testing.assert_allclose(classifier(IMAGES[2:3])[0][0], features[2], atol=1e-5)


def test_training_uses_the_batch_and_keeps_its_statistics():
    model = Classifier((8, 8, 1), 2, rngs=nnx.Rngs(0), channels=(4, 4))
    x = 3 + jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    before = model.blocks[0].norm.mean[...]
    first = model(x).logits
    assert jnp.any(model.blocks[0].norm.mean[...] != before)
    model.eval()
    kept = model.blocks[0].norm.mean[...]
    assert jnp.max(jnp.abs(model(x).logits - first)) > 1e-3
    np.testing.assert_array_equal(model.blocks[0].norm.mean[...], kept)


def test_wrong_images_are_named(classifier):
    with pytest.raises(ValueError, match="images must have the shape"):
        classifier(IMAGES[:, :8])
