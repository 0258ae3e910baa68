"""Makes `tests/kac_law.json`, the Kac law at 120 random points: `python -m tools.make_oracle`.

By mpmath at 40 digits: the distribution function and the variance are quadratures of the telegraph
density. Takes two minutes.
"""

import json
import pathlib
import random

import mpmath as mp

FILE = pathlib.Path(__file__).parents[1] / "tests" / "kac_law.json"
ROWS, DIGITS = 120, 40


def points() -> list[tuple[float, float, float, float]]:
    """Random `(a, c, s, y)`: log-uniform `a s` in 0.003 to 400, `c` and `s`; `y` where mass is."""
    draw = random.Random(1).uniform
    found = []
    for _ in range(ROWS):
        lam, c, s = (mp.mpf(10) ** draw(*ends) for ends in ((-2.5, 2.6), (-0.7, 1.5), (-2, 0.5)))
        # Uniform in the cone, or over five deviations where they are about as far.
        reach = c * s if lam < 20 else 5 * c * s / mp.sqrt(lam)
        found.append(tuple(float(value) for value in (lam / s, c, s, draw(-1, 1) * reach)))
    return found


def density(a: mp.mpf, c: mp.mpf, s: mp.mpf, y: mp.mpf) -> mp.mpf:
    """The continuous part."""
    r = mp.sqrt((c * s - y) * (c * s + y))
    x = a / c * r
    # I1(x) / r tends to a / (2 c) on the cone.
    quotient = c * s * mp.besseli(1, x) / r if r else a * s / 2
    return a / (2 * c) * mp.exp(-a * s) * (mp.besseli(0, x) + quotient)


def cdf(a: mp.mpf, c: mp.mpf, s: mp.mpf, y: mp.mpf) -> mp.mpf:
    """Distribution function, by quadrature from the middle."""
    return mp.mpf(1) / 2 + mp.quad(lambda x: density(a, c, s, x), mp.linspace(0, y, 5))


def velocity(a: mp.mpf, c: mp.mpf, s: mp.mpf, y: mp.mpf) -> mp.mpf:
    """The velocity field."""
    r = mp.sqrt((c * s - y) * (c * s + y))
    return y / (s + r / c * mp.besseli(0, a / c * r) / mp.besseli(1, a / c * r))


def row(a: float, c: float, s: float, y: float) -> dict[str, float]:
    """One row of the file."""
    point = tuple(mp.mpf(value) for value in (a, c, s, y))
    a_, c_, s_, _ = point
    atom_mass = mp.exp(-a_ * s_)
    deviation = c_ * mp.sqrt(s_ / a_)
    # Beyond 20 deviations there is nothing that 17 digits see.
    end = min(c_ * s_, 20 * deviation)
    second_moment = mp.quad(lambda x: x * x * density(a_, c_, s_, x), mp.linspace(0, end, 17))
    values = {
        "density": density(*point),
        "cdf": cdf(*point),
        "velocity": velocity(*point),
        "atom_mass": atom_mass,
        "variance": 2 * second_moment + atom_mass * (c_ * s_) ** 2,
    }
    return {"a": a, "c": c, "s": s, "y": y} | {name: float(v) for name, v in values.items()}


def continuity_residual(a: float, c: float, s: float, y: float) -> float:
    """How far the derivative of the distribution function in `s` is from `-v p`."""
    a, c, s, y = (mp.mpf(value) for value in (a, c, s, y))
    slope = mp.diff(lambda s: cdf(a, c, s, y), s)
    return float(abs(slope + velocity(a, c, s, y) * density(a, c, s, y)))


def make() -> dict:
    """The content of the file."""
    with mp.workdps(DIGITS):
        chosen = points()
        return {
            "source": "python -m tools.make_oracle: mpmath, 40 digits, quadrature of the density",
            "continuity_residual": max(continuity_residual(*point) for point in chosen[:10]),
            "rows": [row(*point) for point in chosen],
        }


if __name__ == "__main__":
    FILE.write_text(json.dumps(make(), indent=1) + "\n")
    print(f"{FILE.name}: {ROWS} rows")
