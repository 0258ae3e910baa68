r"""Solvers by name, and what one has to know of any Diffrax solver.

Evaluations for $n$ steps: `euler`, `ab2` $n$; `heun`, `midpoint` $2n$; `rk4` $4n$, or $4n - 2$ from or
to $t = 0$; with $n$ chosen, `tsit5`, `dopri5` $6n + 1$ and `dopri8` $13n + 1$, or 2 more from or to 0.
"""

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from kacjax._validation import choose


class RungeKutta4(diffrax.AbstractERK):
    """The classical Runge-Kutta method of fourth order, for fixed steps; Diffrax has none."""

    tableau: ClassVar[diffrax.ButcherTableau] = diffrax.ButcherTableau(
        a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
        b_sol=np.array([1, 2, 2, 1]) / 6,
        b_error=np.array([-5, 2, 2, 1]) / 6,
        c=np.array([0.5, 0.5, 1.0]),
    )
    interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        """The order of convergence."""
        return 4


class AdamsBashforth2(diffrax.AbstractSolver[Any]):
    r"""The Adams-Bashforth method of two steps, for steps $h_k$ of any length and slopes $s_k$.

    $y_{k+1} = y_k + h_k s_k + (s_k - s_{k-1}) h_k^2 / 2 h_{k-1}$; the first step is Euler's, and so
    is one that ends at 0, where velocities may be infinite. In straight coordinates it does what
    DPM-Solver++(2M) does for a diffusion (C. Lu et al., arXiv 2211.01095).
    """

    term_structure: ClassVar[Any] = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Any] = diffrax.LocalLinearInterpolation

    def order(self, terms: Any) -> int:
        """The order of convergence."""
        return 2

    def init(self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any) -> Any:
        """No step and no slope."""
        return jax.tree.map(jnp.zeros_like, (terms.contr(t0, t1), y0))

    def step(
        self, terms: Any, t0: Any, t1: Any, y0: Any, args: Any, solver_state: Any, made_jump: Any
    ) -> Any:
        """One step: the new state, and this step's length and slope for the next."""
        before, last = solver_state
        h, slope = terms.contr(t0, t1), self.func(terms, t0, y0, args)
        weight = ab2_weight(h, before, t1)
        y1 = jax.tree.map(lambda y, s, old: y + h * (s + weight * (s - old)), y0, slope, last)
        return y1, None, {"y0": y0, "y1": y1}, (h, slope), diffrax.RESULTS.successful

    def func(self, terms: Any, t0: Any, y0: Any, args: Any) -> Any:
        """The slope."""
        return terms.vf(t0, y0, args)


def ab2_weight(step: Array, before: Array, end: Array) -> Array:
    """Of the change of the slope: a part of the step; 0 in the first one, and where one ends at 0."""
    some = (before != 0) & (end != 0)
    return jnp.where(some, step / (2 * jnp.where(some, before, 1)), 0)


class GivenSteps(diffrax.AbstractStepSizeController[Any, Any]):
    """Steps to given times, as `diffrax.StepTo`, without its checks while a program runs.

    They are callbacks of the host, with which no program can be exported for other platforms. That
    times are in order is checked by `solve`.
    """

    ts: Array

    def wrap(self, direction: Any) -> "GivenSteps":
        """With times that rise."""
        return GivenSteps(self.ts * direction)

    def init(
        self,
        terms: Any,
        t0: Any,
        t1: Any,
        y0: Any,
        dt0: Any,
        args: Any,
        func: Any,
        error_order: Any,
    ) -> Any:
        """The end of the first step, and which time follows."""
        return self.ts[1], 2

    def adapt_step_size(
        self,
        t0: Any,
        t1: Any,
        y0: Any,
        y1_candidate: Any,
        args: Any,
        y_error: Any,
        error_order: Any,
        controller_state: Any,
    ) -> Any:
        """Every step is kept."""
        following, index = self.ts[controller_state], controller_state + 1
        return True, t1, following, False, index, diffrax.RESULTS.successful


FIXED: dict[str, diffrax.AbstractSolver[Any]] = {
    "euler": diffrax.Euler(),
    "ab2": AdamsBashforth2(),
    "heun": diffrax.Heun(),
    "midpoint": diffrax.Midpoint(),
    "rk4": RungeKutta4(),
}
"""Solvers by name that take fixed steps."""

ADAPTIVE: dict[str, diffrax.AbstractSolver[Any]] = {
    "tsit5": diffrax.Tsit5(),
    "dopri5": diffrax.Dopri5(),
    "dopri8": diffrax.Dopri8(),
}
"""Solvers by name that choose their steps."""


def make_solver(
    solver: str | diffrax.AbstractSolver[Any], *tolerances: Any
) -> tuple[diffrax.AbstractSolver[Any], bool]:
    """The solver of this name, or itself, and whether it chooses its steps."""
    adaptive = solver in [*ADAPTIVE] or tolerances.count(None) < len(tolerances)
    if not isinstance(solver, diffrax.AbstractSolver):
        solver = choose("solver, if it is none of Diffrax,", solver, FIXED | ADAPTIVE)
    # An implicit solver needs tolerances for its stages, too.
    return solver, adaptive or isinstance(solver, diffrax.AbstractImplicitSolver)


def evaluations(solver: diffrax.AbstractSolver[Any]) -> tuple[int, int] | None:
    """Evaluations a step, and before the first; None if stages are solved for, or not told."""
    if isinstance(solver, diffrax.Euler | AdamsBashforth2):
        return 1, 0
    if isinstance(solver, diffrax.AbstractERK):
        tableau: Any = solver.tableau
        return tableau.num_stages - int(tableau.fsal), int(tableau.fsal)
    return None
