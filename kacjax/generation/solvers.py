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
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np


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
