r"""Generation: the path's ordinary differential equation from noise to data, by Diffrax.

The marginal velocity $v(t, x)$ moves the path's law, so that a solution of $\dot x = v(t, x)$ from
$x_T$, a draw of the prior, back to $t = 0$ is a draw of the data. Time runs down from `T` itself:
a substituted time `T - t` would lose the small `t` at which the data's detail appears.
"""

from typing import Literal, overload

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from kacjax._typing import ArrayLike, Key, Scalar, Shape
from kacjax._validation import check_choice, check_count, check_positive, is_concrete
from kacjax.losses import Velocity
from kacjax.paths import ProbabilityPath
from kacjax.schedules import time_grid

FIXED = {"euler": (diffrax.Euler, 1), "heun": (diffrax.Heun, 2)}
ADAPTIVE = {"tsit5": diffrax.Tsit5}
# Adaptive solvers evaluate no velocity before this fraction of T.
_EARLIEST = 1e-4
# Adaptive solvers stop after this many steps, rejected ones included.
_MAX_STEPS = 16_384


@overload
def generate(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    return_nfe: Literal[False] = False,
    solver: str = "euler",
    grid: str = "power",
    power: Scalar | None = None,
    x0: Array | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
) -> Array: ...
@overload
def generate(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    return_nfe: Literal[True],
    solver: str = "euler",
    grid: str = "power",
    power: Scalar | None = None,
    x0: Array | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
) -> tuple[Array, Array]: ...
def generate(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    steps: int = 50,
    *,
    solver: str = "euler",
    grid: str = "power",
    power: Scalar | None = None,
    x0: Array | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
    return_nfe: bool = False,
) -> Array | tuple[Array, Array]:
    """Generates samples from the prior.

    Args:
        velocity: Any function `velocity(t, x)`, with `t` of shape `(batch,)`. If it is a pytree,
            as `fit` returns it, calls of one shape share one compilation whatever its parameters.
        path: The path that the velocity was learned for.
        key: Random key, for the prior.
        shape: Shape `(num, *event)` of the samples.
        steps: Steps of a fixed-step solver.
        solver: `euler` (one evaluation a step), `heun` (two), or `tsit5`, of fifth order with
            adaptive steps for the whole batch.
        grid: Time grid of a fixed-step solver, `power` or `uniform`; see `time_grid`.
        power: Exponent of the grid, if another than the name's.
        x0: Data of that shape, where the path's signal does not vanish at `T`.
        rtol: Relative tolerance of an adaptive solver.
        atol: Absolute tolerance of an adaptive solver.
        return_nfe: Whether to return the number of evaluations too.

    Returns:
        Samples, or `(samples, nfe)` with the number of function evaluations per sample.

    Raises:
        ValueError: If a name is unknown, `steps` below 1, or the prior needs data.
    """
    times = _grid(path, steps, solver, grid, power, rtol, atol)
    x_T = path.sample_prior(key, shape, x0)
    x, nfe = _solve(velocity, x_T, times, jnp.zeros_like(times[-1:]), rtol, atol, solver)
    return (x[0], nfe) if return_nfe else x[0]


def trajectory(
    velocity: Velocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    times: ArrayLike,
    steps: int = 50,
    *,
    solver: str = "euler",
    grid: str = "power",
    power: Scalar | None = None,
    x0: Array | None = None,
    rtol: float = 1e-3,
    atol: float = 1e-3,
) -> Array:
    """Generates samples and keeps them on their way, at the times given.

    Args:
        velocity: As in `generate`, like all arguments not listed here.
        path: The path.
        key: Random key; the same one gives the samples of `generate`.
        shape: Shape `(num, *event)` of the samples.
        times: Times in `[0, T]`, of shape `(num_times,)`, falling; between the solver's steps the
            result is interpolated.
        steps: Steps of a fixed-step solver.
        solver: Solver.
        grid: Time grid.
        power: Exponent of the grid.
        x0: Data, where the prior needs them.
        rtol: Relative tolerance.
        atol: Absolute tolerance.

    Returns:
        Positions of shape `(num_times, *shape)`.

    Raises:
        ValueError: As `generate`, or if `times` do not fall or leave `[0, T]`.
    """
    times = jnp.asarray(times, jnp.result_type(float))
    if is_concrete(times) and is_concrete(path.T):
        falling = times.ndim == 1 and times.size > 0 and bool(jnp.all(jnp.diff(times) <= 0))
        if not falling or times[0] > path.T or times[-1] < 0:
            raise ValueError(
                f"times must be a vector that falls within [0, {path.T}], got {times}."
            )
    stops = _grid(path, steps, solver, grid, power, rtol, atol)
    x_T = path.sample_prior(key, shape, x0)
    return _solve(velocity, x_T, stops, times, rtol, atol, solver)[0]


def _grid(
    path: ProbabilityPath,
    steps: int,
    solver: str,
    grid: str,
    power: Scalar | None,
    rtol: float,
    atol: float,
) -> Float[Array, " stops"]:
    """Checks the solver's arguments; the times at which a fixed-step solver stops."""
    check_choice("solver", solver, [*FIXED, *ADAPTIVE])
    check_count("steps", steps)
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    stops = time_grid(grid, path.T, steps, power)
    return stops if solver in FIXED else stops[jnp.array([0, -1])]


@eqx.filter_jit
def _solve(
    velocity: Velocity,
    x_T: Float[Array, "batch *event"],
    stops: Float[Array, " stops"],
    saved: Float[Array, " saved"],
    rtol: float,
    atol: float,
    solver: str,
) -> tuple[Float[Array, "saved batch *event"], Int[Array, ""]]:
    stops, saved = stops.astype(x_T.dtype), saved.astype(x_T.dtype)
    # At t = 0 itself a velocity may be infinite, as a diffusion's is. Euler never asks there; the
    # others do in their last step, and are answered with an earlier time of that step.
    earliest = stops[-2] / 2 if solver in FIXED else _EARLIEST * stops[0]

    def field(t, x, _):
        return velocity(jnp.full(x.shape[:1], jnp.maximum(t, earliest), x.dtype), x)

    if solver in FIXED:
        method, evaluations = FIXED[solver]
        controller, max_steps = diffrax.StepTo(ts=stops), stops.size - 1
    else:
        # First same as last: of seven stages six are new, and one evaluation begins the whole.
        method, evaluations = ADAPTIVE[solver], 6
        controller = diffrax.PIDController(rtol=rtol, atol=atol)
        max_steps = _MAX_STEPS
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        method(),
        t0=stops[0],
        t1=stops[-1],
        dt0=None,
        y0=x_T,
        saveat=diffrax.SaveAt(ts=saved),
        stepsize_controller=controller,
        max_steps=max_steps,
    )
    nfe = evaluations * solution.stats["num_steps"] + int(solver in ADAPTIVE)
    assert solution.ys is not None  # Something was saved, or diffeqsolve would have raised.
    return solution.ys, jnp.asarray(nfe)
