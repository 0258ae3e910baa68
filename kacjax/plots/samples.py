"""Figures of samples, points in the plane or images: beside data, and on their way from noise."""

import os
from collections.abc import Mapping

import numpy as np

from kacjax._optional import require
from kacjax.data import to_float
from kacjax.plots import style
from kacjax.plots.style import COLORS, LABELS, Axes, Figure, Samples, panels, styled

# How images of values in [-1, 1] are shown; those in color are shown as they are.
_GRAYS = {"cmap": "gray", "vmin": -1, "vmax": 1, "interpolation": "nearest"}


@styled
def points_figure(sets: Mapping[str, Samples], limit: float = 1.9) -> Figure:
    """Point sets by title, data first, side by side: a scatter above its density.

    The square that is shown has half the width `limit`; the three models have their `COLORS`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> figure = kacjax.plots.points_figure({"data": x, "kac": x / 2})
    """
    figure, axes = panels(len(sets), 2.7 * len(sets) + 0.3, 5.6, rows=2)
    for i, (title, points) in enumerate(sets.items()):
        points, color = np.asarray(points), COLORS.get(title, style.BLUE)
        axes[i].scatter(*points[:5000].T, s=3, color=color, alpha=0.35, linewidths=0)
        axes[i].set_title(LABELS.get(title, title))
        _draw_density(axes[i + len(sets)], points, limit, color)
    for ax in axes:
        _square(ax, limit)
    return figure


@styled
def zoom_figure(
    sets: Mapping[str, Samples], center: tuple[float, float], width: float, radius: float
) -> Figure:
    """Point sets side by side in a small window around one mode, with a circle for scale.

    The mode is the `center` of the window, of half the width `width`; `sets` as in `points_figure`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (100, 2))
        >>> figure = kacjax.plots.zoom_figure({"data": x}, (0.0, 0.0), width=1.0, radius=0.5)
    """
    figure, axes = panels(len(sets), 2.9 * len(sets) + 0.3, 3.7, sharey=True)
    angle = np.linspace(0, 2 * np.pi, 100)
    for ax, (title, points) in zip(axes, sets.items(), strict=True):
        offset = np.asarray(points) - np.asarray(center)
        offset = offset[np.max(np.abs(offset), axis=1) < width]
        ax.plot(radius * np.cos(angle), radius * np.sin(angle), "--", color=style.GRAY)
        ax.text(0.7 * radius, 0.75 * radius, f"r = {radius:g}", color=style.GRAY, fontsize=8)
        ax.scatter(*offset.T, s=7, color=COLORS.get(title, style.BLUE), alpha=0.6, linewidths=0)
        ax.set_title(f"{LABELS.get(title, title)}: {len(offset):,} points")
        _square(ax, width)
    figure.supxlabel(f"offset from the mode ({center[0]:g}, {center[1]:g})", fontsize=10)
    return figure


@styled
def trajectories_figure(trajectory: Samples, data: Samples) -> Figure:
    """Generation paths in the plane, `(times, num, 2)` from noise to samples, over the data.

    Example:
        >>> noise = jax.random.normal(jax.random.key(0), (30, 2))
        >>> figure = kacjax.plots.trajectories_figure(jnp.stack([noise, noise / 2]), data=noise / 2)
    """
    positions = np.asarray(trajectory)
    figure, (ax,) = panels(1, 4.8, 4.6)
    ax.scatter(*np.asarray(data).T, s=36, color=style.VERMILION, alpha=0.35, label="data")
    ax.plot(*positions.transpose(2, 0, 1), color=style.BLUE, alpha=0.3, linewidth=0.7)
    ax.scatter(*positions[0].T, s=5, color=style.GRAY, label="noise", zorder=3)
    ax.scatter(*positions[-1].T, s=5, color=style.INK, label="samples", zorder=3)
    _square(ax, 1.05 * float(np.abs(positions).max()))
    figure.legend(loc="outside upper center", ncols=3, markerscale=1.2)
    return figure


