"""Makes the constants of `squash.py` and `special.py`: `python -m kacjax.processes.kac.fit`.

Takes two minutes, in float64, from quadrature. At Chebyshev nodes of every panel the exact map is
interpolated in `2 x**2 - 1`, truncated in the Chebyshev basis, and the coefficients are
interpolated over the panel. The table is written beside `squash.py`; the coefficients of the Bessel
quotient are printed, to be pasted.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from kacjax import special
from kacjax.processes.kac import law, squash, tails


def exact_squash(
    lam: np.ndarray, n: np.ndarray, guess: np.ndarray, steps: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """The map and its velocity by Newton's method in float64, from a guess of the coordinate."""
    mean, target, first = (jnp.asarray(value) for value in (lam, n, guess))
    z, room = tails.from_root(mean, tails.refine(mean, first, target, steps))
    return np.asarray(z), np.asarray(law.velocity(mean, z, room))


def exact_polynomials(zeta: float, nodes: int = 48) -> np.ndarray:
    """Coefficients of `P` and `Q`, and `X / zeta`, at one `zeta` inside (0, 1)."""
    lam = np.array(squash.HALFWAY * zeta / (1 - zeta))
    end = min(float(tails.atom_score(jnp.asarray(lam))), squash.CUT)
    t = chebyshev.chebpts1(nodes)
    x = np.sqrt((1 + t) / 2)
    root_end = min(float(np.sqrt(2 * lam)), end)
    z, w = exact_squash(lam, end * x, root_end * x)
    sigma, kappa = squash.prefactors(lam)
    series = [
        chebyshev.chebfit(t, values, nodes - 1)
        for values in (z / x / sigma, w / x / (sigma * kappa))
    ]
    degrees = (squash.POSITION_DEGREE, squash.VELOCITY_DEGREE)
    powers = [_powers(c[: d + 1], d) for c, d in zip(series, degrees, strict=True)]
    return np.concatenate([*powers, [end / zeta]])


def make_table() -> np.ndarray:
    """The table, of shape `(PANEL_DEGREE + 1, PANELS, coefficients)`, in float64."""
    degree = squash.PANEL_DEGREE
    local = chebyshev.chebpts1(degree + 1)
    panels = []
    for panel in range(squash.PANELS):
        zetas = (panel + (local + 1) / 2) / squash.PANELS
        values = np.stack([exact_polynomials(zeta) for zeta in zetas])
        series = chebyshev.chebfit(local, values, degree)
        panels.append(np.stack([_powers(column, degree) for column in series.T], axis=-1))
    return np.stack(panels, axis=1)


def quotient_polynomials() -> tuple[list[float], list[float]]:
    """Coefficients of `h * u` and `h' / u` in powers of `2 u - 1`, for `special.py`."""
    t = chebyshev.chebpts1(200)
    u = (1 + t) / 2
    q = jnp.asarray(special.UNIT * (1 / u**2 - 1))
    values = special.bessel_quotient(q) * u, special.bessel_quotient_slope(q) / u
    series = [chebyshev.chebfit(t, np.asarray(value), 199) for value in values]
    return tuple(_powers(c[:d], d - 1).tolist() for c, d in zip(series, (12, 14), strict=True))


def _powers(series: np.ndarray, degree: int) -> np.ndarray:
    """A Chebyshev series as powers, padded to a degree."""
    powers = chebyshev.cheb2poly(series)
    return np.pad(powers, (0, degree + 1 - len(powers)))


if __name__ == "__main__":
    with jax.enable_x64(True):
        print("QUOTIENT = {}\nQUOTIENT_SLOPE = {}".format(*quotient_polynomials()))
        table = make_table().astype(np.float32)
    target = pathlib.Path(squash.__file__).with_name("squash.npy")
    np.save(target, table)
    print(f"{target.name}: {table.shape}, {table.nbytes} bytes, largest {np.abs(table).max():.1f}")
