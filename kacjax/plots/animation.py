"""Animations of generation, as GIF files."""

import os

import numpy as np
from jaxtyping import Array, Float
from matplotlib import rc_context
from matplotlib.animation import PillowWriter
from matplotlib.backends.backend_agg import FigureCanvasAgg

from kacjax._validation import check_count
from kacjax.plots.samples import mosaic, square
from kacjax.plots.style import BLUE, GREY, STYLE, VERMILION, Points, panels


def trajectory_gif(
    file: str | os.PathLike,
    trajectory: Float[Array, "times num *event"] | Float[np.ndarray, "times num *event"],
    times: Float[Array, " times"] | Float[np.ndarray, " times"] | None = None,
    *,
    data: Points | None = None,
    side: int | None = None,
    limit: float | None = None,
    rows: int = 8,
    fps: int = 20,
    hold: float = 1.0,
) -> None:
    """Writes samples on their way from noise to data as an animated GIF.

    Args:
        file: The file to write.
        trajectory: Positions at every time, as `trajectory` returns them: points in the plane,
            images `(height, width, channels)` with one channel or three and values in `[-1, 1]`, or
            grey images as vectors of `side**2` values.
        times: The times, for the title.
        data: Points to draw underneath, where samples are points.
        side: Height and width of images that are vectors.
        limit: Half the width of the square shown, where samples are points; by default all fit.
        rows: Images along each side of the grid.
        fps: Frames per second, one frame for each time.
        hold: Seconds for which the last frame stays.

    Raises:
        ValueError: If the samples are neither points in the plane nor images, or a count is wrong.
    """
    positions = np.asarray(trajectory)
    check_count("fps", fps)
    check_count("rows", rows)
    event = positions.shape[2:]
    images = side is not None or len(event) == 3
    if not images and event != (2,):
        raise ValueError(
            "trajectory must hold points in the plane, images (height, width, channels), or "
            f"vectors with their side given; got samples of shape {event}."
        )
    with rc_context(STYLE):
        figure, (ax,) = panels(1, 4.2, 4.4)
        FigureCanvasAgg(figure)
        if images:
            picture = ax.imshow(mosaic(positions[0], side, rows), cmap="gray", vmin=-1, vmax=1)
            ax.axis("off")

            def show(x):
                picture.set_data(mosaic(x, side, rows))

        else:
            if data is not None:
                ax.scatter(*np.asarray(data).T, s=14, color=VERMILION, alpha=0.35, linewidths=0)
            points = ax.scatter(*positions[0].T, s=5, color=BLUE, alpha=0.6, linewidths=0)
            square(ax, 1.05 * float(np.abs(positions).max()) if limit is None else limit)

            def show(x):
                points.set_offsets(x)

        title = ax.set_title("", color=GREY)
        writer = PillowWriter(fps=fps)
        with writer.saving(figure, os.fspath(file), dpi=100):
            last = len(positions) - 1
            for i, x in enumerate(positions):
                show(x)
                title.set_text("" if times is None else f"$t = {float(times[i]):.3f}$")
                for _ in range(1 + (round(hold * fps) if i == last else 0)):
                    writer.grab_frame()
