"""The look that all figures share: colors, type, and figures without global state."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias

import numpy as np
from jaxtyping import Array, Float, UInt8

from kacjax._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # Matplotlib is imported where something is drawn.
    Axes = Figure = Any

Points: TypeAlias = Float[Array, "_ _"] | Float[np.ndarray, "_ _"]
"""Points as rows, in JAX or NumPy."""

Images: TypeAlias = (
    Float[Array, "_ _ _ _"] | Float[np.ndarray, "_ _ _ _"] | UInt8[np.ndarray, "..."]
)
"""Images of shape `(num, height, width, channels)`, as floats in `[-1, 1]` or as bytes."""

# Okabe and Ito's palette, told apart by color-blind readers and in gray.
BLUE, VERMILION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
INK, GRAY, PALE = "#222222", "#777777", "#CCCCCC"

# One color for each model, the same in every figure.
COLORS = {"data": GRAY, "diffusion": VERMILION, "flow-matching": GREEN}
COLORS |= {"kac": BLUE, "kac-t": BLUE, "kac-t2": SKY}

# What titles call the models.
LABELS = {"kac": "Kac flow", "kac-t": "Kac, clock t", "kac-t2": "Kac, clock t²"}
LABELS |= {"diffusion": "diffusion", "flow-matching": "flow matching"}

STYLE: dict[Any, Any] = {
    "figure.dpi": 160,
    "text.color": INK,
    "axes.titlesize": 11,
    "axes.edgecolor": GRAY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    **{f"{axis}tick.{part}": GRAY for axis in "xy" for part in ("color", "labelcolor")},
    **{f"{axis}tick.labelsize": 9 for axis in "xy"},
    "legend.fontsize": 9,
    "legend.frameon": False,
    "mathtext.fontset": "cm",
}

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Draws in the common style and leaves the caller's matplotlib settings alone.

    Example:
        >>> draw = kacjax.plots.styled(lambda: kacjax.plots.panels(1, 4.0, 3.0)[0])
        >>> round(draw().dpi)
        160
    """

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with require("matplotlib", "plots").rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def panels(
    columns: int, width: float, height: float, rows: int = 1, **kwargs
) -> tuple[Figure, list[Axes]]:
    """A figure outside pyplot, with its axes in reading order; sizes in inches.

    Example:
        >>> figure, axes = kacjax.plots.panels(3, width=6.0, height=4.0, rows=2)
        >>> len(axes)
        6
    """
    figure = require("matplotlib.figure", "plots").Figure((width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    return figure, list(axes.flat)
