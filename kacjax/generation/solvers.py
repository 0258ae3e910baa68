r"""Solvers of the path's ordinary differential equation, by Diffrax, and what they cost.

| solver | order | evaluations for $n$ steps | steps |
| --- | --- | --- | --- |
| `euler` | 1 | $n$ | fixed |
| `ab2` | 2 | $n$ | fixed |
| `heun` | 2 | $2n$ | fixed |
| `midpoint` | 2 | $2n$ | fixed |
| `rk4` | 4 | $4n$, or $4n - 2$ from or to $t = 0$ | fixed |
| `tsit5`, `dopri5` | 5 | $6n + 1$, or $6n + 3$ | adaptive |
| `dopri8` | 8 | $13n + 1$, or $13n + 3$ | adaptive |

`ab2`, the Adams-Bashforth method of two steps, extrapolates the slope from the one before. In straight
coordinates (`kacjax.generation.coordinates`) Euler's method is DDIM, and this one does what
DPM-Solver++(2M) does for a diffusion (C. Lu et al., arXiv 2211.01095).

Adaptive solvers are *first same as last*: the last stage of a step is the first of the next, also after
a rejected one, so that of 7 stages 6 are new. Rejected steps count.

**At $t = 0$** a velocity may be infinite, as a diffusion's is, and a network has never seen it, so no
solver asks there. Downwards, Euler's, Adams's and the midpoint rule never would; Adams's last step is
Euler's, since an extrapolation may lead anywhere where velocities are infinite. The others make their
last step by the midpoint rule: `heun` and `rk4` the last of the grid, adaptive solvers the one from
$10^{-6} T$, or in straight coordinates from the place that is the absolute tolerance. (Heun's rule with a
time shifted away from 0 would halve the last step of an exact straight line.) Upwards, the first slope is
taken in the middle of the step instead of at its beginning.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypedDict

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from kacjax._pytrees import as_arrays
from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice, check_positive, is_concrete
from kacjax.generation.coordinates import (
    COORDINATES,
    Frame,
    FrameTable,
    StraightField,
    bend,
    frame_at,
    is_straightened,
    place,
    straighten,
)
from kacjax.generation.grids import default_grid
from kacjax.paths import ProbabilityPath
from kacjax.schedules import check_grid, power_grid


class RungeKutta4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of fourth order, for fixed steps.

    Diffrax has none. Its embedded method, for an error that nobody asks for, is Euler's.
    """

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.ButcherTableau(
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1, 2, 2, 1]) / 6,
        b_error=np.array([-5, 2, 2, 1]) / 6,
        c=np.array([0.5, 0.5, 1.0]),
    )
    interpolation_cls: ClassVar[Callable[..., Any]] = (
        diffrax.ThirdOrderHermitePolynomialInterpolation.from_k
    )

    def order(self, terms):
        """The order of convergence."""
        return 4


class AdamsBashforth2(diffrax.AbstractSolver):
    r"""The Adams-Bashforth method of two steps, for steps of any length.

    $$ y_{k+1} = y_k + h_k \left(s_k + \frac{h_k}{2 h_{k-1}} (s_k - s_{k-1})\right) $$

    with the slopes $s_k$; Euler's method for the first step, and for one that ends at 0.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation

    def order(self, terms):
        """The order of convergence."""
        return 2

    def init(self, terms, t0, t1, y0, args):
        """No step and no slope."""
        return jnp.zeros_like(t0), jax.tree.map(jnp.zeros_like, y0)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step: the new state, and this step's length and slope for the next."""
        before, last = solver_state
        # Its sign is that of time, which Diffrax turns around.
        h, slope = terms.contr(t0, t1), terms.vf(t0, y0, args)
        extrapolates = (before != 0) & (t1 != 0)
        weight = jnp.where(extrapolates, h / (2 * jnp.where(before != 0, before, 1)), 0)
        y1 = jax.tree.map(lambda y, s, p: y + h * (s + weight * (s - p)), y0, slope, last)
        return y1, None, {"y0": y0, "y1": y1}, (h, slope), diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        """The slope."""
        return terms.vf(t0, y0, args)


FIXED: dict[str, tuple[Callable[[], diffrax.AbstractSolver], int]] = {
    "euler": (diffrax.Euler, 1),
    "ab2": (AdamsBashforth2, 1),
    "heun": (diffrax.Heun, 2),
    "midpoint": (diffrax.Midpoint, 2),
    "rk4": (RungeKutta4, 4),
}
"""Fixed-step solvers, with their evaluations a step."""

