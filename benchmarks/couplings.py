"""Optimal transport in the batch beside independent noise: `python -m benchmarks.couplings`.

For each target, path and seed two networks of `--steps` steps of 256, that differ in the coupling alone:
`independent`, and `OptimalTransport(64)`, which matches four groups of 64. Paths are Kac,
`a = 25, c = 2`, and flow matching with noise of the same deviation, `sigma = c / sqrt(a) = 0.4`. Measured are

- the cost of the pairs, the mean of `|x0 - noise|^2` with the noise at `T`;
- the length of the generated trajectories over the distance of their ends, 1 if they are straight in `x`
  (a path with the clock `t` is not, even where it is straight in `x / (f + sigma)`);
- the energy distance of 5,000 samples from as many data, by evaluations;
- the milliseconds that a coupling of a batch takes, and the cost that is left, without training.

Both targets are made from noise, since the library has no path between two sets of data. Writes
`benchmarks/results/couplings.json` and prints the table.
"""

import argparse
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from benchmarks.common import mean_and_half, show_interval, surroundings, time_calls, write_result
from kacjax import metrics
from kacjax.couplings import OptimalTransport, Sinkhorn, couple
from kacjax.data import target

PATHS = {
    "kac": kacjax.kac_path(25.0, 2.0),
    "flow matching, 0.4": kacjax.flow_matching_path(0.4),
}
COUPLINGS = {"independent": "independent", "ot": OptimalTransport(64)}
TARGETS = ("moons", "8 gaussians")
EVALUATIONS = (1, 2, 5, 10)


def sample(name: str, key: Any, num: int) -> jax.Array:
    """Data of a target."""
    if name != "8 gaussians":
        return target(name)(key, num)
    which, noise = jax.random.split(key)
    angle = jax.random.randint(which, (num,), 0, 8) * (jnp.pi / 4)
    centers = 1.5 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return centers + 0.1 * jax.random.normal(noise, (num, 2))


def pair_cost(path: Any, coupling: Any, data: jax.Array, key: Any) -> float:
    """The mean of the squared distance of datum and noise, over 20 batches of 256."""
    x0 = data[: 20 * 256].reshape(20, 256, 2)

    def one(key: Any, x0: jax.Array) -> jax.Array:
        n = path.process.from_normal(path.coefficients(path.T).g, couple(coupling, key, x0))
        return jnp.mean(jnp.sum(jnp.square(x0 - n), axis=1))

    return float(jnp.mean(jax.lax.map(lambda a: one(*a), (jax.random.split(key, 20), x0))))


def stay(key: Any, x0: jax.Array, n: jax.Array, labels: Any) -> jax.Array:
    """The independent coupling, as a function."""
    return jnp.arange(len(x0))


def measure(name: str, path: Any, coupling: Any, seed: int, steps: int, num: int = 5000) -> Any:
    """What one network is like, and what its training took."""
    keys = jax.random.split(jax.random.key(seed), 4)
    data, real = sample(name, keys[0], 100_000), np.asarray(sample(name, keys[1], num))
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(seed), width=128, depth=3)
    run = kacjax.fit(network, path, data, keys[3], steps, 256, coupling=coupling, progress=False)
    times = np.linspace(1, 0, 51) * float(path.T)
    way = np.asarray(kacjax.trajectory(run.velocity, path, keys[2], (1000, 2), times, 50))
    length = np.linalg.norm(np.diff(way, axis=0), axis=-1).sum(axis=0)
    distances = {}
    for count in EVALUATIONS:
        x = kacjax.generate(run.velocity, path, keys[2], (num, 2), count)
        distances[str(count)] = float(metrics.energy_distance(np.asarray(x), real))
    known = coupling if callable(coupling) else stay
    return {
        "cost of a pair": pair_cost(path, known, data, keys[1]),
        "length over distance": float(
            length.sum() / np.linalg.norm(way[-1] - way[0], axis=-1).sum()
        ),
        "energy distance": distances,
        "steps per second": run.steps_per_second,
    }


def speed(batch: int, seconds: float = 5.0) -> dict[str, Any]:
    """Milliseconds of each coupling of a batch of moons, and the mean squared distance it leaves."""
    x0, key = sample("moons", jax.random.key(0), batch), jax.random.key(1)
    n = jax.random.normal(key, x0.shape)
    known = {f"ot, groups of {s}": OptimalTransport(s) for s in (32, 64, 128) if s < batch}
    known |= {"independent": stay, "ot": OptimalTransport(), "sinkhorn": Sinkhorn()}
    calls = {name: partial(jax.jit(f), key, x0, n, None) for name, f in known.items()}
    times = time_calls(calls, seconds)
    cost = {k: float(jnp.mean(jnp.sum(jnp.square(x0 - n[f()]), axis=1))) for k, f in calls.items()}
    return {k: {"milliseconds": 1000 * times[k], "cost of a pair": cost[k]} for k in calls}


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and half-width of every measure."""
    table = {
        k: mean_and_half([s[k] for s in seeds]) for k in ("cost of a pair", "length over distance")
    }
    counts = {
        n: mean_and_half([s["energy distance"][n] for s in seeds]) for n in map(str, EVALUATIONS)
    }
    return table | {"energy distance": counts}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    steps, targets = (parsed := parser.parse_args()).steps, parsed.targets
    result: dict[str, Any] = {"steps": steps, "batch": 256, "samples": 5000, "seeds": 3}
    result["couplings of a batch"] = {str(batch): speed(batch) for batch in (256, 512)}
    print(result["couplings of a batch"])
    for name in targets:
        for label, path in PATHS.items():
            for how, coupling in COUPLINGS.items():
                seeds = [measure(name, path, coupling, seed, steps) for seed in range(3)]
                table = summary(seeds)
                key = f"{name}, {label}, {how}"
                result[key] = {"mean and half-width": table, "seeds": seeds}
                cells = [f"{k}: {v[0]:.3f} ± {v[1]:.3f}" for k, v in list(table.items())[:2]]
                found = table["energy distance"].items()
                cells += [f"{n}: {show_interval(*pair)}" for n, pair in found]
                print(f"{key}: {'  '.join(cells)}", flush=True)
                file = write_result("couplings", result | surroundings("flax", "optax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
