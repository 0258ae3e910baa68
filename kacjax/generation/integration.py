"""The equation solved: a plan carried out by Diffrax, with a rule of its own where time is 0.

What `kacjax.generation.solvers` says of $t = 0$ happens here.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from kacjax.generation.coordinates import StraightField, bend, place, straighten
from kacjax.generation.plans import Plan
from kacjax.generation.solvers import ADAPTIVE, FIXED

# These have no stage at the end of a step: towards t = 0 they need no other rule for the last one.
_OPEN = ("euler", "ab2", "midpoint")

# First and longest step of an adaptive solver, in parts of all the time: over longer ones the velocity of
# simple data changes so much that error estimates vanish by chance.
_FIRST, _LONGEST = 0.01, 0.25
# Adaptive solvers stop with an error after this many steps, rejected ones included.
_MAX_STEPS = 16_384

Field = Callable[[Float[Array, " batch"], PyTree[Array], PyTree[Array]], PyTree[Array]]
"""A right-hand side `field(t, state, args)`; every leaf has the batch as its first axis."""


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
    straight, rest = StraightField(field, plan.frames), plan._replace(path=None, frames=None)
    states, nfe = _integrate(straight, rest, state, args, places, forwards)
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
