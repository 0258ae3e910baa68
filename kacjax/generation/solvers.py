r"""Solvers of the path's ordinary differential equation, by Diffrax, and what they cost.

| solver | order | evaluations | steps |
| --- | --- | --- | --- |
| `euler` | 1 | 1 a step | fixed |
| `heun`, `midpoint` | 2 | 2 a step | fixed |
| `rk4` | 4 | 4 a step | fixed |
| `tsit5`, `dopri5` | 5 | 1, and 6 a step | adaptive |
| `dopri8` | 8 | 1, and 13 a step | adaptive |

Adaptive solvers are *first same as last*: the last stage of a step is the first of the next, also after
a rejected one, so that of 7 stages 6 are new. Rejected steps count.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypedDict

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice, check_count, check_positive, is_concrete
from kacjax.generation.grids import default_grid
from kacjax.paths import ProbabilityPath
from kacjax.schedules import time_grid


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


FIXED: dict[str, tuple[Callable[[], diffrax.AbstractSolver], int]] = {
    "euler": (diffrax.Euler, 1),
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

CONTROLS = ("joint", "sample")

# Adaptive solvers evaluate no velocity before this fraction of T.
_EARLIEST = 1e-8
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
        stops: The times at which fixed steps end, falling; an adaptive solver's two ends.
        tolerances: Relative and absolute tolerance.
    """

    solver: str
    control: str
    stops: Float[Array, " stops"]
    tolerances: tuple[Array, Array]

    @property
    def adaptive(self) -> bool:
        """Whether the number of evaluations depends on the sample."""
        return self.solver in ADAPTIVE


def make_plan(
    path: ProbabilityPath,
    steps: int,
    *,
    solver: str = "euler",
    grid: str | None = None,
    power: Scalar | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    control: str | None = None,
    t_min: Scalar = 0.0,
) -> Plan:
    """Checks the solver's arguments, and lists the times at which it stops.

    Raises:
        ValueError: If a name is unknown, `steps` below 1, a tolerance not positive, or `t_min`
            outside `[0, T)`.
    """
    check_choice("solver", solver, [*FIXED, *ADAPTIVE])
    check_count("steps", steps)
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    control = control or "joint"
    check_choice("control", control, CONTROLS)
    if is_concrete(t_min) and is_concrete(path.T) and not 0 <= t_min < path.T:
        raise ValueError(f"t_min must lie in [0, T) with T = {path.T}, got {t_min}.")
    if grid is None:
        grid, default = default_grid(path)
        power = default if power is None else power
    stops = time_grid(grid, path.T, steps, power, t_min=t_min)
    dtype = jnp.result_type(float)
    tolerances = (jnp.asarray(rtol, dtype), jnp.asarray(atol, dtype))
    return Plan(
        solver, control, stops if solver in FIXED else stops[jnp.array([0, -1])], tolerances
    )


@eqx.filter_jit
def integrate(
    field: Field,
    plan: Plan,
    state: PyTree[Array],
    args: PyTree[Array],
    saved: Float[Array, " saved"],
    *,
    forwards: bool = False,
) -> tuple[PyTree[Array], Int[Array, "..."]]:
    """Solves `d state / dt = field(t, state, args)` over the plan's times.

    Args:
        field: The right-hand side; calls of one shape share one compilation where it is a pytree.
        plan: The solver and its times.
        state: Start, at the plan's first time; its leaves have the batch as their first axis.
        args: What else the field gets, likewise.
        saved: Times at which the state is wanted, in the order of integration.
        forwards: Whether to start at the plan's last time and to integrate towards the noise.

    Returns:
        The states at `saved`, on a new first axis, and the number of evaluations: a scalar, or
        one for each sample where steps are chosen for each.
    """
    if plan.adaptive and plan.control == "sample":

        def alone(state, args):
            state, args = jax.tree.map(lambda leaf: leaf[None], (state, args))
            states, nfe = _solve(field, plan, state, args, saved, forwards)
            return jax.tree.map(lambda leaf: leaf[:, 0], states), nfe

        return jax.vmap(alone, out_axes=(1, 0))(state, args)
    return _solve(field, plan, state, args, saved, forwards)


def _solve(
    field: Field, plan: Plan, state: Any, args: Any, saved: Array, forwards: bool
) -> tuple[Any, Array]:
    leaf = jax.tree.leaves(state)[0]
    batch, dtype = leaf.shape[:1], leaf.dtype
    stops, saved = plan.stops.astype(dtype), saved.astype(dtype)
    # At t = 0 itself a velocity may be infinite, as a diffusion's is. Going down, Euler never asks
    # there; whoever does is answered with an earlier time of the last step.
    inner = _EARLIEST * stops[0] if plan.adaptive else stops[-2] / 2
    earliest = jnp.where(stops[-1] > 0, stops[-1], inner)

    def right_hand_side(t, state, args):
        return field(jnp.full(batch, jnp.maximum(t, earliest), dtype), state, args)

    if forwards:
        stops = stops[::-1]
    if plan.adaptive:
        method, evaluations = ADAPTIVE[plan.solver]
        relative, absolute = (tolerance.astype(dtype) for tolerance in plan.tolerances)
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
        args=args,
        saveat=diffrax.SaveAt(ts=saved),
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
