"""Data: two-dimensional targets as samplers `(key, num) -> points`, and real digits."""

from kacjax.data.checkerboard import checkerboard
from kacjax.data.digits import DIGITS_SIDE, Digits, load_digits
from kacjax.data.funnel import funnel
from kacjax.data.grid2d import GRID2D_MODES, GRID2D_STD, grid2d
from kacjax.data.moons import moons
from kacjax.data.spirals import spirals
from kacjax.data.targets import TARGETS, Sampler, target

__all__ = [
    "DIGITS_SIDE",
    "GRID2D_MODES",
    "GRID2D_STD",
    "TARGETS",
    "Digits",
    "Sampler",
    "checkerboard",
    "funnel",
    "grid2d",
    "load_digits",
    "moons",
    "spirals",
    "target",
]
