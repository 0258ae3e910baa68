"""Figures, drawn on request and returned; saving them is the caller's."""

from kacjax.plots.process import density_figure, paths_figure, velocity_figure
from kacjax.plots.samples import (
    images_figure,
    points_figure,
    trajectories_figure,
    trajectory_gif,
    zoom_figure,
)
from kacjax.plots.style import COLORS, LABELS, panels, styled

__all__ = [
    "COLORS",
    "LABELS",
    "density_figure",
    "images_figure",
    "panels",
    "paths_figure",
    "points_figure",
    "styled",
    "trajectories_figure",
    "trajectory_gif",
    "velocity_figure",
    "zoom_figure",
]
