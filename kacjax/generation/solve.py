r"""The one integrator: $du = \text{slope} \, d\rho$ solved by Diffrax, between any two times.

At $t = 0$ a velocity may be infinite, so that no solver asks there: one with several stages makes the
last step to 0, or the first one from 0, the edge, by the midpoint rule; an adaptive one from where
$\rho$ is the absolute tolerance.
"""

import difflib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict, Unpack

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from kacjax import _validation
from kacjax._typing import ArrayLike, Scalar, Vector
from kacjax.generation.coordinates import Coordinates, make_coordinates
from kacjax.generation.solvers import GivenSteps, evaluations, make_solver
from kacjax.paths import Points, ProbabilityPath

# First and longest step of an adaptive solver, in parts of the whole: over longer ones the velocity
# of simple data changes so much that error estimates vanish by chance.
_FIRST, _LONGEST = 0.01, 0.25
# Where an adaptive solver turns to the midpoint rule, in parts of the whole rho.
_EARLIEST, _LATEST = 1e-6, 1e-2
_MAX_STEPS = 16_384
# The others need a velocity without traced numbers, or solve for a steady state.
_ADJOINTS = diffrax.RecursiveCheckpointAdjoint, diffrax.DirectAdjoint, diffrax.ForwardMode

Velocity = Callable[..., Array]
"""A function `velocity(t, x)`, or `velocity(t, x, label)`, with times and labels `(batch,)`."""


class Options(TypedDict, total=False):
    """The keywords that choose a solver; see `generate`."""

    solver: str | diffrax.AbstractSolver[Any]
    coordinates: str | None
    grid_power: Scalar
    rtol: Scalar | None
    atol: Scalar | None
    per_sample_steps: bool
    adjoint: diffrax.AbstractAdjoint | None


