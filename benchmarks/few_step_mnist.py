"""Few steps and strong guidance on MNIST: `python -m benchmarks.few_step_mnist`.

For each seed and path: a tiny U-Net that knows classes, trained with label dropout 0.1; students of it by
the ladder 4, 2, 1; and samples of the teacher under guidance. Both Kac paths and their control, flow
matching, have noise of one deviation, `c / sqrt(a) = 0.4`, up to the time that Kac noise takes to reach it:
with `a = 25` Kac noise is nearly Gaussian, with `a = 6.25` less so. Diffusion has the clock t and deviation
1. Networks, batches and optimizer steps are equal. Judged are Fréchet distances of samples from held-out
images in the features of the committed classifier, the share of samples with the class that was asked for,
and what `benchmarks.guidance` judges. What is found is kept after each path and seed: a run that was stopped
goes on. Two cores are best used by `--processes 2`. Writes `benchmarks/results/few_step_mnist.json` and
prints the tables.
"""

import argparse
import functools
import json
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import numpy as np
from flax import nnx

import kacjax
from benchmarks import guidance
from benchmarks.common import RESULTS, mean_and_half, show_interval, surroundings, write_result
from kacjax import metrics

PATHS = {
    "flow matching, 0.4": kacjax.flow_matching_path(0.4),
    "kac, a=25 c=2": kacjax.kac_path(25.0, 2.0, clock="t2"),
    "kac, a=6.25 c=1": kacjax.kac_path(6.25, 1.0, clock="t2"),
    "diffusion, 1": kacjax.diffusion_path(1.0),
}
TEACHER, LADDER, TEACHER_STEPS = (1, 2, 4, 5, 10, 50), (4, 2, 1), 16
FIGURES = "Fréchet distance", "of the class"


def measure(budget: argparse.Namespace, seed: int, label: str) -> dict[str, Any]:
    """Figures of teacher and students by evaluations, and of the teacher by guidance."""
    images, path = guidance.mnist(), PATHS[label]
    keys, begin = jax.random.split(jax.random.key(seed), 3), time.perf_counter()
    features, _ = images.judge(images.real)
    num, event = budget.num_samples, images.train.shape[1:]
    wanted = np.arange(num) % guidance.CLASSES

    def drawn(velocity: Any, count: int, solver: str) -> dict[str, float]:
        draw = {"solver": solver, "labels": wanted, "chunk_size": 250}
        x = kacjax.generate(velocity, path, keys[2], (num, *event), count, **draw)
        seen, classes = images.judge(x)
        values = metrics.frechet_distance(seen, features), np.mean(classes == wanted)
        return dict(zip(FIGURES, map(float, values), strict=True))

    def adam(steps: int) -> Any:
        return kacjax.training.default_optimizer(steps, 2e-3, warmup=50)

    options = {"labels": images.labels, "ema_decay": 0.995, "progress": False}
    network, steps = images.network(nnx.Rngs(seed)), budget.steps
    teach = options | {"optimizer": adam(steps), "label_dropout": 0.1}
    run = kacjax.fit(network, path, images.train, keys[0], steps, budget.batch_size, **teach)
    found: dict[str, Any] = {"teacher": {n: drawn(run.velocity, n, "ab2") for n in TEACHER}}
    learn = options | {"optimizer": adam(budget.student_steps), "teacher_steps": TEACHER_STEPS}
    data = run.velocity, images.train, keys[1], LADDER, budget.student_steps, budget.batch_size
    students = kacjax.distill(*data, **learn)
    found["student"] = {n: drawn(v, n, "euler") for n, v in students.stages.items()}
    found["evaluations of networks to distill"] = students.evaluations
    if "diffusion" not in label:
        own = budget.guided_samples
        found["guidance"] = guidance.under_guidance(images, run.velocity, keys[2], own)
    return json.loads(json.dumps(found | {"seconds": time.perf_counter() - begin}))


def summary(seeds: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean and half-width of a 95 % t-interval over three seeds, where seeds have figures."""
    return {
        kind: {
            row: {name: mean_and_half([seed[kind][row][name] for seed in seeds]) for name in values}
            for row, values in seeds[0][kind].items()
        }
        for kind in ("teacher", "student", "guidance")
        if kind in seeds[0]
    }


def main() -> None:
    """Runs the study, or what is missing of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=3000, help="of the teacher (3000)")
    parser.add_argument("--student-steps", type=int, default=400, help="of each student (400)")
    parser.add_argument("--batch-size", type=int, default=16, help="images in a step (16)")
    parser.add_argument("--num-samples", type=int, default=500, help="samples to judge (500)")
    parser.add_argument("--guided-samples", type=int, default=200, help="under guidance (200)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds (3)")
    parser.add_argument("--processes", type=int, default=1, help="paths at a time (1)")
    budget = parser.parse_args()
    workers = vars(budget).pop("processes")
    result: dict[str, Any] = {"what": "MNIST in few steps and under guidance", **vars(budget)}
    kept = RESULTS / "few_step_mnist.json"
    old = json.loads(kept.read_text()) if kept.exists() else {}
    fits = all(old.get(name) == value for name, value in vars(budget).items())
    result["found"] = old["found"] if fits else {}
    done = {label: len(values["seeds"]) for label, values in result["found"].items()}
    missing = [
        (s, label) for s in range(budget.seeds) for label in PATHS if s >= done.get(label, 0)
    ]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        measured = pool.map(functools.partial(measure, budget), *zip(*missing, strict=True))
        for (seed, label), found in zip(missing, measured, strict=True):
            print(f"seed {seed}, {label}: {found.pop('seconds'):.0f} s", flush=True)
            values = result["found"].setdefault(label, {"seeds": []})
            values["seeds"].append(found)
            values["mean and half-width"] = summary(values["seeds"])
            write_result("few_step_mnist", result | surroundings("flax", "optax"))
    for label, values in result["found"].items():
        for kind, rows in values["mean and half-width"].items():
            for row, cells in rows.items():
                shown = ", ".join(f"{n} {show_interval(*pair)}" for n, pair in cells.items())
                print(f"{label}, {kind} {row}: {shown}")
    print("written:", kept.name)


if __name__ == "__main__":
    main()
