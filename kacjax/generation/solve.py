r"""The one integrator: the path's equation solved by Diffrax, between any two times.

What is solved is $du = \text{slope} \, d\rho$, see `kacjax.generation.coordinates`: a
`diffrax.ControlTerm`. A solver that evaluates inside of its steps would take the control for linear
there, and gets its derivative (`to_ode`).

**At $t = 0$** a velocity may be infinite, and a network has never seen it, so that no solver asks
there. A solver with stages at the end of a step makes the last one to 0, or the first one from 0, by
the midpoint rule; an adaptive one from where $\rho$ is the absolute tolerance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from kacjax._pytrees import as_arrays
from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import (
    as_floats,
    check_choice,
    check_count,
    check_labels,
    check_path,
    check_positive,
    is_concrete,
)
from kacjax.generation.coordinates import COORDINATES, Coordinates, make_coordinates
from kacjax.generation.solvers import ADAPTIVE, evaluations, make_solver, stage_times
from kacjax.paths import ProbabilityPath

# First and longest step of an adaptive solver, in parts of the whole: over longer ones the velocity
# of simple data changes so much that error estimates vanish by chance.
_FIRST, _LONGEST = 0.01, 0.25
# Where an adaptive solver turns to the midpoint rule, in parts of the whole rho.
_EARLIEST, _LATEST = 1e-6, 1e-2
_MAX_STEPS = 16_384

Velocity = Callable[..., Array]
"""Any function `velocity(t, x)`, or `velocity(t, x, label)` where labels are given.

