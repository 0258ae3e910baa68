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
    """The classical Runge-Kutta method of fourth order, for fixed steps; Diffrax has none."""

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
    r"""The Adams-Bashforth method of two steps, for steps $h_k$ of any length and slopes $s_k$.

    $y_{k+1} = y_k + h_k s_k + (s_k - s_{k-1}) h_k^2 / 2 h_{k-1}$; the first step is Euler's, and so is
    one that ends at 0, where velocities may be infinite.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., Any]] = diffrax.LocalLinearInterpolation
    stage_times: ClassVar[tuple[float, ...]] = (0.0,)

    def order(self, terms):
        """The order of convergence."""
        return 2

    def init(self, terms, t0, t1, y0, args):
        """No step and no slope."""
        return jax.tree.map(jnp.zeros_like, (terms.contr(t0, t1), y0))

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        """One step: the new state, and this step's lengths and slopes for the next."""

        def move(y, slope, h, before, last):
            some = (before != 0) & (t1 != 0)
            weight = jnp.where(some, h / (2 * jnp.where(some, before, 1)), 0)
            return y + h * (slope + weight * (slope - last))

        lengths, slopes = terms.contr(t0, t1), terms.vf(t0, y0, args)
        y1 = jax.tree.map(move, y0, slopes, lengths, *solver_state)
        result = diffrax.RESULTS.successful
        return y1, None, {"y0": y0, "y1": y1}, (lengths, slopes), result

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
    """The solver of this name, or itself; raises a `ValueError` if it is no solver."""
    if isinstance(solver, diffrax.AbstractSolver):
        return solver
    check_choice("solver, if it is none of Diffrax,", solver, FIXED | ADAPTIVE)
    return (FIXED | ADAPTIVE)[solver]


def stage_times(solver: diffrax.AbstractSolver) -> tuple[float, ...]:
    """Where in a step, from 0 to 1, a solver evaluates; everywhere, if it does not tell.

    It tells by a Butcher tableau, or by an attribute `stage_times`.
    """
    tableau = getattr(solver, "tableau", None)
    if isinstance(tableau, diffrax.ButcherTableau):
        return (0.0, *map(float, tableau.c))
    known = (0.0,) if isinstance(solver, diffrax.Euler) else (0.0, 0.5, 1.0)
    return getattr(solver, "stage_times", known)


def evaluations(solver: diffrax.AbstractSolver) -> tuple[int, int] | None:
    """Evaluations a step, and before the first; None if stages are solved for, or not told."""
    tableau = getattr(solver, "tableau", None)
    if isinstance(solver, diffrax.AbstractERK) and isinstance(tableau, diffrax.ButcherTableau):
        return tableau.num_stages - int(tableau.fsal), int(tableau.fsal)
    if isinstance(solver, diffrax.Euler) or hasattr(solver, "stage_times"):
        return len(stage_times(solver)), 0
    return None
