"""A user's own images: a folder or an archive of them, in memory."""

import pathlib

from kacjax.data.decoding import check_image_options, decode_images
from kacjax.data.files import PathLike, cache_folder, cached_images
from kacjax.data.image_files import class_labels, image_files
from kacjax.data.images import ImageArrays


def load_images(
    path: PathLike,
    size: int,
    *,
    channels: int = 3,
    unreadable: str = "error",
    cache: PathLike | None = None,
    threads: int | None = None,
    progress: bool = True,
) -> ImageArrays:
    """Loads all images of a folder or archive, decoded once and then cached.

    Folders below `path` are classes: see `class_labels`. What does not fit into memory is for
    `stream_images`; the images take `num * size * size * channels` bytes.

    Args:
        path: A folder, or a zip or tar archive, of png, jpg, jpeg, webp and bmp files.
        size: Height and width; see `decode_image` for how images get there.
        channels: 3 for colour, 1 for grey.
        unreadable: `error`, or `skip` to leave unreadable images out, with a warning when they are
            decoded.
        cache: Folder of the cache; see `cache_folder`.
        threads: Number of threads that decode.
        progress: Show a bar.

    Raises:
        DataError: If there are no images, or unreadable ones.
        ImportError: If Pillow is not installed.
        ValueError: If an option is out of range.
    """
    check_image_options(size, channels, unreadable)
    files = image_files(path)

    def build() -> ImageArrays:
        images, kept = decode_images(
            files,
            files.names,
            size,
            channels,
            unreadable=unreadable,
            threads=threads,
            progress=progress,
        )
        labels, classes = class_labels(files.names)
        return ImageArrays(images, None if labels is None else labels[kept], classes)

    settings = {"size": size, "channels": channels, "unreadable": unreadable}
    folder = pathlib.Path(cache).expanduser() if cache else cache_folder()
    return cached_images(files.path, files.fingerprint, settings, folder, build)