`t` has the shape `(batch,)`, `x` `(batch, *event)` and `label` is int32 of shape `(batch,)`.
"""

Field = Callable[[Coordinates, Array, PyTree[Array], PyTree[Array]], PyTree[Array]]
"""A right-hand side `field(coordinates, tau, state, args)`, by the control."""


class Options(TypedDict, total=False):
    """The keywords that choose a solver; see `generate`."""

    solver: str | diffrax.AbstractSolver
    coordinates: str | None
    grid_power: Scalar
    rtol: Scalar | None
    atol: Scalar | None
    per_sample_steps: bool


class Plan(NamedTuple):
    """An integration, decided before it is compiled.

    Attributes:
        solver: The solver.
        coordinates: The coordinates.
        taus: Solver times of the fixed steps; an adaptive solver's two ends.
        edge: Three solver times, of a step to or from 0 by the midpoint rule; or None.
        floor: Nothing is asked at earlier solver times.
        tolerances: Relative and absolute tolerance of an adaptive solver; else None.
        per_sample: Whether each sample has its own steps.
        upwards: Whether the way leads from the data to the noise.
    """

    solver: diffrax.AbstractSolver
    coordinates: Coordinates
    taus: Float[Array, " times"]
    edge: Float[Array, " 3"] | None
    floor: Float[Array, ""]
    tolerances: tuple[Array, Array] | None
    per_sample: bool
    upwards: bool


def make_plan(
    path: ProbabilityPath,
    t0: Scalar,
    t1: Scalar,
    steps: int | ArrayLike = 50,
    *,
    upwards: bool = False,
    solver: str | diffrax.AbstractSolver = "ab2",
    coordinates: str | None = None,
    grid_power: Scalar = 2.0,
    rtol: Scalar | None = None,
    atol: Scalar | None = None,
    per_sample_steps: bool = False,
) -> Plan:
    """Checks the options of a solver, and lists the times at which it stops; see `generate`."""
    named = isinstance(solver, str) and solver in ADAPTIVE
    adaptive = named or rtol is not None or atol is not None
    solver = make_solver(solver)
    if coordinates is not None:
        check_choice("coordinates", coordinates, COORDINATES)
    rtol, atol = (1e-3 if value is None else value for value in (rtol, atol))
    for name, value in (("rtol", rtol), ("atol", atol), ("grid_power", grid_power)):
        check_positive(name, value)
    times = None
    if isinstance(steps, int | np.integer):
        check_count("steps", steps)
        steps = int(steps)
    else:
        times = check_times("steps", steps, path, falling=not upwards)
        if times.size < 2:
            raise ValueError(f"steps must be an integer, or two times at least; got {steps}.")
        t0, t1, steps = times[0], times[-1], 0
    # A 0 that is known is the end of the data, which needs care; a traced one is a number.
    low, high = (t0, t1) if upwards else (t1, t0)
    to_zero = is_concrete(low) and bool(np.all(np.asarray(low) == 0))
    numbers = (high, 0.0 if to_zero else low, grid_power, rtol, atol)
    return _lay(
        make_coordinates(as_arrays(path), coordinates),
        solver,
        tuple(jnp.asarray(number, jnp.result_type(float)) for number in numbers),
        times,
        steps,
        to_zero,
        adaptive,
        bool(per_sample_steps) and adaptive,
        upwards,
    )


@eqx.filter_jit
def _lay(
    coordinates: Coordinates,
    solver: diffrax.AbstractSolver,
    numbers: tuple[Array, ...],
    times: Array | None,
    steps: int,
    to_zero: bool,
    adaptive: bool,
    per_sample: bool,
    upwards: bool,
) -> Plan:
    high, low, power, rtol, atol = numbers
    # The same times both ways: they are laid downwards.
    if times is None:
        taus = coordinates.grid(high, 0.0 if to_zero else low, steps, power)
    else:
        taus = coordinates.solver_time(times[::-1] if upwards else times)
    edge, floor = None, taus[-1]
    if adaptive:
        taus = taus[jnp.array([0, -1])]
    if to_zero:
        before = taus[-2]
        if adaptive:
            tolerance = jnp.clip(atol, _EARLIEST, _LATEST)
            before = coordinates.at_rho(coordinates.rho(taus[0]) * tolerance)
        floor = coordinates.at_rho(coordinates.rho(before) / 2)
        if adaptive or 1.0 in stage_times(solver):
            edge = jnp.stack([before, floor, jnp.zeros_like(before)])
            taus = taus.at[-1].set(before) if adaptive else taus[:-1]
    if upwards:
        taus, edge = taus[::-1], None if edge is None else edge[::-1]
    tolerances = (rtol, atol) if adaptive else None
    return Plan(solver, coordinates, taus, edge, floor, tolerances, per_sample, upwards)


def check_times(name: str, times: ArrayLike, path: ProbabilityPath, falling: bool = True) -> Array:
    """Times as a vector of floats.

    Raises:
        ValueError: If concrete times do not fall (or rise), or leave `[0, T]`.
    """
    vector = jnp.asarray(times, jnp.result_type(float))
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{name} must be a vector of times, got shape {vector.shape}.")
    if is_concrete(vector) and is_concrete(path.T):
        ordered = np.diff(np.asarray(vector)) * (-1 if falling else 1) >= 0
        inside = (vector >= 0) & (vector <= jnp.asarray(path.T, vector.dtype))
        if not (np.all(ordered) and np.all(inside)):
            order = "fall" if falling else "rise"
            raise ValueError(f"{name} must {order} within [0, {path.T}], got {times}.")
    return vector


def integrate(
    field: Field,
    plan: Plan,
    state: PyTree[Array],
    args: PyTree[Array],
    saved: Float[Array, " saved"] | None = None,
    count: bool = False,
) -> tuple[PyTree[Array], Int[Array, "..."]]:
    """Solves `d state = field(coordinates, tau, state, args) d rho` over a plan.

    Args:
        field: The right-hand side; where it is a pytree, calls of one shape compile once.
        plan: The solver and its times.
        state: Start; the leaves have the batch as their first axis.
        args: What else the field gets, likewise.
        saved: Times at which the state is wanted, in the order of the integration; the end if None.
        count: Whether to count evaluations where the solver does not tell them.

    Returns:
        The states at `saved`, on a new first axis, or that at the end; and the evaluations, a scalar
        or one number for each sample where each has its own steps.
    """
    known = evaluations(plan.solver)
    count = count and known is None
    if count and plan.per_sample:
        raise ValueError(
            f"return_nfe must be False for {type(plan.solver).__name__} with per_sample_steps: its "
            "evaluations are counted for the whole batch."
        )
    before = _evaluated() if count else 0
    field = as_arrays(_Counted(field) if count else field)
    try:
        states, steps = _integrate(field, plan, state, args, saved)
    except eqx.EquinoxRuntimeError as error:
        if plan.tolerances is None or "maximum number of solver steps" not in str(error):
            raise
        # Diffrax advises to raise max_steps, which is no argument here.
        rtol, atol = (float(tolerance) for tolerance in plan.tolerances)
        raise ValueError(
            f"solver {type(plan.solver).__name__} did not reach rtol={rtol:.2g}, atol={atol:.2g} "
            f"in {_MAX_STEPS} steps; take larger tolerances, or fixed steps."
        ) from None
    if count:
        jax.block_until_ready(states)
        return states, jnp.asarray(_evaluated() - before)
    per_step, first = known or (0, 0)
    return states, per_step * steps + first + (0 if plan.edge is None else 2)


@eqx.filter_jit
def _integrate(field: Field, plan: Plan, state: Any, args: Any, saved: Array | None):
    saved = None if saved is None else plan.coordinates.solver_time(saved)
    if not plan.per_sample:
        return _solve(field, plan, state, args, saved)
    axis = 0 if saved is None else 1

    def alone(state, args):
        state, args = jax.tree.map(lambda leaf: leaf[None], (state, args))
        states, steps = _solve(field, plan, state, args, saved)
        return jax.tree.map(lambda leaf: jnp.squeeze(leaf, axis), states), steps

    return jax.vmap(alone, out_axes=(axis, 0))(state, args)


def _solve(field: Field, plan: Plan, state: Any, args: Any, saved: Array | None):
    coordinates, dtype = plan.coordinates, jax.tree.leaves(state)[0].dtype
    taus, edge, floor, saved = jax.tree.map(
        lambda leaf: leaf.astype(dtype), (plan.taus, plan.edge, plan.floor, saved)
    )

    def slope(tau, state, args):
        return field(coordinates, jnp.maximum(tau, floor), state, args)

    term = diffrax.ControlTerm(slope, coordinates)
    if any(0 < time < 1 for time in stage_times(plan.solver)):
        term = term.to_ode()

    def run(state, saved):
        """The states at `saved`, if that is given, and at the end."""
        if taus.size < 2:
            times = 1 if saved is None else saved.size + 1
            return jax.tree.map(lambda leaf: jnp.stack([leaf] * times), state), jnp.asarray(0)
        controller, first, max_steps = diffrax.StepTo(ts=taus), None, taus.size - 1
        if plan.tolerances is not None:
            span, (rtol, atol) = taus[-1] - taus[0], plan.tolerances
            first, max_steps = _FIRST * span, _MAX_STEPS
            controller = diffrax.PIDController(
                rtol=rtol.astype(dtype), atol=atol.astype(dtype), dtmax=_LONGEST * jnp.abs(span)
            )
        solution = diffrax.diffeqsolve(
            term,
            plan.solver,
            taus[0],
            taus[-1],
            first,
            state,
            args,
            saveat=diffrax.SaveAt(t1=True, ts=saved),
            stepsize_controller=controller,
            max_steps=max_steps,
        )
        return solution.ys, solution.stats["num_steps"]

    def cross(state):
        """The step of the edge by the midpoint rule, of which the end at 0 is not asked."""

        def move(last, slope):
            step = coordinates.rho(last) - coordinates.rho(edge[0])
            return jax.tree.map(lambda leaf, s: leaf + step * s, state, slope)

        return move(edge[2], slope(edge[1], move(edge[1], slope(edge[0], state, args)), args))

    if edge is None:
        states, steps = run(state, saved)
    else:
        border = edge[2] if plan.upwards else edge[0]
        asked = None if saved is None else jnp.maximum(saved, border)
        at_zero, at_border = state, cross(state) if plan.upwards else state
        states, steps = run(at_border, asked)
        if not plan.upwards:
            at_border = jax.tree.map(lambda leaf: leaf[-1], states)
            at_zero = cross(at_border)
            states = jax.tree.map(lambda leaf, end: leaf.at[-1].set(end), states, at_zero)
    if saved is None:
        return jax.tree.map(lambda leaf: leaf[-1], states), steps
    states = jax.tree.map(lambda leaf: leaf[:-1], states)
    if edge is not None:
        share = coordinates.rho(saved) / coordinates.rho(border)

        def fill(leaf, low, high):
            weight = jnp.expand_dims(share, tuple(range(1, leaf.ndim)))
            return jnp.where(weight < 1, low[None] + weight * (high - low)[None], leaf)

        states = jax.tree.map(fill, states, at_zero, at_border)
    return states, steps


class _VelocityField(eqx.Module):
    """A velocity as a right-hand side; `args` are the labels or None."""

    velocity: Velocity

    def __call__(self, coordinates: Coordinates, tau: Array, u: Array, args: Any) -> Array:
        return coordinates.slope(tau, u, args, self.velocity)


class _Counted(eqx.Module):
    """A field of which every evaluation is counted when it runs."""

    field: Field

    def __call__(self, *arguments: Any) -> Any:
        jax.debug.callback(lambda: _EVALUATIONS.append(None))
        return self.field(*arguments)


_EVALUATIONS: list[None] = []


def _evaluated() -> int:
    jax.effects_barrier()
    return len(_EVALUATIONS)


def solve(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    t0: Scalar,
    t1: Scalar,
    steps: int | ArrayLike = 50,
    *,
    labels: ArrayLike | None = None,
    saved: ArrayLike | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    r"""Solves the path's equation $\dot x = v(t, x)$ from one time to another.

    `generate`, `trajectory`, `encode` and `decode` are calls of this function.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        x: Points at time `t0`, floats of shape `(batch, *event)`.
        t0: Where to start. One of the two times is `path.T` or both are numbers.
        t1: Where to end: below `t0` towards the data, above it towards the noise.
        steps: Number of fixed steps, or their times from `t0` to `t1`.
        labels: Integers of shape `(batch,)`.
        saved: Times between `t0` and `t1`, in this order, at which the points are wanted.
        return_nfe: Whether to return the number of function evaluations too.
        **options: `solver`, `coordinates`, `grid_power`, `rtol`, `atol`, `per_sample_steps`, as in
            `generate`.

    Returns:
        Points at `t1`, or at `saved` on a new first axis; or `(points, nfe)`.

    Raises:
        ValueError: If a time lies outside `[0, T]`, the ends are equal, the velocity belongs to
            another path, or as `generate`.

    Example:
        >>> path = kacjax.flow_matching_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)))
        >>> kacjax.generation.solve(velocity, path, jnp.ones((1, 2)), 1.0, 0.5)
        Array([[0.5, 0.5]], dtype=float32)
    """
    upwards = t1 is path.T or (t0 is not path.T and bool(t0 < t1))
    if is_concrete(t0) and is_concrete(t1):
        check_times("t0 and t1", [t0, t1], path, falling=not upwards)
        if t0 == t1:
            raise ValueError(f"t1 must differ from t0, got {t0} and {t1}.")
    check_path(velocity, path)
    x = as_floats("x", x)
    labels = check_labels(labels, x.shape[0], getattr(velocity, "classes", None))
    plan = make_plan(path, t0, t1, steps, upwards=upwards, **options)
    if saved is not None:
        saved = check_times("saved", saved, path, falling=not upwards)
    start = to_straight(plan, jnp.asarray(t0), x)
    u, nfe = integrate(_VelocityField(velocity), plan, start, labels, saved, return_nfe)
    x = from_straight(plan, jnp.asarray(t1 if saved is None else saved), u)
    return (x, nfe) if return_nfe else x


@eqx.filter_jit
def to_straight(plan: Plan, t: Array, x: Array) -> Array:
    """Points at a time in the plan's coordinates."""
    return x / plan.coordinates.scale(plan.coordinates.solver_time(t)).astype(x.dtype)


@eqx.filter_jit
def from_straight(plan: Plan, t: Array, u: Array) -> Array:
    """Points of the plan's coordinates at a time, or at times along the first axis."""
    scale = plan.coordinates.scale(plan.coordinates.solver_time(t)).astype(u.dtype)
    return scale.reshape(scale.shape + (1,) * (u.ndim - scale.ndim)) * u
