"""Decoding: every form, mode and shape comes out as what it shows; damage is named."""

import numpy as np
import pytest
from PIL import Image

from kacjax.data import DataError
from kacjax.data.decoding import decode_image, decode_images
from kacjax.data.image_files import image_files
from tests.data.pictures import encode, gradient, plain

SQUARE = gradient(16, 16)


@pytest.mark.parametrize("form", ["png", "bmp", "webp", "jpeg"])
def test_size_that_fits_is_left_alone(form):
    options = {"lossless": True} if form == "webp" else {}
    decoded = decode_image(encode(SQUARE, form, **options), 16)
    if form == "jpeg":
        np.testing.assert_allclose(decoded, SQUARE, atol=6)
    else:
        np.testing.assert_array_equal(decoded, SQUARE)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 160), (150, 64), (7, 9)])
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_shorter_side_is_resized_and_the_middle_kept(height, width, form):
    decoded = decode_image(encode(gradient(height, width), form), 16).astype(float)
    assert decoded.shape == (16, 16, 3)
    # Along each axis the middle square shows a ramp about 127.5, of its share of the range.
    side = min(height, width)
    place = (np.arange(16) + 0.5) * side / 16 - side / 2
    red, green = (127.5 + 255 * place / (size - 1) for size in (width, height))
    # Edges, where the filter ends, and JPEG differ a little.
    np.testing.assert_allclose(decoded[1:-1, 1:-1, 0], np.tile(red, (16, 1))[1:-1, 1:-1], atol=6)
    np.testing.assert_allclose(
        decoded[1:-1, 1:-1, 1].T, np.tile(green, (16, 1))[1:-1, 1:-1], atol=6
    )
    np.testing.assert_allclose(decoded[..., 2], 77, atol=6)


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_resizing_does_not_alias(form):
    # Stripes of one pixel average to grey.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    decoded = decode_image(encode(stripes, form), 16).astype(float)
    np.testing.assert_allclose(decoded, 127.5, atol=8)


def test_modes_come_out_as_what_they_show():
    grey = SQUARE[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey), 16)[..., 1], grey)
    np.testing.assert_array_equal(decode_image(encode(grey), 16, 1)[..., 0], grey)
    sixteen_bits = grey.astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(encode(sixteen_bits), 16, 1)[..., 0], grey)
    inks = decode_image(encode(plain(200), "jpeg", "CMYK", subsampling=-1), 8)
    np.testing.assert_allclose(inks.astype(float), 200, atol=4)
    palette = decode_image(encode(plain(204), mode="P"), 8)  # A colour that Pillow's palette has.
    np.testing.assert_array_equal(palette, plain(204))
    luminance = decode_image(encode(plain(90)), 8, 1)
    np.testing.assert_array_equal(luminance, np.full((8, 8, 1), 90))


def test_transparency_lies_on_white():
    layers = np.zeros((8, 8, 4), np.uint8)
    layers[:, :4, 3] = 255
    decoded = decode_image(encode(layers), 8)
    assert decoded[:, :4].max() == 0
    assert decoded[:, 4:].min() == 255


def test_camera_orientation_is_undone():
    # Orientation 6: the camera was turned, the image must be turned a quarter clockwise.
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = np.rot90(SQUARE)
    decoded = decode_image(encode(turned, exif=exif), 16)
    np.testing.assert_array_equal(decoded, SQUARE)


@pytest.mark.parametrize("form", ["png", "jpeg", "webp", "bmp"])
def test_damaged_files_are_unreadable(form):
    content = encode(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8), form)
    for damaged in (b"", b"text", content[:20], content[: len(content) // 2]):
        with pytest.raises(DataError, match="unreadable image"):
            decode_image(damaged, 16)


def test_other_sizes_are_refused_where_asked():
    with pytest.raises(DataError, match="16 by 12 pixels, not 16"):
        decode_image(encode(gradient(12, 16)), 16, resize=False)


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        (tmp_path / f"{index:02}.png").write_bytes(encode(plain(index)))
    return tmp_path


def test_images_keep_the_order_of_the_names(folder):
    files = image_files(folder)
    names = files.names[::-1]
    images, kept = decode_images(files, names, 4, threads=3, progress=False)
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(12)[::-1])
    np.testing.assert_array_equal(kept, np.arange(12))


def test_unreadable_images_are_named_or_left_out(folder):
    files = image_files(folder)
    for index in range(2, 9):
        (folder / f"{index:02}.png").write_bytes(b"text")
    said = r"7 of 12 images in .* cannot be read: 02\.png \(.*\), .*06\.png \(.*\), and 2 more"
    with pytest.raises(DataError, match=said) as caught:
        decode_images(files, files.names, 4, progress=False)
    assert "07.png" not in str(caught.value)
    with pytest.warns(UserWarning, match=said):
        images, kept = decode_images(files, files.names, 4, unreadable="skip", progress=False)
    assert kept.tolist() == [0, 1, 9, 10, 11]
    np.testing.assert_array_equal(images[:, 0, 0, 0], kept)
    with pytest.raises(DataError, match="2 of 2"):
        decode_images(files, files.names[2:4], 4, unreadable="skip", progress=False)
