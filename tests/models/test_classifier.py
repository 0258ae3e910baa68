"""The classifier of images, as a network, as a file, and the one that comes with the library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kacjax import models
from kacjax.data import to_float

SHAPE = (16, 16, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (7, *SHAPE)).astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    model = models.Classifier(SHAPE, 4, rngs=nnx.Rngs(0), channels=(4, 8))
    # Statistics as after some training, not those of the start.
    for block in model.blocks:
        block.norm.mean[...] = block.norm.mean[...] + 0.1
        block.norm.var[...] = block.norm.var[...] * 2
    return models.ImageClassifier(model, ("a", "b", "c", "d"))


def test_features_and_probabilities(classifier):
    features, probabilities = classifier(IMAGES)
    assert features.shape == (7, 8)
    assert np.all(np.asarray(features) >= 0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    head = classifier.state["head"]
    logits = features @ head["kernel"][...] + head["bias"][...]
    np.testing.assert_allclose(probabilities, jax.nn.softmax(logits), rtol=1e-4)
    np.testing.assert_array_equal(classifier.features(IMAGES), features)


def test_bytes_and_floats_are_the_same_images_and_each_is_judged_alone(classifier):
    features, _ = classifier(IMAGES)
    np.testing.assert_allclose(classifier(to_float(IMAGES))[0], features, atol=1e-5)
    np.testing.assert_allclose(classifier(IMAGES[2:3])[0][0], features[2], atol=1e-5)


def test_training_uses_the_batch_and_keeps_its_statistics():
    model = models.Classifier((8, 8, 1), 2, rngs=nnx.Rngs(0), channels=(4, 4))
    x = 3 + jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    before = model.blocks[0].norm.mean[...]
    first = model(x).logits
    assert jnp.any(model.blocks[0].norm.mean[...] != before)
    model.eval()
    kept = model.blocks[0].norm.mean[...]
    assert jnp.max(jnp.abs(model(x).logits - first)) > 1e-3
    np.testing.assert_array_equal(model.blocks[0].norm.mean[...], kept)


def test_a_file_holds_everything_to_float16(classifier, tmp_path):
    file = tmp_path / "classifier.safetensors"
    models.save_classifier(file, classifier, {"data": "none"})
    loaded = models.load_classifier(file)
    assert loaded.config == classifier.config
    assert loaded.classes == classifier.classes
    for found, expected in zip(loaded(IMAGES), classifier(IMAGES), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)
    # Rounded once: what was read is written without loss.
    models.save_classifier(file, loaded)
    np.testing.assert_array_equal(models.load_classifier(file)(IMAGES)[0], loaded(IMAGES)[0])


def test_damaged_and_foreign_files_are_refused(classifier, tmp_path):
    from safetensors.numpy import save_file

    file = tmp_path / "classifier.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, file)
    with pytest.raises(ValueError, match="holds no classifier"):
        models.load_classifier(file)
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        models.load_classifier(file)


def test_the_classifier_of_mnist_comes_with_the_library():
    classifier = models.mnist_classifier()
    assert classifier.classes == tuple("0123456789")
    # A bar, drawn by hand, is a one.
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 5:23, 13:16] = 255
    features, probabilities = classifier(image)
    assert features.shape == (1, 64)
    assert int(probabilities.argmax()) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: models.Classifier((8, 8), 4, rngs=nnx.Rngs(0)), "shape must be"),
        (lambda: models.Classifier((8, 8, 1), 4, rngs=nnx.Rngs(0)), "at least 16 pixels"),
        (lambda: models.Classifier((8, 8, 1), 1, rngs=nnx.Rngs(0)), "classes must be an integer"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_images_and_names_are_named(classifier):
    with pytest.raises(ValueError, match="images must have the shape"):
        classifier(IMAGES[:, :8])
    with pytest.raises(ValueError, match="classes must be 4 names"):
        models.ImageClassifier(nnx.merge(classifier.graphdef, classifier.state), ("a",))
