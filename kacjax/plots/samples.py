"""Figures of samples: beside data, up close, and on their way from the noise."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from scipy.ndimage import gaussian_filter

from kacjax.data import to_float
from kacjax.plots.style import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    LABELS,
    VERMILION,
    Images,
    Points,
    panels,
    styled,
)

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
            square(ax, limit)
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
    figure, axes = panels(len(sets), 2.9 * len(sets) + 0.3, 3.7, sharey=True)
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
        square(ax, width)
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
    square(ax, 1.05 * float(np.abs(positions).max()) if limit is None else limit)
    legend = figure.legend(loc="outside upper center", ncols=3, markerscale=1.2)
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_alpha(1)
    return figure


@styled
def images_figure(
    sets: Mapping[str, Points | Images], side: int | None = None, rows: int = 8
) -> Figure:
    """Square grids of images side by side, grey ones white on black.

    Args:
        sets: Images by title, data first, of values in `[-1, 1]` or as bytes: of shape
            `(num, height, width, channels)`, or as vectors of `side**2` values.
        side: Height and width in pixels of images that are vectors.
        rows: Images along each side of a grid.
    """
    figure, axes = panels(len(sets), 3.6 * len(sets), 3.85)
    for ax, (title, images) in zip(axes, sets.items(), strict=True):
        images = np.asarray(images)
        values = to_float(images) if images.dtype == np.uint8 else images
        ax.imshow(mosaic(values, side, rows), cmap="gray", vmin=-1, vmax=1)
        ax.set_title(LABELS.get(title, title))
        ax.axis("off")
    return figure


def mosaic(images: np.ndarray, side: int | None, rows: int) -> np.ndarray:
    """Tiles the first `rows**2` images, each in a frame of black one pixel wide.

    Args:
        images: Images `(num, height, width, channels)`, or vectors of `side**2` values.
        side: Height and width, where images are vectors.
        rows: Images along each side of the grid.

    Returns:
        An image of values in `[-1, 1]`, or in colour, of values in `[0, 1]`.
    """
    if side is not None:
        images = images.reshape(len(images), side, side, 1)
    height, width, channels = images.shape[1:]
    framed = np.full((rows**2, height + 2, width + 2, channels), -1.0)
    shown = images[: rows**2]
    framed[: len(shown), 1:-1, 1:-1] = shown
    tiled = framed.reshape(rows, rows, height + 2, width + 2, channels).swapaxes(1, 2)
    whole = tiled.reshape(rows * (height + 2), rows * (width + 2), channels)
    return whole[..., 0] if channels == 1 else np.clip((whole + 1) / 2, 0, 1)


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


def square(ax: Axes, limit: float) -> None:
    """Shows the square of half the width `limit` around the origin, undistorted."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.locator_params(nbins=4)
