"""What an integration does: its solver, its times and its coordinates, checked before it is compiled."""

from collections.abc import Callable
from typing import NamedTuple, TypedDict

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._pytrees import as_arrays
from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice, check_positive, is_concrete
from kacjax.generation.coordinates import (
    COORDINATES,
    Frame,
    FrameTable,
    frame_at,
    is_straightened,
    place,
)
from kacjax.generation.grids import default_grid
from kacjax.generation.solvers import ADAPTIVE, FIXED
from kacjax.paths import ProbabilityPath
from kacjax.schedules import check_grid, power_grid

CONTROLS = ("joint", "sample")

# Adaptive solvers choose their steps down to this fraction of T, in straight coordinates to the tolerance
# within these bounds; one more step leads to 0.
_EARLIEST, _LATEST = 1e-6, 1e-2


class Options(TypedDict, total=False):
    """The keywords that choose a solver; see `generate`."""

    solver: str
    coordinates: str | None
    grid: str | None
    power: Scalar | None
    rtol: float
    atol: float
    control: str | None


class Plan(NamedTuple):
    """What an integration does, decided before it is compiled.

    Attributes:
        solver: Name of the solver.
        control: Whether steps are chosen for the batch (`joint`) or for each `sample`.
        tolerances: Relative and absolute tolerance.
        to_zero: Whether the last time is 0.
        ends: The first and the last time.
        stops: The times at which fixed steps end, falling; an adaptive solver's two ends. In straight
            coordinates the places.
        earliest: Where an adaptive solver ends if the last time is 0: one more step leads there.
        path: The path in whose straight coordinates the equation is solved, if it is.
        frames: The frames of its places, if it is.
    """

    solver: str
    control: str
    tolerances: tuple[Array, Array]
    to_zero: bool
    ends: Float[Array, " 2"]
    stops: Float[Array, " stops"]
    earliest: Float[Array, ""]
    path: ProbabilityPath | None = None
    frames: Callable[[Array], Frame] | None = None

    @property
    def adaptive(self) -> bool:
        """Whether the number of evaluations depends on the sample."""
        return self.solver in ADAPTIVE


def make_plan(
    path: ProbabilityPath,
    steps: int,
    *,
    solver: str = "ab2",
    coordinates: str | None = None,
    grid: str | None = None,
    power: Scalar | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    control: str | None = None,
    t_min: Scalar = 0.0,
) -> Plan:
    """Checks the solver's arguments, and lists the times at which it stops.

    Raises:
        ValueError: If a name is unknown, `steps` below 1, a tolerance not positive, `t_min`
            outside `[0, T)`, or the path's components have no straight coordinates in common.
    """
    check_choice("solver", solver, [*FIXED, *ADAPTIVE])
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    control = control or "joint"
    check_choice("control", control, CONTROLS)
    # Fixed steps are the same for all: what is compiled should not depend on the control.
    control = "joint" if solver in FIXED else control
    if coordinates is not None:
        check_choice("coordinates", coordinates, COORDINATES)
    straight = coordinates != "time" and is_straightened(path)
    if coordinates == "straight" and not straight:
        raise ValueError(
            "coordinates must be 'time' where components have processes of their own, got 'straight'."
        )
    if grid is None:
        grid, default = default_grid(path, "straight" if straight else "time")
        power = default if power is None else power
    power = check_grid(grid, path.T, steps, power, t_min)
    to_zero = is_concrete(t_min) and bool(t_min == 0)
    numbers = (rtol, atol, power, 0.0 if to_zero else t_min)
    rtol_, atol_, power_, last = (jnp.asarray(value, jnp.result_type(float)) for value in numbers)
    path = as_arrays(path)
    # An integer of NumPy's would be traced.
    chosen = (path, solver, int(steps), power_, last, to_zero)
    if not straight:
        return Plan(solver, control, (rtol_, atol_), to_zero, *_lay(*chosen))
    ends, stops, earliest, frames = _lay_straight(*chosen, atol_)
    return Plan(solver, control, (rtol_, atol_), to_zero, ends, stops, earliest, path, frames)


@eqx.filter_jit
def _lay(
    path: ProbabilityPath,
    solver: str,
    steps: int,
    power: Array,
    t_min: Array,
    to_zero: bool,
) -> tuple[Array, Array, Array]:
    """The times of a plan: its ends, its stops, and where an adaptive solver ends."""
    T = jnp.asarray(path.T, power.dtype)
    stops = power_grid(T, steps, power, 0.0 if to_zero else t_min)
    ends = stops[jnp.array([0, -1])]
    return ends, ends if solver in ADAPTIVE else stops, _EARLIEST * T


@eqx.filter_jit
def _lay_straight(
    path: ProbabilityPath,
    solver: str,
    steps: int,
    power: Array,
    t_min: Array,
    to_zero: bool,
    atol: Array,
) -> tuple[Array, Array, Array, Callable[[Array], Frame]]:
    """The ends in time, the rest in places, and the frames."""
    T = jnp.asarray(path.T, power.dtype)
    ends = jnp.stack([T, t_min])
    first, last, soonest = place(path, jnp.stack([T, t_min, _EARLIEST * T]))
    # What the last step does wrong is at most so far as the tolerance allows.
    earliest = jnp.maximum(soonest, first * jnp.clip(atol, _EARLIEST, _LATEST))
    # A traced 0 would have no derivative as an end of the grid.
    stops = power_grid(first, steps, power, 0.0 if to_zero else last)
    if solver in ADAPTIVE:
        return ends, stops[jnp.array([0, -1])], earliest, eqx.Partial(frame_at, path)
    middles = (stops[:-1] + stops[1:]) / 2
    # Nobody asks at 0, but in the middle of the last step.
    asked = jnp.concatenate([stops[:-1] if to_zero else stops, middles])
    return ends, stops, earliest, FrameTable(asked, frame_at(path, asked))


def check_saved(times: ArrayLike, path: ProbabilityPath) -> Float[Array, " times"]:
    """The times of a trajectory as a vector.

    Raises:
        ValueError: If concrete times do not fall, or leave `[0, T]`.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    if is_concrete(times) and is_concrete(path.T):
        falling = times.ndim == 1 and times.size > 0 and bool(jnp.all(jnp.diff(times) <= 0))
        if not falling or times[0] > path.T or times[-1] < 0:
            raise ValueError(
                f"times must be a vector that falls within [0, {path.T}], got {times}."
            )
    return times
