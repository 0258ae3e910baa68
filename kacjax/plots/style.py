"""The look that all figures share: colours, type, and figures without global state."""

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeAlias

import matplotlib
import numpy as np
from jaxtyping import Array, Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points: TypeAlias = Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
"""Points as rows, in JAX or NumPy."""

Images: TypeAlias = (
    Float[Array, "_ _ _ _"] | Float[np.ndarray, "_ _ _ _"] | UInt8[np.ndarray, "_ _ _ _"]
)
"""Images of shape `(num, height, width, channels)`, as floats in `[-1, 1]` or as bytes."""

# Okabe and Ito's palette, told apart by colour-blind readers and in grey.
BLUE, VERMILION, GREEN, ORANGE, SKY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#56B4E9"
INK, GREY, PALE = "#222222", "#777777", "#CCCCCC"

COLOURS = {
    "data": GREY,
    "kac": BLUE,
    "kac-t": BLUE,
    "kac-t2": SKY,
    "diffusion": VERMILION,
    "flow-matching": GREEN,
}
"""One colour for each model, the same in every figure."""

LABELS = {
    "kac": "Kac flow",
    "kac-t": "Kac, clock t",
    "kac-t2": "Kac, clock t²",
    "diffusion": "diffusion",
    "flow-matching": "flow matching",
}
"""What titles call the models."""

STYLE: dict[Any, Any] = {
    "figure.dpi": 160,
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.labelsize": 10,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "mathtext.fontset": "cm",
}
"""Matplotlib's settings for every figure."""

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in the common style and leaves the caller's matplotlib settings alone."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def panels(
    columns: int, width: float, height: float, rows: int = 1, **kwargs
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot, with its axes in reading order; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(axes.flat)
