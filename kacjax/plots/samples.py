"""Figures of samples: beside data, up close, and on their way from the noise."""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.ndimage import gaussian_filter

from kacjax.data.images import to_uint8
from kacjax.plots.style import BLUE, COLOURS, GREY, INK, LABELS, VERMILION, Points, panels, styled

Images: TypeAlias = UInt8[np.ndarray, "_ _ _ _"] | Float[np.ndarray, "_ _ _ _"] | Float[Array, "_ _ _ _"]
"""Images, channels last: bytes, or floats in `[-1, 1]`."""

_SHOWN = 5000
_BINS = 160


@styled
def points_figure(sets: Mapping[str, Points], limit: float = 1.9) -> Figure:
    """Point sets side by side: a scatter above its density.

    Args:
        sets: Points in the plane by title, data first; the three models have their colours.
        limit: Half the width of the square that is shown.
    """
    figure, axes = panels(len(sets), 2.7 * len(sets) + 0.3, 5.6, rows=2)
    for (title, points), scatter, density in zip(
        sets.items(), axes[: len(sets)], axes[len(sets) :], strict=True
    ):
        points = np.asarray(points)
        colour = COLOURS.get(title, BLUE)
        scatter.scatter(*points[:_SHOWN].T, s=3, color=colour, alpha=0.35, linewidths=0)
        scatter.set_title(LABELS.get(title, title))
        _draw_density(density, points, limit, colour)
        for ax in (scatter, density):
            _square(ax, limit)
            ax.label_outer()
    return figure


@styled
def zoom_figure(
    sets: Mapping[str, Points], centre: tuple[float, float], width: float, radius: float
) -> Figure:
    """Point sets side by side in a small window around one mode.

    Args:
        sets: Points in the plane by title, data first.
        centre: The mode.
        width: Half the width of the window.
        radius: Radius of a circle around the mode, drawn for scale.
    """
    figure, axes = panels(len(sets), 2.9 * len(sets) + 0.3, 3.3, sharey=True)
    for ax, (title, points) in zip(axes, sets.items(), strict=True):
        offset = np.asarray(points) - np.asarray(centre)
        offset = offset[np.max(np.abs(offset), axis=1) < width]
        colour = COLOURS.get(title, BLUE)
        ax.add_patch(Circle((0, 0), radius, fill=False, color=GREY, linewidth=0.9, linestyle="--"))
        ax.scatter(*offset.T, s=7, color=colour, alpha=0.6, linewidths=0)
        ax.annotate(
            f"r = {radius:g}",
            (radius * np.cos(0.8), radius * np.sin(0.8)),
            xytext=(3, 3),
            textcoords="offset points",
            color=GREY,
            fontsize=8,
        )
        ax.set_title(f"{LABELS.get(title, title)}: {len(offset):,} points")
        _square(ax, width)
    figure.supxlabel(f"offset from the mode ({centre[0]:g}, {centre[1]:g})", fontsize=10)
    return figure


@styled
def trajectories_figure(
    trajectory: Float[Array, "times num 2"] | Float[np.ndarray, "times num 2"],
    data: Points,
    limit: float | None = None,
) -> Figure:
    """Generation paths in the plane, from the noise to the samples, over the data.

    Args:
        trajectory: Positions; the first time is the noise, the last the samples.
        data: Data to draw underneath.
        limit: Half the width of the square that is shown; by default all paths fit.
    """
    positions = np.asarray(trajectory)
    figure, (ax,) = panels(1, 4.8, 4.6)
    ax.scatter(*np.asarray(data).T, s=36, color=VERMILION, alpha=0.35, linewidths=0, label="data")
    for path in positions.swapaxes(0, 1):
        ax.plot(*path.T, color=BLUE, alpha=0.3, linewidth=0.7)
    ax.scatter(*positions[0].T, s=9, color=GREY, linewidths=0, label="noise", zorder=3)
    ax.scatter(*positions[-1].T, s=9, color=INK, linewidths=0, label="samples", zorder=3)
    _square(ax, 1.05 * float(np.abs(positions).max()) if limit is None else limit)
    legend = figure.legend(loc="outside upper center", ncols=3, markerscale=1.2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


@styled
def images_figure(
    sets: Mapping[str, Points | Images], side: int | None = None, rows: int = 8
) -> Figure:
    """Square grids of images side by side; grey ones white on black.

    Args:
        sets: By title, data first: images as `image_grid` takes them, or as vectors of `side**2`
            values in `[-1, 1]`.
        side: Height and width in pixels of images that are vectors.
        rows: Images along each side of a grid.
    """
    figure, axes = panels(len(sets), 3.6 * len(sets), 3.85)
    for ax, (title, images) in zip(axes, sets.items(), strict=True):
        images = np.asarray(images)
        if side is not None:
            images = images.reshape(-1, side, side, 1)
        ax.imshow(image_grid(images, rows), interpolation="nearest")
        ax.set_title(LABELS.get(title, title))
        ax.axis("off")
    return figure


def image_grid(images: Images, rows: int = 8) -> UInt8[np.ndarray, "height width 3"]:
    """Tiles the first `rows**2` images, each in a frame of black one pixel wide.

    Args:
        images: Of shape `(num, height, width, colours)` with one or three colours; bytes, or
            floats in `[-1, 1]`.
        rows: Images along each side of the grid.

    Returns:
        One image as bytes, pixel for pixel.
    """
    shown = np.asarray(images)[: rows**2]
    if shown.dtype != np.uint8:
        shown = to_uint8(np.asarray(shown, np.float32))
    num, height, width, _ = shown.shape
    framed = np.zeros((rows**2, height + 2, width + 2, 3), np.uint8)
    framed[:num, 1:-1, 1:-1] = shown
    tiled = framed.reshape(rows, rows, height + 2, width + 2, 3).swapaxes(1, 2)
    return tiled.reshape(rows * (height + 2), rows * (width + 2), 3)


def _draw_density(ax: Axes, points: np.ndarray, limit: float, colour: str) -> None:
    edges = np.linspace(-limit, limit, _BINS + 1)
    counts, _, _ = np.histogram2d(*points.T, bins=(edges, edges))
    # A little blur: bins are narrower than the distance between neighbouring samples.
    density = gaussian_filter(counts.T, 1.2)
    ax.imshow(
        density,
        origin="lower",
        extent=(-limit, limit, -limit, limit),
        cmap=LinearSegmentedColormap.from_list("", ["white", colour, INK]),
        norm=PowerNorm(0.6, vmin=0, vmax=max(density.max(), 1e-9)),
        interpolation="bilinear",
    )


def _square(ax: Axes, limit: float) -> None:
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.locator_params(nbins=4)