ADAPTIVE: dict[str, tuple[Callable[[], diffrax.AbstractSolver], int]] = {
    "tsit5": (diffrax.Tsit5, 6),
    "dopri5": (diffrax.Dopri5, 6),
    "dopri8": (diffrax.Dopri8, 13),
}
"""Adaptive solvers, with their evaluations a step; one more begins the whole."""

# These have no stage at the end of a step: towards t = 0 they need no other rule for the last one.
_OPEN = ("euler", "ab2", "midpoint")

CONTROLS = ("joint", "sample")

# Adaptive solvers choose their steps down to this fraction of T, in straight coordinates to the tolerance
# within these bounds; one more step leads to 0.
_EARLIEST, _LATEST = 1e-6, 1e-2
# Their first step and their longest one, in parts of all the time: over longer ones the velocity of
# simple data changes so much that error estimates vanish by chance.
_FIRST, _LONGEST = 0.01, 0.25
# Adaptive solvers stop with an error after this many steps, rejected ones included.
_MAX_STEPS = 16_384

Field = Callable[[Float[Array, " batch"], PyTree[Array], PyTree[Array]], PyTree[Array]]
"""A right-hand side `field(t, state, args)`; every leaf has the batch as its first axis."""


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
    chosen = (path, solver, int(steps), power_, last, to_zero, atol_)
    if not straight:
        return Plan(solver, control, (rtol_, atol_), to_zero, *_lay(*chosen))
    ends, stops, earliest, frames = _lay_straight(*chosen)
    return Plan(solver, control, (rtol_, atol_), to_zero, ends, stops, earliest, path, frames)


