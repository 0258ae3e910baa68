r"""Solvers by name, and what one has to know of any Diffrax solver.

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
coordinates Euler's method is DDIM, and this one does what DPM-Solver++(2M) does for a diffusion
(C. Lu et al., arXiv 2211.01095).
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from kacjax._validation import check_choice


class RungeKutta4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of fourth order, for fixed steps, which Diffrax lacks.

    Example:
        >>> path, data = kacjax.flow_matching_path(), jnp.zeros((1, 2))
        >>> velocity = kacjax.exact_velocity(path, data)
        >>> solver = kacjax.generation.RungeKutta4()
        >>> x = kacjax.generate(velocity, path, jax.random.key(0), (3, 2), 4, solver=solver)
        >>> bool(jnp.all(jnp.abs(x) < 1e-5))
        True
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

    with the slopes $s_k$; Euler's method for the first step, and for one that ends at 0, where
    velocities may be infinite and an extrapolation may lead anywhere.

    Example:
        >>> kacjax.generation.AdamsBashforth2().order(None)
        2
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation
    stage_times: ClassVar[tuple[float, ...]] = (0.0,)

    def order(self, terms):
        """The order of convergence."""
        return 2

    def init(self, terms, t0, t1, y0, args):
        """No step and no slope."""
        return jnp.zeros_like(terms.contr(t0, t1)), jax.tree.map(jnp.zeros_like, y0)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step: the new state, and this step's length and slope for the next."""
        before, last = solver_state
        h, slope = terms.contr(t0, t1), terms.vf(t0, y0, args)
        extrapolates = (before != 0) & (t1 != 0)
        weight = jnp.where(extrapolates, h / (2 * jnp.where(before != 0, before, 1)), 0)
        change = jax.tree.map(lambda s, p: s + weight.astype(s.dtype) * (s - p), slope, last)
        y1 = jax.tree.map(lambda y, s: y + h.astype(y.dtype) * s, y0, change)
        return y1, None, {"y0": y0, "y1": y1}, (h, slope), diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        """The slope."""
        return terms.vf(t0, y0, args)


FIXED: dict[str, diffrax.AbstractSolver] = {
    "euler": diffrax.Euler(),
    "ab2": AdamsBashforth2(),
    "heun": diffrax.Heun(),
    "midpoint": diffrax.Midpoint(),
    "rk4": RungeKutta4(),
}
"""Solvers by name that take fixed steps."""

ADAPTIVE: dict[str, diffrax.AbstractSolver] = {
    "tsit5": diffrax.Tsit5(),
    "dopri5": diffrax.Dopri5(),
    "dopri8": diffrax.Dopri8(),
}
"""Solvers by name that choose their steps."""


def make_solver(solver: str | diffrax.AbstractSolver) -> diffrax.AbstractSolver:
    """The solver of this name, or itself.

    Raises:
        ValueError: If the name is unknown, or it is no Diffrax solver.
    """
    if isinstance(solver, diffrax.AbstractSolver):
        return solver
    known = FIXED | ADAPTIVE
    if not isinstance(solver, str):
        raise ValueError(
            f"solver must be a Diffrax solver or one of {', '.join(sorted(known))}; got {solver!r}."
        )
    check_choice("solver", solver, known)
    return known[solver]


def stage_times(solver: diffrax.AbstractSolver) -> tuple[float, ...]:
    """Where in a step a solver evaluates, from 0 to 1; of one that does not tell, everywhere.

    It tells by a Butcher tableau, or by an attribute `stage_times`.
    """
    if isinstance(solver, diffrax.Euler):
        return (0.0,)
    tableau = getattr(solver, "tableau", None)
    known = getattr(solver, "stage_times", None)
    if known is None and isinstance(tableau, diffrax.ButcherTableau):
        known = (0.0, *tableau.c)
    return (0.0, 0.5, 1.0) if known is None else tuple(float(time) for time in known)


def evaluations(solver: diffrax.AbstractSolver) -> tuple[int, int] | None:
    """Evaluations a step, and those before the first; None of a solver that solves for its stages."""
    if isinstance(solver, diffrax.AbstractERK):
        tableau = solver.tableau
        reused = int(tableau.fsal)
        return tableau.num_stages - reused, reused
    if isinstance(solver, diffrax.Euler) or hasattr(solver, "stage_times"):
        return len(stage_times(solver)), 0
    return None
