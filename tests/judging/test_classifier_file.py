"""A classifier as a file, and the one of MNIST that is shipped."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from experiments.judging.classifier import (
    load_classifier,
    mnist_classifier,
    save_classifier,
)
from kacjax import data
from tests.data.real import real_root
from tests.judging.small_classifier import IMAGES, small_classifier


@pytest.fixture(scope="module")
def classifier():
    return small_classifier()


def test_a_file_holds_everything_to_float16(classifier, tmp_path):
    file = tmp_path / "classifier.safetensors"
    save_classifier(file, classifier, {"data": "none"})
    loaded = load_classifier(file)
    assert loaded.config == classifier.config
    assert loaded.classes == classifier.classes
    for found, expected in zip(loaded(IMAGES), classifier(IMAGES), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-3)
    # Rounded once: what was read is written without loss.
    save_classifier(file, loaded)
    np.testing.assert_array_equal(load_classifier(file)(IMAGES)[0], loaded(IMAGES)[0])


def test_damaged_and_foreign_files_are_refused(classifier, tmp_path):
    file = tmp_path / "classifier.safetensors"
    save_file({"x": np.zeros(3, np.float32)}, file)
    with pytest.raises(ValueError, match="none of kacjax"):
        load_classifier(file)
    save_classifier(file, classifier)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged: its content"):
        load_classifier(file)
    file.write_bytes(b"junk")
    with pytest.raises(ValueError, match="damaged or no safetensors"):
        load_classifier(file)


def test_the_classifier_of_mnist_comes_with_the_library():
    classifier = mnist_classifier()
    assert classifier.classes == tuple("0123456789")
    # A bar, drawn by hand, is a one.
    image = np.zeros((1, 28, 28, 1), np.uint8)
    image[0, 5:23, 13:16] = 255
    features, probabilities = classifier(image)
    assert features.shape == (1, 64)
    assert int(probabilities.argmax()) == 1


def test_the_classifier_of_mnist_knows_real_test_images():
    root = real_root("t10k-images-idx3-ubyte.gz", "mnist")
    images, labels, _ = data.load_mnist("test", root, download=False)
    _, probabilities = mnist_classifier()(images[:1000])
    # At an accuracy of 99% fewer than 965 right ones of 1,000 have probability 1e-10.
    assert np.sum(np.asarray(probabilities).argmax(axis=1) == labels[:1000]) >= 965
