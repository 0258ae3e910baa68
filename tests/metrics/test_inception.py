"""The adapter of Inception's features around a small network; torch-fidelity's is not run here."""

import sys

import numpy as np
import pytest

from kacjax import metrics

torch = pytest.importorskip("torch")
IMAGES = np.random.default_rng(0).integers(0, 256, size=(10, 5, 7, 3)).astype(np.uint8)


class Corner:
    """Shows what it was given: the bytes of one corner of every channel."""

    def __init__(self):
        self.shapes = []

    def __call__(self, images):
        assert images.dtype == torch.uint8
        self.shapes.append(tuple(images.shape))
        return (images[:, :, 0, 1].to(torch.float32), None)


def test_bytes_go_in_unscaled_channels_first_and_in_batches():
    extractor = Corner()
    features = metrics.InceptionFeatures(extractor=extractor, batch_size=4, device="cpu")(IMAGES)
    np.testing.assert_array_equal(features, IMAGES[:, 0, 1, :])
    # The size is the images' own: the network resizes them, once.
    assert extractor.shapes == [(4, 3, 5, 7), (4, 3, 5, 7), (2, 3, 5, 7)]


def test_gray_images_are_shown_in_color():
    features = metrics.InceptionFeatures(extractor=Corner(), device="cpu")(IMAGES[..., :1])
    np.testing.assert_array_equal(features, np.repeat(IMAGES[:, 0, 1, :1], 3, axis=1))


def test_features_feed_the_frechet_distance():
    features = metrics.InceptionFeatures(extractor=Corner(), device="cpu")
    distance = metrics.frechet_distance(features(IMAGES), IMAGES[:, 0, 1, :].astype(np.float32))
    assert distance == pytest.approx(0, abs=1e-6)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ImportError, match=r"kacjax\[inception\]"):
        metrics.InceptionFeatures(device="cpu")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.InceptionFeatures("no/such/file"), "weights must be a file"),
        (lambda: metrics.InceptionFeatures(batch_size=0), "batch_size must be an integer"),
        (
            lambda: metrics.InceptionFeatures(extractor=Corner())(IMAGES[..., :2]),
            "1 or 3 channels",
        ),
        (
            lambda: metrics.InceptionFeatures(extractor=Corner())(IMAGES[0]),
            "images must have shape",
        ),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
