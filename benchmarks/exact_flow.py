"""What solvers do with a velocity that is known: `python -m benchmarks.exact_flow`.

All error is the solver's. Measures, for every path, in the coordinates chosen, and writes
`benchmarks/results/exact_flow-COORDINATES.json`:

- whether 100 Euler evaluations from pure noise reach the data, and whether marginals on the way are
  those of the noising path (permutation test of the energy distance);
- in which shares the data are reached, for 100 evaluations and more and for narrower layers, which
  separates what the layer costs from what the steps cost;
- the order of convergence of every fixed-step solver, down to t = 0.1, against 2,560 steps of `rk4` in
  float64: the root-mean-square error, and the median, for Kac velocities jump at the edges of layers,
  which few trajectories meet in a step;
- evaluations and distance to the data of adaptive solvers against the tolerance;
- the error of encoding and decoding again against the tolerance, between t = 0.1 and T.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from scipy.spatial.distance import cdist

import kacjax
from benchmarks.common import surroundings, write_result
from benchmarks.grids import PATHS, data_sets
from kacjax.generation import ADAPTIVE, COORDINATES, FIXED

NUM = 4000
TIMES = (0.6, 0.3, 0.1)
PERMUTATIONS = 999
STEPS = (20, 40, 80, 160)
FINEST = 2560
TOLERANCES = (1e-2, 1e-3, 1e-4, 1e-5)
TRIP_TOLERANCES = (1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
T_MIN = 0.1
# Steps and relative widths of the layer for which shares are counted.
LAYERS = ((100, 0.3), (100, 0.1), (100, 0.02), (400, 0.3), (400, 0.1), (1600, 0.3))


def permutation_test(x: np.ndarray, y: np.ndarray) -> float:
    """The p-value of the energy distance under exchange of the two samples."""
    num = len(x)
    points = np.concatenate([x, y])
    distances = cdist(points, points)
    rng = np.random.default_rng(0)
    signs = np.repeat([1.0, -1.0], num)
    rows = np.stack([signs, *(rng.permutation(signs) for _ in range(PERMUTATIONS))])
    statistics = -np.sum(rows * (rows @ distances), axis=1) / num**2
    return float(np.mean(statistics >= statistics[0]))


def euler(path, coordinates) -> dict:
    """The options of Euler's method, with the exponent of the steps that `grids` found best."""
    power = 2.0
    if coordinates == "time":
        quadratic = isinstance(path.clock, kacjax.schedules.QuadraticClock)
        power = 1.5 if quadratic else 2.0 if has_atoms(path) else 4.0
    return {"solver": "euler", "coordinates": coordinates, "grid_power": power}


def has_atoms(path) -> bool:
    """Whether the noise has atoms, as that of the Kac process, and so no blurred law."""
    return bool(path.process.atom_mass(path.coefficients(path.T).g) > 0)


def reach(path, data, weights, coordinates) -> dict:
    """Samples of 100 Euler evaluations, and their marginals on the way."""
    velocity = kacjax.exact_velocity(path, jnp.asarray(data), weights)
    times = np.array([*TIMES, 0.0])
    options = euler(path, coordinates)
    way = kacjax.trajectory(velocity, path, jax.random.key(1), (NUM, 2), times, 100, **options)
    x = np.asarray(way, np.float64)
    distances = cdist(x[-1], data)
    marginals = {}
    half = NUM // 2
    for i, time in enumerate(TIMES):
        index = np.random.default_rng(i).choice(len(data), size=half, p=weights)
        t = jnp.full(half, time, jnp.result_type(float))
        noised = path.sample(jax.random.key(10 + i), t, jnp.asarray(data)[index]).x_t
        marginals[f"p-value at t = {time:g}"] = permutation_test(
            x[i][:half], np.asarray(noised, np.float64)
        )
    nearest = distances.min(axis=1)
    return {
        "median distance": float(np.median(nearest)),
        "99 % distance": float(np.quantile(nearest, 0.99)),
        **marginals,
    }


def shares(path, data, weights, coordinates) -> dict:
    """How the samples are divided among the data: chi-squared test and total variation.

    Exact shares would have a total variation of `expected` on the mean, by chance.
    """
    result = {}
    layered = has_atoms(path)
    for steps, width in LAYERS if layered else LAYERS[:1]:
        velocity = kacjax.exact_velocity(path, jnp.asarray(data), weights, width=width)
        options = euler(path, coordinates)
        x = kacjax.generate(velocity, path, jax.random.key(1), (NUM, 2), steps, **options)
        counts = np.bincount(cdist(np.asarray(x), data).argmin(axis=1), minlength=len(data))
        result[f"{steps} steps" + (f", width {width:g}" if layered else "")] = {
            "p-value": float(scipy.stats.chisquare(counts, NUM * weights).pvalue),
            "total variation": float(np.abs(counts / NUM - weights).sum() / 2),
        }
    deviations = np.sqrt(weights * (1 - weights) / NUM)
    return {"expected": float(deviations.sum() / np.sqrt(2 * np.pi)), **result}


