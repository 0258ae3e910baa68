"""Grids of fixed steps: the default of each path and of each coordinates, found by measurement."""

from kacjax.paths import ProbabilityPath
from kacjax.processes import KacProcess, WienerProcess
from kacjax.schedules import LinearClock, QuadraticClock

# From `python -m benchmarks.grids --coordinates time`: the powers that come closest to the data's law over
# 10, 20 and 50 evaluations of the exact velocity, among those that reach the data at all. For Kac with the
# clock t, 2.5 is a little better still (mean energy distance 0.0009 against 0.0015 with Euler steps).
POWERS = {
    (KacProcess, LinearClock): 2.0,
    (KacProcess, QuadraticClock): 1.5,
    (WienerProcess, LinearClock): 4.0,
    (WienerProcess, QuadraticClock): 1.5,
}


# In straight coordinates all paths are alike. From `python -m benchmarks.grids`: over 10, 20 and 50 steps of
# `ab2` with the exact velocity the mean energy distance is 0.0010 for powers of 1.5 to 2.5 and 0.0018 or more
# from 3 on, while the data are reached only from 2 on (mean median distance 1e-4, against 2e-3 at 1.5).
STRAIGHT_POWER = 2.0


def default_grid(path: ProbabilityPath, coordinates: str = "straight") -> tuple[str, float]:
    r"""The name and the power of the grid that suits a path best.

    In straight coordinates the places are $\rho_k = \rho(T) (1 - k / \text{steps})^2$ for all paths.

    In time they are $t_k = T (1 - k / \text{steps})^p$. Near the data a Brownian displacement falls like
    $\sqrt g$ and that of the Kac process like $g$, so that a diffusion of the clock `t` has far to go in
    little time, and needs a high power; flow matching and Kac flows move in straight lines there, and
    spend their steps better where the velocity changes.

    | process | clock | power |
    | --- | --- | --- |
    | Kac | `t` | 2 |
    | Kac | `t2` | 1.5 |
    | Wiener (diffusion) | `t` | 4 |
    | Wiener (flow matching) | `t2` | 1.5 |
    | any other | | 2 |
    """
    if coordinates == "straight":
        return "power", STRAIGHT_POWER
    return "power", POWERS.get((type(path.process), type(path.clock)), 2.0)
