"""What a comparison of images is judged by: figures that tell real images from copies and noise."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.command import UserError
from experiments.images import judged
from experiments.images.data import ImageSet
from experiments.images.judged import JudgedImages
from kacjax.data import ImageArrays


def digits():
    """The small digits of scikit-learn in the size of MNIST, as bytes."""
    images = load_digits().images
    large = np.pad(np.kron(images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    return np.rint(large * (255 / 16)).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def judge():
    """800 of them for training; the others, halved, are what samples are compared with."""
    images = digits()
    assert images.shape[1:] == (28, 28, 1)
    none = np.zeros(len(images), np.int32)
    train, test = (
        ImageArrays(images[part], none[part], tuple("0123456789"))
        for part in (slice(800), slice(800, None))
    )
    known = ImageSet((28, 28, 1), tuple("0123456789"), 800, images[:8], "none", train)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(judged.LOADERS, "mnist", lambda *arguments: test)
        yield JudgedImages("mnist", known, None, None)


def test_real_images_copies_and_noise_are_told_apart(judge):
    real = judge.reference(400)
    assert real.keys() == {headline.key for headline in judge.headlines}
    copies = judge.quality(digits()[:400])
    noise = judge.quality(np.random.default_rng(0).integers(0, 256, (400, 28, 28, 1), np.uint8))
    # Equal laws and numbers have a coverage of about 0.97.
    assert min(real["coverage"], copies["coverage"]) > 0.85
    assert min(real["precision"], copies["precision"]) > 0.75
    assert 0.8 < real["memorization_ratio"] < 1.25
    assert copies["memorization_ratio"] < 1e-6
    assert noise["coverage"] == noise["precision"] == 0
    assert noise["memorization_ratio"] > 3
    distance = "classifier_frechet_distance"
    assert 10 * max(real[distance], copies[distance]) < noise[distance]


def test_a_single_class_is_seen(judge):
    labels = load_digits().target[800:]
    ones = judge.quality(digits()[800:][labels == 1])
    assert ones["class_total_variation"] > judge.reference(400)["class_total_variation"] + 0.3
    assert ones["coverage"] < 0.5


def test_other_images_than_mnist_need_a_classifier(judge):
    with pytest.raises(UserError, match=r"python -m experiments\.features cifar10"):
        JudgedImages("cifar10", judge._images, None, None)