def smooth_velocity(path, data, weights):
    """In float64; for Brownian paths with Gaussians of deviation 0.1 around the data."""
    std = None if has_atoms(path) else 0.1
    return kacjax.exact_velocity(path, jnp.asarray(data, jnp.float64), weights, std=std)


def orders(path, data, weights, coordinates) -> dict:
    """Errors for doubling numbers of steps, and the mean slope of their logarithms."""
    velocity = smooth_velocity(path, data, weights)
    noise = kacjax.initial_noise(path, jax.random.key(2), (500, 2))
    options = {"t_min": T_MIN, "grid_power": 1.0, "coordinates": coordinates}
    truth = kacjax.decode(velocity, path, noise, FINEST, solver="rk4", **options)
    result = {}
    for solver in FIXED:
        errors = []
        for steps in STEPS:
            x = kacjax.decode(velocity, path, noise, steps, solver=solver, **options)
            size = np.linalg.norm(np.asarray(x - truth), axis=1)
            errors.append((np.sqrt(np.mean(size**2)), np.median(size)))
        slopes = -np.diff(np.log2(np.asarray(errors)), axis=0)
        result[solver] = {
            "steps": list(STEPS),
            "rms error": [float(rms) for rms, _ in errors],
            "order by rms": float(slopes[:, 0].mean()),
            "order by median": float(slopes[:, 1].mean()),
        }
    return result


def adaptive(path, data, weights, coordinates) -> dict:
    """Mean evaluations with steps of each sample's own, and distances to the data."""
    velocity = kacjax.exact_velocity(path, jnp.asarray(data, jnp.float64), weights)
    result = {}
    for solver in ADAPTIVE:
        rows = {}
        for tolerance in TOLERANCES:
            x, nfe = kacjax.generate(
                velocity,
                path,
                jax.random.key(3),
                (500, 2),
                solver=solver,
                coordinates=coordinates,
                rtol=tolerance,
                atol=tolerance,
                per_sample_steps=True,
                return_nfe=True,
            )
            distances = cdist(np.asarray(x), data).min(axis=1)
            rows[f"{tolerance:g}"] = {
                "mean evaluations": float(np.mean(nfe)),
                "most evaluations": int(np.max(nfe)),
                "median distance": float(np.median(distances)),
            }
        result[solver] = rows
    return result


def round_trip(path, data, weights, coordinates) -> dict:
    """Errors of decoding what was encoded, by tolerance."""
    velocity = smooth_velocity(path, data, weights)
    index = np.arange(200) % len(data)
    t = jnp.full(200, T_MIN, jnp.float64)
    x = path.sample(jax.random.key(4), t, jnp.asarray(data, jnp.float64)[index]).x_t
    rows = {}
    for tolerance in TRIP_TOLERANCES:
        options = {"rtol": tolerance, "atol": tolerance, "coordinates": coordinates}
        options |= {"t_min": T_MIN, "solver": "tsit5"}
        noise, nfe = kacjax.encode(velocity, path, x, return_nfe=True, **options)
        back = kacjax.decode(velocity, path, noise, **options)
        error = np.max(np.abs(np.asarray(back - x)), axis=1)
        rows[f"{tolerance:g}"] = {
            "median error": float(np.median(error)),
            "90 % error": float(np.quantile(error, 0.9)),
            "evaluations to encode": int(nfe),
        }
    return rows


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--coordinates", choices=COORDINATES, default="straight")
    coordinates = parser.parse_args().coordinates
    result: dict = {"reach": {}, "shares": {}, "order": {}, "adaptive": {}, "round trip": {}}
    for name, path in PATHS.items():
        for data_name in ("9 points", "200 points"):
            data, weights = data_sets()[data_name]
            for part, measure in (("reach", reach), ("shares", shares)):
                found = measure(path, data, weights, coordinates)
                result[part][f"{name}, {data_name}"] = found
                print(name, data_name, *found.items(), sep="\n    ", flush=True)
    jax.config.update("jax_enable_x64", True)
    data, weights = data_sets()["9 points"]
    for name, path in PATHS.items():
        for part, measure in (
            ("order", orders),
            ("adaptive", adaptive),
            ("round trip", round_trip),
        ):
            result[part][name] = measure(path, data, weights, coordinates)
            print(name, part, *result[part][name].items(), sep="\n    ", flush=True)
    file = write_result(f"exact_flow-{coordinates}", result | surroundings("diffrax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
