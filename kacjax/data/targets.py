"""The two-dimensional targets by name."""

from collections.abc import Callable
from typing import TypeAlias

from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import choose
from kacjax.data.checkerboard import checkerboard
from kacjax.data.funnel import funnel
from kacjax.data.grid2d import grid2d
from kacjax.data.moons import moons
from kacjax.data.spirals import spirals

Sampler: TypeAlias = Callable[[Key, int], Float[Array, "num 2"]]
"""A pure function `(key, num) -> points`; `num` is static under `jit`."""

TARGETS: dict[str, Sampler] = {
    "grid2d": grid2d,
    "moons": moons,
    "checkerboard": checkerboard,
    "spirals": spirals,
    "funnel": funnel,
}
"""Every two-dimensional target: its points lie in about `[-1.5, 1.5]^2`."""


def target(name: str) -> Sampler:
    """The sampler of this name.

    Raises:
        ValueError: If the name is unknown; the message lists those that are known.
    """
    return choose("target", name, TARGETS)