@eqx.filter_jit
def _lay(
    path: ProbabilityPath,
    solver: str,
    steps: int,
    power: Array,
    t_min: Array,
    to_zero: bool,
    atol: Array,
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


def integrate(
    field: Field,
    plan: Plan,
    state: PyTree[Array],
    args: PyTree[Array],
    saved: Float[Array, " saved"] | None = None,
    *,
    forwards: bool = False,
) -> tuple[PyTree[Array], Int[Array, "..."]]:
    """Solves `d state / dt = field(t, state, args)` over the plan's times.

    Args:
        field: The right-hand side; calls of one shape share one compilation where it is a pytree.
            With fixed steps in straight coordinates they share it for all paths.
        plan: The solver and its times.
        state: Start, at the plan's first time; its leaves have the batch as their first axis.
        args: What else the field gets, likewise.
        saved: Times at which the state is wanted, in the order of integration; the end if missing.
        forwards: Whether to start at the plan's last time and to integrate towards the noise.

    Returns:
        The states at `saved`, on a new first axis, or that at the end, and the number of evaluations:
        a scalar, or one for each sample where steps are chosen for each.
    """
    if plan.path is None or plan.frames is None:
        return _integrate(field, plan, state, args, saved, forwards)
    state, places = _enter(plan, state, saved, forwards)
    straight_field, frameless = (
        StraightField(field, plan.frames),
        plan._replace(path=None, frames=None),
    )
    states, nfe = _integrate(straight_field, frameless, state, args, places, forwards)
    return _leave(plan, states, saved, forwards), nfe


@eqx.filter_jit
def _enter(plan: Plan, state: Any, saved: Array | None, forwards: bool) -> tuple[Any, Array | None]:
    """The start in straight coordinates, and the places at which states are wanted."""
    assert plan.path is not None
    start = straighten(plan.path, plan.ends[1 if forwards else 0], state)
    if saved is None:
        return start, None
    return start, jnp.clip(place(plan.path, saved), plan.stops[-1], plan.stops[0])


@eqx.filter_jit
def _leave(plan: Plan, states: Any, saved: Array | None, forwards: bool) -> Any:
    """States in straight coordinates as they are."""
    assert plan.path is not None
    return bend(plan.path, plan.ends[0 if forwards else 1] if saved is None else saved, states)


@eqx.filter_jit
def _integrate(
    field: Field, plan: Plan, state: Any, args: Any, saved: Array | None, forwards: bool
) -> tuple[Any, Array]:
    if saved is None:
        # Of a kind with the rest: an axis of one time, which goes in the end.
        states, nfe = _integrate_all(field, plan, state, args, None, forwards)
        return jax.tree.map(lambda leaf: leaf[0], states), nfe
    return _integrate_all(field, plan, state, args, saved, forwards)


def _integrate_all(
    field: Field, plan: Plan, state: Any, args: Any, saved: Array | None, forwards: bool
) -> tuple[Any, Array]:
    """The states at all times asked for, or the last as the only one, with the evaluations."""
    if plan.control == "sample":

        def alone(state, args):
            state, args = jax.tree.map(lambda leaf: leaf[None], (state, args))
            states, nfe = _solve(field, plan, state, args, saved, forwards)
            return jax.tree.map(lambda leaf: leaf[:, 0], states), nfe

        return jax.vmap(alone, out_axes=(1, 0))(state, args)
    return _solve(field, plan, state, args, saved, forwards)


def _solve(
    field: Field, plan: Plan, state: Any, args: Any, saved: Array | None, forwards: bool
) -> tuple[Any, Array]:
    leaf = jax.tree.leaves(state)[0]
    batch, dtype = leaf.shape[:1], leaf.dtype
    stops, saved = plan.stops.astype(dtype), None if saved is None else saved.astype(dtype)

    def ask(t, state):
        return field(jnp.full(batch, t, dtype), state, args)

    # Where the interval ends at 0: the stop before it, and whether another rule takes that step.
    before = plan.earliest.astype(dtype) if plan.adaptive else stops[-2]
    own = not plan.to_zero or plan.solver in _OPEN
    earliest = before / 2 if plan.to_zero else stops[-1]

    def run(state, stops, saved):
        if stops.size < 2:
            size = 1 if saved is None else saved.size
            still = lambda leaf: jnp.broadcast_to(leaf, (size, *leaf.shape))  # noqa: E731
            return jax.tree.map(still, state), jnp.zeros((), int)
        if forwards:
            stops = stops[::-1]
        right_hand_side = lambda t, state, _: ask(jnp.maximum(t, earliest), state)  # noqa: E731
        return _diffrax(right_hand_side, plan, state, stops, saved)

    if own:
        return run(state, stops, saved)
    inner = stops.at[-1].set(before) if plan.adaptive else stops[:-1]
    if forwards:
        middle = _move(state, before / 2, ask(before / 2, state))
        states, nfe = run(_move(state, before, ask(before / 2, middle)), inner, saved)
        return states, jnp.asarray(nfe + 2)
    # The state before the last step comes with those asked for, the last one of all.
    times = saved
    if saved is not None:
        times = jnp.concatenate([jnp.maximum(saved, before), before[None]])
    states, nfe = run(state, inner, times)
    start = jax.tree.map(lambda leaf: leaf[-1], states)
    middle = _move(start, -before / 2, ask(before, start))
    end = _move(start, -before, ask(before / 2, middle))
    if saved is None:
        return jax.tree.map(lambda leaf: leaf[None], end), jnp.asarray(nfe + 2)

    def fill(states, start, end):
        column = jnp.expand_dims(saved, tuple(range(1, states.ndim)))
        between = start[None] + (end - start)[None] * jnp.maximum(1 - column / before, 0)
        return jnp.where(column < before, between, states[:-1])

    return jax.tree.map(fill, states, start, end), jnp.asarray(nfe + 2)


def _move(state: Any, time: Array, slope: Any) -> Any:
    return jax.tree.map(lambda leaf, change: leaf + time * change, state, slope)


def _diffrax(
    right_hand_side: Any, plan: Plan, state: Any, stops: Array, saved: Array | None
) -> tuple[Any, Array]:
    if plan.adaptive:
        method, evaluations = ADAPTIVE[plan.solver]
        relative, absolute = (tolerance.astype(stops.dtype) for tolerance in plan.tolerances)
        span = stops[-1] - stops[0]
        controller = diffrax.PIDController(
            rtol=relative, atol=absolute, dtmax=_LONGEST * jnp.abs(span)
        )
        first, max_steps = _FIRST * span, _MAX_STEPS
    else:
        method, evaluations = FIXED[plan.solver]
        controller = diffrax.StepTo(ts=stops)
        first, max_steps = None, stops.size - 1
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(right_hand_side),
        method(),
        t0=stops[0],
        t1=stops[-1],
        dt0=first,
        y0=state,
        saveat=diffrax.SaveAt(t1=True) if saved is None else diffrax.SaveAt(ts=saved),
        stepsize_controller=controller,
        max_steps=max_steps,
    )
    nfe = evaluations * solution.stats["num_steps"] + int(plan.adaptive)
    assert solution.ys is not None  # Something was saved, or diffeqsolve would have raised.
    return solution.ys, jnp.asarray(nfe)


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
