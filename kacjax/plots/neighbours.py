"""Generated images next to the training images that are nearest to them."""

import numpy as np
from jaxtyping import Array, Int
from matplotlib.figure import Figure

from kacjax.plots.style import INK, Images, panels, styled

# Pixels between an image and its neighbours.
_GAP = 4


@styled
def neighbours_figure(
    images: Images,
    train: Images,
    index: Int[Array, "num k"] | Int[np.ndarray, "num k"],
    rows: int = 8,
) -> Figure:
    """One row for each of the first images: the image, a gap, its nearest training images.

    Args:
        images: Generated images with 1 or 3 channels, as bytes or floats in `[-1, 1]`.
        train: Training images, likewise.
        index: Rows of `train`, nearest first, from `metrics.nearest_neighbours`.
        rows: Images to show.

    Raises:
        ValueError: If there are no images, not 1 or 3 channels, or the images of one set have
            another shape than those of the other.
    """
    if not len(images) or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"images must not be empty and have 1 or 3 channels, got shape {images.shape}."
        )
    if images.shape[1:] != train.shape[1:]:
        raise ValueError(
            f"images and train must be of one size, got {images.shape} and {train.shape}."
        )
    shown = _as_unit(np.asarray(images[:rows]))
    near = _as_unit(np.asarray(train)[np.asarray(index[:rows])])
    num, k, height, width, channels = near.shape
    columns = k + 1
    canvas = np.ones((num * (height + 1) - 1, columns * (width + 1) - 1 + _GAP, channels))
    for row in range(num):
        top = row * (height + 1)
        for column, image in enumerate((shown[row], *near[row])):
            left = column * (width + 1) + _GAP * (column > 0)
            canvas[top : top + height, left : left + width] = image
    figure, (ax,) = panels(1, 0.55 * columns + 0.8, 0.55 * num * height / width + 0.5)
    ax.imshow(np.repeat(canvas, 3 // channels, axis=-1), interpolation="nearest")
    ax.set_title(f"samples | the {k} nearest training images", color=INK, fontsize=9)
    ax.axis("off")
    return figure


def _as_unit(images: np.ndarray) -> np.ndarray:
    """Floats in [0, 1]."""
    return images / 255 if images.dtype == np.uint8 else np.clip((images + 1) / 2, 0, 1)
