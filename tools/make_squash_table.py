"""Makes the constants of the Kac law and sampler: `python -m tools.make_squash_table`.

Takes two minutes, in float64, from quadrature. At Chebyshev nodes of every panel the exact map is
interpolated in `2 x**2 - 1`, truncated in the Chebyshev basis, and the coefficients are
interpolated over the panel. The polynomials of the Bessel quotient are printed, and written with
the table beside the code.
"""

import pathlib
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import chebyshev

from kacjax.processes.kac import law, sampler

FILE = pathlib.Path(law.__file__).with_name("tables.npz")


def exact_squash(
    lam: np.ndarray, n: np.ndarray, guess: np.ndarray, steps: int = 40
) -> tuple[np.ndarray, np.ndarray]:
    """The map and its velocity by Newton's method in float64, from a guess of the coordinate."""
    mean, target, first = (jnp.asarray(value) for value in (lam, n, guess))
    z, one_minus_z2 = law.from_root(mean, law.refine(mean, first, target, steps))
    return np.asarray(z), np.asarray(law.velocity(mean, z, one_minus_z2))


def exact_polynomials(zeta: float, nodes: int = 48) -> np.ndarray:
    """Coefficients of `P` and `Q`, and `X / zeta`, at one `zeta` inside (0, 1)."""
    lam = np.array(sampler.HALFWAY * zeta / (1 - zeta))
    end = min(float(law.atom_score(jnp.asarray(lam))), sampler.CUT)
    t = chebyshev.chebpts1(nodes)
    x = np.sqrt((1 + t) / 2)
    root_end = min(float(np.sqrt(2 * lam)), end)
    z, w = exact_squash(lam, end * x, root_end * x)
    sigma, kappa = sampler.prefactors(lam)
    series = [
        chebyshev.chebfit(t, values, nodes - 1)
        for values in (z / x / sigma, w / x / (sigma * kappa))
    ]
    degrees = (sampler.POSITION_DEGREE, sampler.VELOCITY_DEGREE)
    powers = [_powers(c[: d + 1], d) for c, d in zip(series, degrees, strict=True)]
    return np.concatenate([*powers, [end / zeta]])


def squash_table() -> np.ndarray:
    """The table, of shape `(PANEL_DEGREE + 1, PANELS, coefficients)`."""
    degree = sampler.PANEL_DEGREE
    local = chebyshev.chebpts1(degree + 1)
    panels = []
    for panel in range(sampler.PANELS):
        zetas = (panel + (local + 1) / 2) / sampler.PANELS
        values = np.stack([exact_polynomials(zeta) for zeta in zetas])
        series = chebyshev.chebfit(local, values, degree)
        panels.append(np.stack([_powers(column, degree) for column in series.T], axis=-1))
    return np.stack(panels, axis=1).astype(np.float32)


def quotient_series() -> dict[str, np.ndarray]:
    """Power series of `h` and `h'` in `q`, and the asymptotic one of `h'` in `1 / x`."""
    # From 4 q h' = 4 h (1 - h) + q and h(0) = 1.
    h = [Fraction(1)]
    for k in range(1, 14):
        square = sum((h[i] * h[k - i] for i in range(1, k)), Fraction(0))
        h.append(((k == 1) * Fraction(1, 4) - square) / (k + 1))
    # h = x/2 * sum_k e_k x**-k, from r' = 1 - r**2 + r/x with r = 2h/x.
    e = [Fraction(1)]
    for k in range(1, 10):
        square = sum((e[i] * e[k - i] for i in range(1, k)), Fraction(0))
        e.append((k * e[k - 1] - square) / 2)
    return {
        "series": np.array(h, np.float64),
        "series_slope": np.array([k * value for k, value in enumerate(h)][1:], np.float64),
        "far_slope": np.array([(1 - k) * v / 4 for k, v in enumerate(e)], np.float64),
    }


def quotient_polynomials() -> dict[str, np.ndarray]:
    """Coefficients of `h * u` and `h' / u` in powers of `2 u - 1`, for float32."""
    t = chebyshev.chebpts1(200)
    u = (1 + t) / 2
    q = law.UNIT * (1 / u**2 - 1)
    h = np.asarray(law.bessel_quotient(jnp.asarray(q)))
    slope = np.asarray(law.bessel_quotient_slope(jnp.asarray(q)))
    series = [chebyshev.chebfit(t, value, 199) for value in (h * u, slope / u)]
    return {
        "quotient": _powers(series[0][:12], 11).astype(np.float32),
        "quotient_slope": _powers(series[1][:14], 13).astype(np.float32),
    }


def _powers(series: np.ndarray, degree: int) -> np.ndarray:
    """A Chebyshev series as powers, padded to a degree."""
    powers = chebyshev.cheb2poly(series)
    return np.pad(powers, (0, degree + 1 - len(powers)))


def main() -> None:
    """Writes `tables.npz`."""
    law.TABLES.update(quotient_series())
    with jax.enable_x64(True):
        law.TABLES.update(quotient_polynomials())
        table = squash_table()
    for name in ("quotient", "quotient_slope"):
        print(f"{name} = {law.TABLES[name].tolist()}")
    np.savez(FILE, **{**law.TABLES, "squash": table})
    print(f"{FILE.name}: {FILE.stat().st_size} bytes, largest {np.abs(table).max():.1f}")


if __name__ == "__main__":
    main()
