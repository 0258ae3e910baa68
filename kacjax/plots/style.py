"""The look that all figures share: colors, type, and figures without global state."""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

import numpy as np
from jaxtyping import Array, Num

from kacjax._optional import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
else:  # Matplotlib is imported where something is drawn.
    Axes = Figure = Any

Samples: TypeAlias = Num[Array, "_ *_"] | Num[np.ndarray, "_ *_"]

# Okabe and Ito's palette, which color-blind readers tell apart.
BLUE, VERMILION, GREEN, SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
PURPLE, ORANGE = "#CC79A7", "#E69F00"
INK, GRAY, PALE = "#222222", "#777777", "#CCCCCC"

# One color for each model, the same in every figure, and what titles call the models.
COLORS = {"data": GRAY, "diffusion": VERMILION, "flow-matching": GREEN}
COLORS |= {"kac": BLUE, "kac-t": BLUE, "kac-t2": SKY, "vp": PURPLE, "edm": ORANGE}
LABELS = {"kac": "Kac flow", "kac-t": "Kac, clock t", "kac-t2": "Kac, clock t²"}
LABELS |= {"diffusion": "diffusion", "flow-matching": "flow matching"}
LABELS |= {"vp": "VP diffusion", "edm": "EDM"}

STYLE: dict[Any, Any] = {"figure.dpi": 160, "legend.frameon": False, "mathtext.fontset": "cm"}
STYLE |= {"text.color": INK, "axes.titlesize": 11, "axes.edgecolor": GRAY, "axes.labelcolor": INK}
STYLE |= {"axes.spines.top": False, "axes.spines.right": False}
for _axis in ("xtick", "ytick"):
    STYLE |= {f"{_axis}.color": GRAY, f"{_axis}.labelcolor": INK, f"{_axis}.labelsize": 9}

P = ParamSpec("P")
R = TypeVar("R")


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Draws in the common style and leaves the caller's matplotlib settings alone.

    Example:
        >>> draw = kacjax.plots.styled(lambda: kacjax.plots.panels(1, 4.0, 3.0)[0])
        >>> round(draw().dpi)
        160
    """

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with require("matplotlib", "plots").rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def panels(
    columns: int, width: float, height: float, rows: int = 1, **kwargs: Any
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