def solve(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Points,
    t0: ArrayLike,
    t1: ArrayLike,
    steps: int | Vector = 50,
    *,
    labels: Any = None,
    saved: Vector | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    r"""Solves the path's equation $\dot x = v(t, x)$ from one time to another.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        x: Points at time `t0`, floats of shape `(batch, *event)`.
        t0: Where to start.
        t1: Where to end, towards data or noise; traced only if `t0` is `path.T`, or the reverse.
        steps: Number of fixed steps, or their times from `t0` to `t1`.
        labels: Integers of shape `(batch,)`, or conditions, as in `fit`.
        saved: Times from `t0` to `t1`, in this order, at which the points are wanted.
        return_nfe: Whether to return the number of function evaluations too.
        **options: `solver`, `coordinates`, `grid_power`, `rtol`, `atol`, `per_sample_steps`, `adjoint`.

    Returns:
        Points at `t1`, or at `saved` on a new first axis; or `(points, nfe)`.

    Raises:
        ValueError: As `generate`, or if a time lies outside `[0, T]` or the ends are equal.

    Example:
        >>> path = kacjax.flow_matching_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)))
        >>> kacjax.generation.solve(velocity, path, jnp.ones((1, 2)), 1.0, 0.5).round(3)
        Array([[0.5, 0.5]], dtype=float32)
    """
    _validation.check_path(velocity, path)
    x, field = _validation.as_floats("x", x), eqx.Partial(point_slope, velocity)
    labels = _validation.check_labels(labels, x.shape[0], getattr(velocity, "classes", None))
    times = (t0, t1, steps)
    (x,), nfe = integrate(field, path, (x,), labels, times, options, saved, return_nfe)
    return (x, nfe) if return_nfe else x


def point_slope(
    velocity: Velocity, coordinates: Coordinates, tau: Array, state: Any, labels: Any
) -> Any:
    """The right-hand side for points alone."""
    return (coordinates.slope(tau, state[0], labels, velocity),)


def integrate(
    field: Callable[..., PyTree[Array]],
    path: ProbabilityPath,
    state: tuple[Array, ...],
    args: Any,
    times: tuple[ArrayLike, ArrayLike, int | Vector],
    options: Options,
    saved: Vector | None = None,
    count: bool = False,
) -> tuple[tuple[Array, ...], Any]:
    """Solves `field(coordinates, tau, state, args)`, where the first part of `state` are points.

    All arrays have the batch first; `times` are `t0`, `t1`, `steps`. Returns the state and the number
    of evaluations: where it follows from no number of steps they are counted as they run, if `count`.
    """
    for name in options.keys() - Options.__annotations__.keys():
        (near,) = difflib.get_close_matches(name, Options.__annotations__, 1, 0)
        raise TypeError(f"there is no option {name!r}; the nearest is {near!r}.")
    t0, t1, steps = times
    power, per_sample = options.get("grid_power", 2.0), options.get("per_sample_steps", False)
    rtol, atol = options.get("rtol"), options.get("atol")
    solver, adaptive = make_solver(options.get("solver", "ab2"), rtol, atol)
    coordinates = make_coordinates(_validation.as_arrays(path), options.get("coordinates"))
    rtol, atol = (1e-3 if value is None else value for value in (rtol, atol))
    for name, value in (("rtol", rtol), ("atol", atol), ("grid_power", power)):
        _validation.check_positive(name, value)
    _validation.check_nonnegative("t0", t0)
    _validation.check_nonnegative("t1", t1)
    upwards = t1 is path.T or (t0 is not path.T and bool(t0 < t1))
    if _validation.is_concrete(t0) and _validation.is_concrete(t1):
        check_times("t0 and t1", np.stack([t0, t1]), path, upwards)
        if t0 == t1:
            raise ValueError(f"t1 must differ from t0, got {t0} and {t1}.")
    given = None
    if not isinstance(steps, int | np.integer):
        given, steps = check_times("steps", steps, path, upwards, strict=True), 2
        known = all(map(_validation.is_concrete, (given, t0, t1)))
        met = not known or np.allclose(np.asarray(given)[[0, -1]], np.stack([t0, t1]))
        if given.size < 2 or not met:
            raise ValueError(f"steps must be an integer, or times from t0 to t1; got {given}.")
    _validation.check_count("steps", steps)
    saved = None if saved is None else check_times("saved", saved, path, upwards)
    # A 0 that is known is the end of the data, which needs care; a traced one is a number.
    high, low = (t1, t0) if upwards else (t0, t1)
    to_zero = _validation.is_concrete(low) and bool(np.asarray(low) == 0)
    cost, per_sample = evaluations(solver), bool(per_sample) and adaptive
    edged = to_zero and (adaptive or cost != (1, 0))
    counted, name = count and cost is None, type(solver).__name__
    if counted and per_sample:  # Counted for the whole batch.
        raise ValueError(f"return_nfe must be False for {name} with per_sample_steps, got True.")
    if counted:
        jax.effects_barrier()
        _EVALUATIONS.clear()
        field = eqx.Partial(_count, field)
    numbers = (jnp.asarray(n, jnp.result_type(float)) for n in (high, low, power, rtol, atol))
    arrays = (state, args, given, saved, *numbers)
    adjoint = options.get("adjoint") or diffrax.RecursiveCheckpointAdjoint()
    if not isinstance(adjoint, _ADJOINTS):
        known = ", ".join(kind.__name__ for kind in _ADJOINTS)
        raise ValueError(f"adjoint must be one of Diffrax's {known}, got {adjoint!r:.80}.")
    choices = (int(steps), to_zero, edged, adaptive, per_sample, upwards, adjoint)
    states, tried, failed = _integrate(
        _validation.as_arrays(field), coordinates, solver, arrays, choices
    )
    # Diffrax would raise an error within the program, by a callback of the host, which no exported
    # program may have; and advise to raise max_steps, which is no argument here.
    if adaptive and _validation.is_concrete(failed) and np.any(failed):
        raise ValueError(
            f"solver {name} did not reach rtol={float(rtol):.2g}, "
            f"atol={float(atol):.2g} in {_MAX_STEPS} steps; take larger ones, or fixed steps, "
            "and see whether the velocity is finite."
        )
    if counted:
        jax.effects_barrier()
        return states, jnp.asarray(len(_EVALUATIONS))
    per_step, first = cost or (0, 0)
    # Where the edge is all there is, there is no first evaluation.
    return states, jnp.where(tried > 0, per_step * tried + first, 0) + 2 * edged


@eqx.filter_jit
def _integrate(field, coordinates, solver, arrays, choices):
    """The compiled part: where the control is at the steps, and the state in its coordinates."""
    state, args, times, saved, high, low, power, rtol, atol = arrays
    steps, to_zero, edged, adaptive, per_sample, upwards, adjoint = choices
    # The same times both ways: they are laid downwards.
    taus = coordinates.grid(high, low, steps, power)
    if times is not None:
        taus = coordinates.solver_time(times[::-1] if upwards else times)
        # Times that were traced may be those of another problem.
        whole = coordinates.solver_time(jnp.stack([high, low]))
        met = jnp.all(jnp.abs(taus[jnp.array([0, -1])] - whole) < 1e-3)
        state = jax.tree.map(lambda leaf: jnp.where(met, leaf, jnp.nan), state)
    ends, edge, floor = taus[jnp.array([0, -1])], None, taus[-1]
    if adaptive and to_zero:
        before = coordinates.rho(taus[0]) * jnp.clip(atol, _EARLIEST, _LATEST)
        taus = jnp.stack([taus[0], coordinates.at_rho(before), taus[-1]])
    elif adaptive:
        taus = ends
    if to_zero:
        floor = coordinates.at_rho(coordinates.rho(taus[-2]) / 2)
    if edged:
        edge, taus = jnp.stack([taus[-2], floor, taus[-1]]), taus[:-1]
    if upwards:
        taus, ends, edge = jax.tree.map(jnp.flip, (taus, ends, edge))
    wanted = ends[1:] if saved is None else coordinates.solver_time(saved)
    rhos = jax.tree.map(coordinates.rho, (taus, edge, wanted))
    tolerances = (rtol, atol) if adaptive else None
    plan = _Plan(*rhos, floor, tolerances)
    plan = jax.tree.map(lambda leaf: leaf.astype(state[0].dtype), plan)
    problem = _Problem(field, coordinates, solver, adjoint, upwards, saved is not None)
    run = functools.partial(_solve, problem, plan)
    start = (coordinates.scaled(ends[0], state[0], -1), *state[1:])
    if per_sample:  # Each in a batch of its own.
        start, args = jax.tree.map(lambda leaf: leaf[:, None], (start, args))
        states, tried, failed = jax.vmap(run, out_axes=(1, 0, 0))(start, args)
        states = jax.tree.map(lambda leaf: leaf[:, :, 0], states)
    else:
        states, tried, failed = run(start, args)
    states = (coordinates.scaled(wanted, states[0], 1), *states[1:])
    return states if saved is not None else tuple(leaf[0] for leaf in states), tried, failed


class _Problem(NamedTuple):
    """What is solved and how: upwards in time or downwards, with all states wanted or the last."""

    field: Any
    coordinates: Coordinates
    solver: Any
    adjoint: diffrax.AbstractAdjoint
    upwards: bool
    dense: bool


class _Plan(NamedTuple):
    """Values of the control: at the ends of steps, of the edge's halves, and where states are wanted.

    Beside them the least solver time at which the field is asked, and an adaptive solver's tolerances.
    """

    steps: Array
    edge: Any
    wanted: Array
    floor: Array
    tolerances: tuple[Array, Array] | None


def _solve(problem: _Problem, plan: _Plan, state: Any, args: Any) -> Any:
    """States where they are wanted; steps tried; and whether it failed, in which case they are NaN."""
    field, coordinates, solver, adjoint, upwards, dense = problem
    steps, edge, wanted, floor, tolerances = plan
    solver_time, start = coordinates.inverse(steps.dtype), state

    def slope(rho, state, args):
        return field(coordinates, jnp.maximum(solver_time(rho), floor), state, args)

    def cross(state):
        """The step over the edge by the midpoint rule, of which the end at 0 is not asked."""
        half, whole = edge[1] - edge[0], edge[2] - edge[0]
        middle = jax.tree.map(lambda leaf, s: leaf + half * s, state, slope(edge[0], state, args))
        return jax.tree.map(lambda leaf, s: leaf + whole * s, state, slope(edge[1], middle, args))

    if edge is not None and upwards:
        state = cross(state)
    span, border = steps[-1] - steps[0], jnp.minimum(steps[0], steps[-1])
    if steps.size == 1:
        states = jax.tree.map(lambda leaf: jnp.stack([leaf] * wanted.size), state)
        tried, failed = jnp.asarray(0), jnp.asarray(False)
    else:
        if tolerances is None:
            first, most, controller = None, steps.size - 1, GivenSteps(steps)
        else:
            first, most, dtmax = _FIRST * span, _MAX_STEPS, _LONGEST * jnp.abs(span)
            controller = diffrax.PIDController(*tolerances, dtmax=dtmax)
        saveat = diffrax.SaveAt(t1=True, ts=jnp.maximum(wanted, border) if dense else None)
        what = (diffrax.ODETerm(slope), solver, steps[0], steps[-1], first, state, args)
        how = {"saveat": saveat, "stepsize_controller": controller, "adjoint": adjoint}
        solution = diffrax.diffeqsolve(*what, **how, max_steps=most, throw=False)
        states, tried = solution.ys, solution.stats["num_steps"]
        failed = solution.result != diffrax.RESULTS.successful
        if tolerances is None:
            # Times that were traced may be in no order. Those of a fine grid may round to the same
            # control, or a little back: steps of no length.
            failed |= jnp.any(jnp.diff(steps) * jnp.sign(span) < -1e-5 * jnp.abs(span))
        states = jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), states)
    rows = jax.tree.map(lambda leaf: leaf[: wanted.size], states)
    if edge is None:
        return rows, tried, failed
    last = jax.tree.map(lambda leaf: leaf[-1], states)
    low, high = (start, state) if upwards else (cross(last), last)

    def fill(leaf, low, high):
        share = jnp.expand_dims(wanted / border, tuple(range(1, leaf.ndim)))
        return jnp.where(share < 1, low[None] + share * (high - low)[None], leaf)

    return jax.tree.map(fill, rows, low, high), tried, failed


_EVALUATIONS: list[None] = []


def _count(field, *arguments):
    """A field of which every evaluation is counted when it runs."""
    jax.debug.callback(lambda: _EVALUATIONS.append(None))
    return field(*arguments)


def check_times(
    name: str, times: Vector, path: ProbabilityPath, upwards: bool = False, strict: bool = False
) -> Array:
    """Times as a vector of floats, which rise or fall within `[0, T]` where they are concrete.

    Two of them may be equal, unless `strict`.
    """
    vector = jnp.asarray(times, jnp.result_type(float))
    if vector.ndim != 1 or not vector.size:
        raise ValueError(f"{name} must be a vector of times, got shape {vector.shape}.")
    if _validation.is_concrete(vector) and _validation.is_concrete(path.T):
        known = np.asarray(vector)
        moves = np.diff(known) * (1 if upwards else -1)
        ordered = moves > 0 if strict else moves >= 0
        # In NumPy: within jit comparisons of JAX's arrays are traced.
        inside = (known >= 0) & (known <= np.asarray(path.T).astype(known.dtype))
        if not (np.all(ordered) and np.all(inside)):
            order = "rise" if upwards else "fall"
            raise ValueError(f"{name} must {order} within [0, {path.T}], got {times}.")
    return vector