@styled
def images_figure(sets: Mapping[str, Samples], side: int | None = None, rows: int = 8) -> Figure:
    """Square grids of images by title, data first, side by side, gray ones white on black.

    Images are bytes or values in `[-1, 1]`, of shape `(num, height, width, channels)` or vectors of
    `side**2` values. Each grid has as many `rows` as columns.

    Example:
        >>> figure = kacjax.plots.images_figure({"data": np.zeros((3, 8, 8, 1))}, rows=2)
        >>> figure.axes[0].images[0].get_array().shape
        (20, 20)
    """
    figure, axes = panels(len(sets), 3.6 * len(sets), 3.85)
    for ax, (title, images) in zip(axes, sets.items(), strict=True):
        ax.imshow(_tiled(images, side, rows, rows), **_GRAYS)
        ax.set_title(LABELS.get(title, title))
        ax.axis("off")
    return figure


@styled
def trajectory_gif(
    file: str | os.PathLike, trajectory: Samples, times: Samples, side: int | None = None
) -> None:
    """Writes points or images on their way from noise to data as a GIF of 20 frames a second.

    Args:
        file: The file to write.
        trajectory: Positions `(times, num, *event)`, as `kacjax.trajectory` returns them: points
            in the plane, or images as in `images_figure`; others are a `ValueError`.
        times: The times, for the title.
        side: Height and width of images that are vectors.

    Example:
        >>> from tempfile import mkdtemp
        >>> kacjax.plots.trajectory_gif(mkdtemp() + "/points.gif", np.ones((2, 5, 2)), np.ones(2))
    """
    positions = np.asarray(trajectory)
    images = side is not None or positions.ndim == 5
    if not images and positions.shape[2:] != (2,):
        allowed = "points in the plane, images (height, width, channels), or vectors with a side"
        raise ValueError(f"trajectory must hold {allowed}; got shape {positions.shape}.")
    writer = require("matplotlib.animation", "plots").PillowWriter(fps=20)
    figure, (ax,) = panels(1, 4.2, 4.4)
    figure.set_layout_engine("none")  # One that adapts would move from frame to frame.
    require("matplotlib.backends.backend_agg", "plots").FigureCanvasAgg(figure)
    if images:
        positions = [_tiled(x, side, 8, 8) for x in positions]
        show = ax.imshow(positions[0], **_GRAYS).set_data
        ax.axis("off")
    else:
        show = ax.scatter(*positions[0].T, s=5, color=style.BLUE, alpha=0.6, lw=0).set_offsets
        _square(ax, 1.05 * float(np.abs(positions).max()))
    with writer.saving(figure, os.fspath(file), dpi=100):
        for t, x in zip(np.asarray(times), positions, strict=True):
            show(x)
            ax.set_title(f"$t = {t:.3f}$")
            writer.grab_frame()
        for _ in range(20):  # The last is shown for a second.
            writer.grab_frame()


def _tiled(images: Samples, side: int | None, rows: int, columns: int) -> np.ndarray:
    """The first images in frames of black: one of values in [-1, 1], or in color in [0, 1]."""
    images = np.asarray(images[: rows * columns])
    images = to_float(images) if images.dtype == np.uint8 else images
    images = images if side is None else images.reshape(-1, side, side, 1)
    num, height, width, channels = images.shape
    framed = np.full((rows, columns, height + 2, width + 2, channels), -1.0)
    framed.reshape(-1, *framed.shape[2:])[:num, 1:-1, 1:-1] = images
    whole = framed.swapaxes(1, 2).reshape(rows * (height + 2), columns * (width + 2), channels)
    return whole[..., 0] if channels == 1 else np.clip((whole + 1) / 2, 0, 1)


def _square(ax: Axes, limit: float) -> None:
    """Shows the square of half the width `limit` around the origin, undistorted."""
    ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    ax.locator_params(nbins=4)


def _draw_density(ax: Axes, points: np.ndarray, limit: float, color: str) -> None:
    edges = np.linspace(-limit, limit, 161)
    counts, _, _ = np.histogram2d(*points.T, bins=(edges, edges))
    # A little blur: bins are narrower than the distance between neighboring samples.
    density = require("scipy.ndimage", "plots").gaussian_filter(counts.T, 1.2)
    colors = require("matplotlib.colors", "plots")
    shades = colors.LinearSegmentedColormap.from_list("", ["white", color, style.INK])
    norm = colors.PowerNorm(0.6, vmin=0, vmax=max(density.max(), 1e-9))
    ax.pcolormesh(edges, edges, density, cmap=shades, norm=norm, rasterized=True)
