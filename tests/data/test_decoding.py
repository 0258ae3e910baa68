"""Decoding: every form, mode and shape comes out as what it shows; damage is named."""

import io
import os
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from kacjax.data import DataError, load_images
from kacjax.data.folder import decode_image, decode_images
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
    offset = (np.arange(16) + 0.5) * side / 16 - side / 2
    red, green = (127.5 + 255 * offset / (size - 1) for size in (width, height))
    # Edges, where the filter ends, and JPEG differ a little.
    np.testing.assert_allclose(decoded[1:-1, 1:-1, 0], np.tile(red, (16, 1))[1:-1, 1:-1], atol=6)
    np.testing.assert_allclose(
        decoded[1:-1, 1:-1, 1].T, np.tile(green, (16, 1))[1:-1, 1:-1], atol=6
    )
    np.testing.assert_allclose(decoded[..., 2], 77, atol=6)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (40, 200), (200, 40)])
@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_other_sides_are_covered_and_the_middle_kept(height, width, form):
    decoded = decode_image(encode(gradient(height, width), form), (8, 24)).astype(float)
    assert decoded.shape == (8, 24, 3)
    # One pixel of the result is so many of the file, along both axes.
    step = min(height / 8, width / 24)
    for axis, (pixels, size) in enumerate([(24, width), (8, height)]):
        ramp = 127.5 + 255 * (np.arange(pixels) + 0.5 - pixels / 2) * step / (size - 1)
        line = decoded[4, :, 0] if axis == 0 else decoded[:, 12, 1]
        np.testing.assert_allclose(line[1:-1], ramp[1:-1], atol=6)


def test_jpeg_is_not_decoded_at_less_than_the_longer_side():
    stripes = np.repeat(np.tile(np.array([0, 255], np.uint8), 32), 8) * np.ones((512, 1), np.uint8)
    sharp, decoded = (
        decode_image(encode(stripes, form), (4, 256), 1).astype(float) for form in ("png", "jpeg")
    )
    np.testing.assert_allclose(decoded, sharp, atol=8)


@pytest.mark.parametrize("levels", [np.full((4, 4), 0.5, np.float32), np.full((4, 4), 70_000)])
def test_levels_of_unknown_range_are_refused(levels):
    with pytest.raises(DataError, match="not those of 8 or 16 bits"):
        decode_image(encode(levels.astype(levels.dtype.str.replace("8", "4")), "tiff"), 4)


def test_only_the_first_frame_counts():
    stream, frames = io.BytesIO(), [Image.fromarray(plain(value)) for value in (0, 255)]
    frames[0].save(stream, "gif", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(stream.getvalue(), 8), plain(0))


@pytest.mark.parametrize("form", ["png", "jpeg"])
def test_resizing_does_not_alias(form):
    # Stripes of one pixel average to gray.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    decoded = decode_image(encode(stripes, form), 16).astype(float)
    np.testing.assert_allclose(decoded, 127.5, atol=8)


def test_modes_come_out_as_what_they_show():
    gray = SQUARE[..., 0]
    np.testing.assert_array_equal(decode_image(encode(gray), 16)[..., 1], gray)
    np.testing.assert_array_equal(decode_image(encode(gray), 16, 1)[..., 0], gray)
    inks = decode_image(encode(plain(200), "jpeg", "CMYK", subsampling=-1), 8)
    np.testing.assert_allclose(inks.astype(float), 200, atol=4)
    palette = decode_image(encode(plain(204), mode="P"), 8)  # A color that Pillow's palette has.
    np.testing.assert_array_equal(palette, plain(204))
    luminance = decode_image(encode(plain(90)), 8, 1)
    np.testing.assert_array_equal(luminance, np.full((8, 8, 1), 90))


def test_sixteen_bits_are_scaled_to_the_nearest_byte():
    levels = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    levels[0, :4] = [255, 128, 129, 65535]
    decoded = decode_image(encode(levels), 16, 1)[..., 0]
    np.testing.assert_array_equal(decoded, np.rint(levels / 257))
    assert decoded[0, :4].tolist() == [1, 0, 1, 255]


