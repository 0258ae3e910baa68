"""Which exponent of the steps suits which path: `python -m benchmarks.grids`.

Generates from noise with the exact velocity of finite data, so that all error is the solver's, for
several values of `grid_power`: steps that end at `rho(T) (1 - k / steps)**power` in straight
coordinates, and with `--coordinates time` at `T (1 - k / steps)**power`. Writes
`benchmarks/results/grids-COORDINATES.json`. Three data sets: the nine modes of `grid2d` with unequal
weights; the same moved at random, for on the exact grid many cones meet at one time, and it matters by
chance whether a step ends there; and 200 points of `moons`. Judged by the energy distance of the samples
from the data's law, exact in the data and from the same noise for every grid, and by the distance to the
nearest datum.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.distance import cdist

import kacjax
from benchmarks.common import surroundings, write_result
from kacjax.data import GRID2D_MODES, target
from kacjax.generation import COORDINATES

PATHS = {
    "kac, clock t": kacjax.kac_path(),
    "kac, clock t2": kacjax.kac_path(clock="t2"),
    "diffusion": kacjax.diffusion_path(),
    "flow matching": kacjax.flow_matching_path(),
}
POWERS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.0)
# Evaluations a step, and evaluations in all.
SOLVERS = {"euler": (1, (10, 20, 50)), "ab2": (1, (10, 20, 50)), "heun": (2, (20, 50))}
MODE_WEIGHTS = (0.2, 0.15, 0.1, 0.05, 0.02, 0.08, 0.12, 0.18, 0.1)


def data_sets() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Data with their weights."""
    moons = np.asarray(target("moons")(jax.random.key(5), 200))
    weights = np.array(MODE_WEIGHTS)
    moved = GRID2D_MODES + np.random.default_rng(0).uniform(-0.2, 0.2, (9, 2)).astype(np.float32)
    return {
        "9 points": (GRID2D_MODES, weights),
        "9 moved points": (moved, weights),
        "200 points": (moons, np.full(200, 1 / 200)),
    }


def judge(x: np.ndarray, data: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    """Energy distance from the data's law, median distance, total variation of the shares."""
    across = cdist(x, data)
    # Twice the mean distance of different samples, over half of them: enough, and unbiased.
    half = len(x) // 2
    own = np.mean(cdist(x[:half], x[half:]))
    energy = 2 * np.mean(across @ weights) - own - weights @ cdist(data, data) @ weights
    shares = np.bincount(across.argmin(axis=1), minlength=len(data)) / len(x)
    return {
        "energy distance": float(energy),
        "median distance": float(np.median(across.min(axis=1))),
        "total variation of shares": float(np.abs(shares - weights).sum() / 2),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=4000, help="samples for each grid (4000)")
    parser.add_argument("--coordinates", choices=COORDINATES, default="straight")
    arguments = parser.parse_args()
    result = {}
    for name, path in PATHS.items():
        for data_name, (data, weights) in data_sets().items():
            velocity = kacjax.exact_velocity(path, jnp.asarray(data), weights)
            for solver, (per_step, counts) in SOLVERS.items():
                for nfe in counts:
                    steps = nfe // per_step
                    rows = {}
                    for power in POWERS:
                        x = kacjax.generate(
                            velocity,
                            path,
                            jax.random.key(1),
                            (arguments.samples, 2),
                            steps,
                            solver=solver,
                            coordinates=arguments.coordinates,
                            grid_power=power,
                        )
                        rows[f"{power:g}"] = judge(np.asarray(x, np.float64), data, weights)
                    case = f"{name}, {data_name}, {solver}, {nfe} evaluations"
                    result[case] = rows
                    cells = (
                        f"{power}: {row['energy distance']:.4f}/{row['median distance']:.1e}"
                        f"/{row['total variation of shares']:.3f}"
                        for power, row in rows.items()
                    )
                    print(case, *cells, sep="\n    ", flush=True)
    what = "energy distance from the data, median distance, total variation, by grid_power"
    file = write_result(
        f"grids-{arguments.coordinates}",
        {"what": what, "samples": arguments.samples, "cases": result, **surroundings("diffrax")},
    )
    print("written:", file.name)


if __name__ == "__main__":
    main()
