"""What the head that keeps the bound costs: `python -m benchmarks.bounded`.

On a Kac path, `a = 25, c = 2`: the prediction `bounded` beside `x0` and `velocity`, and the signs of motion
learned by cross-entropy, as soft labels or drawn. Judged is the energy distance of 5,000 samples from as
many data. Writes `benchmarks/results/bounded.json` and prints the table.
"""

import argparse
from typing import Any

import jax
import numpy as np
from flax import nnx

import kacjax
from benchmarks.common import mean_and_half, show_interval, surroundings, write_result
from kacjax import losses, metrics
from kacjax.data import target

PATH = kacjax.kac_path(25.0, 2.0)
METHODS: dict[str, tuple[str, Any]] = {
    "x0": ("x0", None),
    "velocity": ("velocity", None),
    "bounded": ("bounded", None),
    "bounded, soft signs": ("bounded", losses.SignMatching()),
    "bounded, drawn signs": ("bounded", losses.SignMatching(drawn=True)),
}
EVALUATIONS = (5, 10, 20, 50)


def measure(name: str, method: str, seed: int, steps: int, num: int = 5000) -> dict[int, float]:
    """Energy distances by number of evaluations."""
    (prediction, objective), sample = METHODS[method], target(name)
    keys = jax.random.split(jax.random.key(seed), 4)
    data, real = sample(keys[0], 100_000), np.asarray(sample(keys[1], num))
    outputs = 2 if prediction == "bounded" else 1
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(seed), width=128, depth=3, outputs=outputs)
    options = {"prediction": prediction, "objective": objective, "progress": False}
    run = kacjax.fit(network, PATH, data, keys[3], steps, 256, **options)
    draw = lambda n: kacjax.generate(run.velocity, PATH, keys[2], (num, 2), n)  # noqa: E731
    return {n: float(metrics.energy_distance(np.asarray(draw(n)), real)) for n in EVALUATIONS}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000, help="of training (3000)")
    parser.add_argument("--targets", nargs="+", default=["grid2d"])
    arguments = parser.parse_args()
    result: dict[str, Any] = {"steps": arguments.steps, "samples": 5000, "seeds": 3}
    for name in arguments.targets:
        table: dict[str, Any] = {}
        result[f"{name}, kac"] = {"mean and half-width": table, "seeds": {}}
        for method in METHODS:
            seeds = [measure(name, method, seed, arguments.steps) for seed in range(3)]
            result[f"{name}, kac"]["seeds"][method] = seeds
            table[method] = {str(n): mean_and_half([s[n] for s in seeds]) for n in EVALUATIONS}
            cells = [f"{n}: {show_interval(*pair)}" for n, pair in table[method].items()]
            print(f"{name}, {method}: {'  '.join(cells)}", flush=True)
            file = write_result("bounded", result | surroundings("flax", "optax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