def test_transparency_lies_on_white():
    layers = np.zeros((8, 8, 4), np.uint8)
    layers[:, :4, 3] = 255
    decoded = decode_image(encode(layers), 8)
    assert decoded[:, :4].max() == 0
    assert decoded[:, 4:].min() == 255
    # One level of gray that is transparent, with 8 and with 16 bits.
    for dtype in (np.uint8, np.uint16):
        levels = np.repeat(np.array([[7, 40]], dtype), 8, axis=0).repeat(4, axis=1)
        decoded = decode_image(encode(levels, transparency=7), 8, 1)[..., 0]
        assert decoded[:, :4].min() == 255
        assert decoded[:, 4:].max() == (40 if dtype is np.uint8 else 0)


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


@pytest.fixture
def folder(tmp_path):
    for index in range(12):
        (tmp_path / f"{index:02}.png").write_bytes(encode(plain(index)))
    return tmp_path


def test_images_keep_the_order_of_the_names(folder):
    files = image_files(folder)
    names = files.names[::-1]
    images, kept, left_out = decode_images(files, names, 4, progress=False)
    np.testing.assert_array_equal(images[:, 0, 0, 0], np.arange(12)[::-1])
    np.testing.assert_array_equal(kept, np.arange(12))
    assert not left_out


def test_unreadable_images_are_named_or_left_out(folder):
    files = image_files(folder)
    for index in range(2, 9):
        (folder / f"{index:02}.png").write_bytes(b"text")
    said = r"7 of 12 images in .* cannot be read: 02\.png \(.*\), .*06\.png \(.*\), \.\.\."
    with pytest.raises(DataError, match=said) as caught:
        decode_images(files, files.names, 4, progress=False)
    assert "07.png" not in str(caught.value)
    images, kept, left_out = decode_images(files, files.names, 4, 3, "skip", progress=False)
    assert re.match(said, left_out)
    assert kept.tolist() == [0, 1, 9, 10, 11]
    np.testing.assert_array_equal(images[:, 0, 0, 0], kept)
    with pytest.raises(DataError, match="2 of 2"):
        decode_images(files, files.names[2:4], 4, unreadable="skip", progress=False)


@pytest.mark.parametrize("error", [EOFError(), MemoryError(), OSError("no text")])
def test_failures_without_a_text_are_failures(folder, monkeypatch, error):
    files = image_files(folder)
    read = files.read

    def fail(name):
        if name in ("03.png", "07.png"):
            raise error
        return read(name)

    monkeypatch.setattr(files, "read", fail)
    named = str(error) or type(error).__name__
    said = rf"2 of 12 images in .* cannot be read: 03\.png \({named}\), 07\.png \({named}\)"
    with pytest.raises(DataError, match=said):
        decode_images(files, files.names, 4, progress=False)
    images, kept, left_out = decode_images(files, files.names, 4, 3, "skip", progress=False)
    assert re.match(said, left_out)
    assert kept.tolist() == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    np.testing.assert_array_equal(images.mean(axis=(1, 2, 3)), kept)


@pytest.mark.filterwarnings("ignore:.* They are left out")
def test_zip_whose_last_member_has_a_wrong_size_gives_no_random_image(tmp_path):
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for value in (0, 50, 100, 150):
            archive.writestr(f"{value:03}.png", encode(plain(value)))
    content = bytearray(path.read_bytes())
    # Compressed and uncompressed size in the last entry of the directory, beyond the file's end.
    entry = content.rindex(b"PK\x01\x02")
    for offset in (entry + 20, entry + 24):
        content[offset : offset + 4] = (10**6).to_bytes(4, "little")
    path.write_bytes(content)
    # Newer Pythons see from the directory that the entry is too long.
    with pytest.raises((EOFError, zipfile.BadZipFile), match=r"^$|Overlapped entries"):
        image_files(path).read("150.png")
    cache = tmp_path / "cache"
    message = r"1 of 4 images .* cannot be read: 150\.png \((EOFError|.*Overlapped entries)"
    with pytest.raises(DataError, match=message):
        load_images(path, 4, cache=cache, progress=False)
    assert not os.path.exists(cache)
    for _ in range(2):  # Decoded, then from the cache.
        images = load_images(path, 4, unreadable="skip", cache=cache, progress=False).images
        assert images.mean(axis=(1, 2, 3)).tolist() == [0, 50, 100]
