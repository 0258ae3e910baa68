"""Figures, drawn on request and returned; saving them is the caller's."""

from kacjax.plots.animation import trajectory_gif
from kacjax.plots.neighbours import neighbours_figure
from kacjax.plots.process import density_figure, paths_figure, velocity_figure
from kacjax.plots.samples import (
    images_figure,
    points_figure,
    trajectories_figure,
    zoom_figure,
)
from kacjax.plots.style import COLOURS

__all__ = [
    "COLOURS",
    "density_figure",
    "images_figure",
    "neighbours_figure",
    "paths_figure",
    "points_figure",
    "trajectories_figure",
    "trajectory_gif",
    "velocity_figure",
    "zoom_figure",
]
