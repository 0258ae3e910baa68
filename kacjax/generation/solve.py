r"""The one integrator: the path's equation solved by Diffrax, between any two times.

What is solved is $du = \text{slope} \, d\rho$, see `kacjax.generation.coordinates`: a
`diffrax.ControlTerm`. A solver that evaluates inside of its steps would take the control for linear
there, and its order would fall to 1 or 2: for it $\rho$ itself is the time.

**At $t = 0$** a velocity may be infinite, and a network has never seen it, so that no solver asks
there. A solver with stages within a step makes the last one to 0, or the first one from 0, by
the midpoint rule; an adaptive one from where $\rho$ is the absolute tolerance.
"""

import difflib
from collections.abc import Callable
from typing import Any, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from kacjax._pytrees import as_arrays
from kacjax._typing import ArrayLike, Scalar, Vector
from kacjax._validation import (
    as_floats,
    check_choice,
    check_count,
    check_labels,
    check_nonnegative,
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


def solve(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    t0: ArrayLike,
    t1: ArrayLike,
    steps: int | Vector = 50,
    *,
    labels: Vector | None = None,
    saved: Vector | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    r"""Solves the path's equation $\dot x = v(t, x)$ from one time to another.

    `generate`, `trajectory`, `encode` and `decode` are calls of this function.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        x: Points at time `t0`, floats of shape `(batch, *event)`.
        t0: Where to start.
        t1: Where to end: below `t0` towards the data, above it towards the noise. One of the two may
            be traced if the other is `path.T`.
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
        >>> kacjax.generation.solve(velocity, path, jnp.ones((1, 2)), 1.0, 0.5).round(3)
        Array([[0.5, 0.5]], dtype=float32)
    """
    check_path(velocity, path)
    x = as_floats("x", x)
    labels = check_labels(labels, x.shape[0], getattr(velocity, "classes", None))
    field = _VelocityField(velocity)
    times = (t0, t1, steps)
    (x,), nfe = integrate(field, path, (x,), labels, times, options, saved, return_nfe)
    return (x, nfe) if return_nfe else x


class _VelocityField(eqx.Module):
    velocity: Velocity

    def __call__(self, coordinates: Coordinates, tau: Array, state: Any, labels: Any) -> Any:
        return (coordinates.slope(tau, state[0], labels, self.velocity),)


def integrate(
    field: Field,
    path: ProbabilityPath,
    state: tuple[Array, ...],
    args: PyTree[Array],
    times: tuple[ArrayLike, ArrayLike, int | Vector],
    options: Options,
    saved: Vector | None = None,
    count: bool = False,
) -> tuple[tuple[Array, ...], Any]:
    """Solves an equation of points, the first part of `state`, and of what else changes with them.

    All arrays of `state` and `args` have the batch as their first axis. `times` are `t0`, `t1` and
    `steps`. Returns the state, and the number of evaluations, which are counted at run time if they
    must and `count` says so. See `solve`.
    """
    for name in options.keys() - Options.__annotations__.keys():
        near = difflib.get_close_matches(name, Options.__annotations__, 1, 0) or ["solver"]
        raise TypeError(f"there is no option {name!r}; the nearest is {near[0]!r}.")
    t0, t1, steps = times
    solver, coordinates = options.get("solver", "ab2"), options.get("coordinates")
    rtol, atol = options.get("rtol"), options.get("atol")
    power, per_sample = options.get("grid_power", 2.0), options.get("per_sample_steps", False)
    adaptive = rtol is not None or atol is not None or solver in [*ADAPTIVE]
    # An implicit solver needs tolerances for its stages, too.
    adaptive = adaptive or isinstance(solver, diffrax.AbstractImplicitSolver)
    solver = make_solver(solver)
    if coordinates is not None:
        check_choice("coordinates", coordinates, COORDINATES)
    rtol, atol = (1e-3 if value is None else value for value in (rtol, atol))
    for name, value in (("rtol", rtol), ("atol", atol), ("grid_power", power)):
        check_positive(name, value)
    check_nonnegative("t0", t0)
    check_nonnegative("t1", t1)
    upwards = t1 is path.T or (t0 is not path.T and bool(t0 < t1))
    if is_concrete(t0) and is_concrete(t1):
        check_times("t0 and t1", np.stack([t0, t1]), path, falling=not upwards)
        if t0 == t1:
            raise ValueError(f"t1 must differ from t0, got {t0} and {t1}.")
    given = None
    if not isinstance(steps, int | np.integer):
        given, steps = check_times("steps", steps, path, falling=not upwards), 2
        known = all(map(is_concrete, (given, t0, t1)))
        if given.size < 2 or (
            known and not np.allclose(np.asarray(given)[[0, -1]], np.stack([t0, t1]))
        ):
            raise ValueError(f"steps must be an integer, or times from t0 to t1; got {given}.")
    check_count("steps", steps)
    if saved is not None:
        saved = check_times("saved", saved, path, falling=not upwards)
    # A 0 that is known is the end of the data, which needs care; a traced one is a number.
    high, low = (t1, t0) if upwards else (t0, t1)
    to_zero = is_concrete(low) and bool(np.all(np.asarray(low) == 0))
    numbers = (high, 0.0 if to_zero else low, power, rtol, atol)
    known = evaluations(solver)
    per_sample, counted = bool(per_sample) and adaptive, count and known is None
    if counted and per_sample:
        raise ValueError(
            f"return_nfe must be False for {type(solver).__name__} with per_sample_steps: its "
            "evaluations are counted for the whole batch."
        )
    before = _evaluated() if counted else 0
    try:
        states, tried = _integrate(
            as_arrays(_Counted(field) if counted else field),
            make_coordinates(as_arrays(path), coordinates, len(state)),
            solver,
            tuple(jnp.asarray(number, jnp.result_type(float)) for number in numbers),
            (state, args, given, saved),
            int(steps),
            (to_zero, adaptive, per_sample, upwards),
        )
    except eqx.EquinoxRuntimeError as error:
        if "maximum number of solver steps" not in str(error):
            raise
        # Diffrax advises to raise max_steps, which is no argument here.
        raise ValueError(
            f"solver {type(solver).__name__} did not reach rtol={float(rtol):.2g}, "
            f"atol={float(atol):.2g} in {_MAX_STEPS} steps; take larger ones, or fixed steps."
        ) from None
    if counted:
        jax.block_until_ready(states)
        return states, jnp.asarray(_evaluated() - before)
    per_step, first = known or (0, 0)
    edge = 2 * (to_zero and (adaptive or max(stage_times(solver)) > 0))
    # Where the edge is all there is, there is no first evaluation.
    return states, per_step * tried + jnp.where(tried > 0, first, 0) + edge


@eqx.filter_jit
def _integrate(field, coordinates, solver, numbers, arrays, steps, choices):
    """The compiled part: the solver's times, the state in its coordinates, and back."""
    (state, args, times, saved), (to_zero, adaptive, per_sample, upwards) = arrays, choices
    high, low, power, rtol, atol = numbers
    # The same times both ways: they are laid downwards.
    if times is None:
        taus = coordinates.grid(high, 0.0 if to_zero else low, steps, power)
    else:
        taus = coordinates.solver_time(times[::-1] if upwards else times)
    ends, edge, floor = taus[jnp.array([0, -1])], None, taus[-1]
    taus = ends if adaptive else taus
    if to_zero:
        before = taus[-2]
        if adaptive:
            tolerance = jnp.clip(atol, _EARLIEST, _LATEST)
            before = coordinates.at_rho(coordinates.rho(taus[0]) * tolerance)
        floor = coordinates.at_rho(coordinates.rho(before) / 2)
        if adaptive or max(stage_times(solver)) > 0:
            edge = jnp.stack([before, floor, jnp.zeros_like(before)])
            taus = taus.at[-1].set(before) if adaptive else taus[:-1]
    if upwards:
        taus, ends, edge = taus[::-1], ends[::-1], None if edge is None else edge[::-1]
    wanted = None if saved is None else coordinates.solver_time(saved)
    tolerances = (rtol, atol) if adaptive else None
    plan = jax.tree.map(
        lambda leaf: leaf.astype(state[0].dtype), (taus, edge, floor, wanted, tolerances)
    )

    def run(state, args):
        return _solve(field, coordinates, solver, state, args, upwards, *plan)

    def alone(state, args):
        state, args = jax.tree.map(lambda leaf: leaf[None], (state, args))
        states, tried = run(state, args)
        return jax.tree.map(lambda leaf: leaf[:, 0], states), tried

    start = (coordinates.scaled(ends[0], state[0], -1), *state[1:])
    if per_sample:
        states, tried = jax.vmap(alone, out_axes=(1, 0))(start, args)
    else:
        states, tried = run(start, args)
    at = ends[1:] if saved is None else wanted
    states = (coordinates.scaled(at, states[0], 1), *states[1:])
    return states if saved is not None else tuple(leaf[0] for leaf in states), tried


def _solve(
    field, coordinates, solver, state, args, upwards, taus, edge, floor, saved, tolerances
) -> Any:
    """The states at the solver times `saved`, or at the end as the only one; and steps tried."""

    def slope(tau, state, args):
        return field(coordinates, jnp.maximum(tau, floor), state, args)

    def move(state, first, last, slope):
        step = coordinates.rho(last) - coordinates.rho(first)
        return jax.tree.map(lambda leaf, s: leaf + step * s, state, slope)

    def cross(state):
        """The step of the edge by the midpoint rule, of which the end at 0 is not asked."""
        middle = move(state, edge[0], edge[1], slope(edge[0], state, args))
        return move(state, edge[0], edge[2], slope(edge[1], middle, args))

    even = not any(0 < time < 1 for time in stage_times(solver))
    term, times = diffrax.ControlTerm(slope, coordinates), taus
    if not even:
        # Stages inside of a step belong to values of the control, which is the time then.
        at, times = coordinates.inverse(taus.dtype), coordinates.rho(taus)
        term = diffrax.ODETerm(lambda rho, state, args: slope(at(rho), state, args))
    controller: Any = None
    first, max_steps = None, taus.size - 1
    if tolerances is None and taus.size > 1:
        controller = diffrax.StepTo(ts=times)
    elif tolerances is not None:
        span, (rtol, atol) = times[-1] - times[0], tolerances
        first, max_steps = _FIRST * span, _MAX_STEPS
        controller = diffrax.PIDController(rtol, atol, dtmax=_LONGEST * jnp.abs(span))
    if edge is not None and upwards:
        start, state = state, cross(state)
    if taus.size > 1:
        border = None if edge is None else edge[2] if upwards else edge[0]
        asked = saved if saved is None or border is None else jnp.maximum(saved, border)
        if asked is not None and not even:
            asked = coordinates.rho(asked)
        elif asked is not None and tolerances is None:
            # Within a step the control goes evenly, not the time.
            rising = taus if upwards else taus[::-1]
            asked = jnp.interp(coordinates.rho(asked), coordinates.rho(rising), rising)
        solution = diffrax.diffeqsolve(
            term,
            solver,
            times[0],
            times[-1],
            first,
            state,
            args,
            saveat=diffrax.SaveAt(t1=True, ts=asked),
            stepsize_controller=controller,
            max_steps=max_steps,
        )
        states, tried = solution.ys, solution.stats["num_steps"]
    else:
        count = 1 if saved is None else saved.size + 1
        states, tried = jax.tree.map(lambda leaf: jnp.stack([leaf] * count), state), jnp.asarray(0)
    if edge is None:
        return (states if saved is None else jax.tree.map(lambda leaf: leaf[:-1], states)), tried
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    if saved is None:
        return jax.tree.map(lambda leaf: leaf[None], last if upwards else cross(last)), tried
    low, high = (start, state) if upwards else (cross(last), last)
    share = coordinates.rho(saved) / coordinates.rho(edge[2] if upwards else edge[0])

    def fill(leaf, low, high):
        weight = jnp.expand_dims(share, tuple(range(1, leaf.ndim)))
        return jnp.where(weight < 1, low[None] + weight * (high - low)[None], leaf[:-1])

    return jax.tree.map(fill, states, low, high), tried


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


def check_times(name: str, times: Vector, path: ProbabilityPath, falling: bool = True) -> Array:
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
