"""Students and flow maps beside their teachers in the plane: `python -m benchmarks.few_step`.

For each target and seed: a teacher, trained for `--steps`; by the ladder 4, 1 two students, each of half as
many steps (`kacjax.distill`); and a flow map of `--steps` from scratch. Paths are Kac, `a = 25, c = 2`, and
flow matching with noise of the same deviation, `sigma = c / sqrt(a) = 0.4`, the control. Judged is the energy
distance of 5,000 samples from as many data. Writes `benchmarks/results/few_step.json` and prints the table.
"""

import argparse
from typing import Any

import jax
import numpy as np
from flax import nnx

import kacjax
from benchmarks.common import mean_and_half, show_interval, surroundings, write_result
from kacjax import few_step, metrics
from kacjax.data import target

PATHS = {
    "kac": kacjax.kac_path(25.0, 2.0),
    "flow matching, 0.4": kacjax.flow_matching_path(0.4),
}
TARGETS = ("checkerboard", "grid2d", "spirals")
TEACHER = (1, 2, 4, 8, 20, 50)


def measure(name: str, path: Any, seed: int, steps: int, num: int = 5000) -> dict[str, Any]:
    """Energy distances by number of evaluations, and what training took."""
    sample, keys = target(name), jax.random.split(jax.random.key(seed), 4)
    data, real = sample(keys[0], 100_000), np.asarray(sample(keys[1], num))
    size = {"width": 128, "depth": 3}

    def distance(x: Any) -> float:
        return float(metrics.energy_distance(np.asarray(x), real))

    def drawn(velocity: Any, count: int, solver: str) -> float:
        return distance(kacjax.generate(velocity, path, keys[2], (num, 2), count, solver=solver))

    network = kacjax.models.MLP(2, rngs=nnx.Rngs(seed), **size)
    run = kacjax.fit(network, path, data, keys[3], steps, 256, progress=False)
    found: dict[str, Any] = {"teacher": {n: drawn(run.velocity, n, "ab2") for n in TEACHER}}
    short = max(1, steps // 2)
    students = kacjax.distill(run.velocity, data, keys[3], (4, 1), short, progress=False)
    found["student"] = {n: drawn(v, n, "euler") for n, v in students.stages.items()}
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(seed), **size, second_time=True)
    loss = few_step.FlowMapLoss()
    flow = kacjax.fit(network, path, data, keys[3], steps, 256, objective=loss, progress=False)
    found["flow map"] = {
        n: distance(few_step.draw_flow_map(flow.velocity, path, keys[2], (num, 2), n))
        for n in (1, 2, 4)
    }
    return {**found, "evaluations of networks to distill": students.evaluations}


def summary(seeds: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and half-width of a 95 % t-interval over seeds, by method and evaluations."""
    table = {}
    for method in ("teacher", "student", "flow map"):
        rows = {count: [seed[method][count] for seed in seeds] for count in seeds[0][method]}
        table[method] = {str(count): mean_and_half(values) for count, values in rows.items()}
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000, help="of teacher and flow map")
    parser.add_argument("--targets", nargs="+", default=TARGETS)
    steps, targets = (parsed := parser.parse_args()).steps, parsed.targets
    result: dict[str, Any] = {"steps": steps, "samples": 5000, "seeds": 3}
    for name in targets:
        for label, path in PATHS.items():
            seeds = [measure(name, path, seed, steps) for seed in range(3)]
            result[f"{name}, {label}"] = {"mean and half-width": summary(seeds), "seeds": seeds}
            for method, row in summary(seeds).items():
                cells = "  ".join(f"{n}: {show_interval(*pair)}" for n, pair in row.items())
                print(f"{name}, {label}, {method}: {cells}", flush=True)
            file = write_result("few_step", result | surroundings("flax", "optax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
