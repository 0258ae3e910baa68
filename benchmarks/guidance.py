"""What strong guidance does to samples: `python -m benchmarks.guidance digits`.

The claim is that bounded speeds keep Kac paths stable under classifier-free guidance. For each path and
seed: a network with classes and label dropout 0.1, and samples of given classes at several scales of the
guidance, 20 steps of ab2. Kac paths stand beside flow matching with noise of the same deviation,
`sigma = c / sqrt(a)`, the control. Judged are samples that are not finite, lengths over those of data,
pixels beyond the data's range by more than a twentieth of it, samples that a classifier of real data gives
the class that was asked for, Fréchet distances, of pixels for digits and in a classifier's features for
MNIST, and the largest norm of the guided velocity on the way, over the mean length of data. Writes
`benchmarks/results/guidance.json` and prints the table.

    python -m benchmarks.guidance digits mnist --mnist-steps 1000
"""

import argparse
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from sklearn.svm import SVC

import kacjax
from benchmarks.common import mean_and_half, show_interval, surroundings, write_result
from experiments.judging.classifier import mnist_classifier
from kacjax import data, metrics

PATHS = {
    "flow matching, 0.4": kacjax.flow_matching_path(0.4),
    "kac, a=25 c=2": kacjax.kac_path(25.0, 2.0, clock="t2"),
    "flow matching, 1": kacjax.flow_matching_path(1.0),
    "kac, a=9 c=3": kacjax.kac_path(9.0, 3.0, clock="t2"),
}
SCALES = (1, 2, 4, 7, 10)
STEPS, CLASSES = 20, 10
FIGURES = "not finite", "length over data's", "out of range", "of the class", "Fréchet distance"
SPEED = "largest speed over length"


class Images(NamedTuple):
    """Data with classes, their network, and features and classes that a judge finds."""

    train: np.ndarray
    labels: np.ndarray
    real: np.ndarray
    network: Callable[[nnx.Rngs], nnx.Module]
    judge: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def digits() -> Images:
    """Digits of 8 by 8 pixels, a perceptron, and a support vector machine."""
    found = data.load_digits()
    machine = SVC().fit(found.train, found.train_labels)
    judge = lambda x: (x, machine.predict(x))  # noqa: E731
    make = lambda rngs: kacjax.models.MLP(64, rngs=rngs, width=256, depth=3, classes=CLASSES)  # noqa: E731
    return Images(found.train, found.train_labels, found.train, make, judge)


def mnist() -> Images:
    """MNIST in files of `$KACJAX_DATA`, the tiny U-Net, and the committed classifier."""
    found, held_out = data.load_mnist("train", None, False), data.load_mnist("test", None, False)
    classifier = mnist_classifier()

    def judge(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = [classifier(data.to_uint8(x[i : i + 500])) for i in range(0, len(x), 500)]
        features, probabilities = (
            np.concatenate([np.asarray(p[k]) for p in parts]) for k in (0, 1)
        )
        return features, probabilities.argmax(1)

    size = kacjax.models.unet_size("tiny") | {"classes": CLASSES}
    make = lambda rngs: kacjax.models.UNet((28, 28, 1), rngs=rngs, **size)  # noqa: E731
    real = data.to_float(held_out.images[:2000])
    return Images(data.to_float(found.images), found.labels, real, make, judge)


def measure(images: Images, path: Any, seed: int, steps: int, num: int) -> dict[str, Any]:
    """Figures by scale of guidance of a network that this trains."""
    keys = jax.random.split(jax.random.key(seed), 2)
    options = {"labels": images.labels, "label_dropout": 0.1, "progress": False}
    network = images.network(nnx.Rngs(seed))
    run = kacjax.fit(network, path, images.train, keys[0], steps, 128, **options)
    return under_guidance(images, run.velocity, keys[1], num)


def under_guidance(images: Images, velocity: Any, key: Any, num: int) -> dict[str, Any]:
    """Figures of `num` samples by scale of guidance."""
    wanted, event = np.arange(num) % CLASSES, images.train.shape[1:]
    features, _ = images.judge(images.real)
    length = np.mean(np.linalg.norm(images.train.reshape(len(images.train), -1), axis=1))
    found, draw = {}, {"labels": wanted, "chunk_size": 500}
    for scale in SCALES:
        guided = kacjax.guided(velocity, float(scale), null_label=CLASSES)
        x = kacjax.generate(guided, velocity.path, key, (num, *event), STEPS, **draw)
        finite = np.isfinite(x.reshape(num, -1)).all(axis=1)
        kept, own = x[finite], wanted[finite]
        if len(kept) < 2:
            nothing = dict.fromkeys((*FIGURES[1:], SPEED), math.nan)
            found[str(scale)] = {FIGURES[0]: float(1 - finite.mean()), **nothing}
            continue
        seen, classes = images.judge(kept)
        lengths = np.linalg.norm(kept.reshape(len(kept), -1), axis=1)
        values = (
            *(1 - finite.mean(), lengths.mean() / length, np.mean(np.abs(kept) > 1.1)),
            *(np.mean(classes == own), metrics.frechet_distance(seen, features)),
        )
        found[str(scale)] = dict(zip(FIGURES, map(float, values), strict=True))
        found[str(scale)][SPEED] = largest_speed(guided, key, wanted[:200], event) / float(length)
    return found


def largest_speed(guided: Any, key: Any, wanted: np.ndarray, event: tuple[int, ...]) -> float:
    """The largest norm of the guided velocity on the way of a sample, a mean over samples."""
    path, num = guided.path, len(wanted)
    times = jnp.linspace(1, 0, STEPS + 1) * path.T
    way = kacjax.trajectory(guided, path, key, (num, *event), times, STEPS, labels=wanted)

    def speed(t: jax.Array, x: jax.Array) -> jax.Array:
        v = guided(jnp.full(num, t), x, jnp.asarray(wanted))
        return jnp.linalg.norm(v.reshape(num, -1), axis=1)

    # At the data itself some velocities have no value.
    speeds = jax.lax.map(lambda point: speed(*point), (times[:-1], way[:-1]))
    return float(jnp.mean(jnp.max(speeds, axis=0)))


def summary(seeds: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean and half-width of a 95 % t-interval over three seeds, by scale and figure."""
    return {
        scale: {name: mean_and_half([seed[scale][name] for seed in seeds]) for name in row}
        for scale, row in seeds[0].items()
    }


def main() -> None:
    """Runs the study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", choices=("digits", "mnist"))
    parser.add_argument("--digits-steps", type=int, default=4000, help="of training (4000)")
    parser.add_argument("--mnist-steps", type=int, default=1000, help="of training (1000)")
    parser.add_argument("--num-samples", type=int, default=2000, help="samples to judge (2000)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds (3)")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"what": f"samples under guidance, {STEPS} steps of ab2"}
    result |= {"samples": arguments.num_samples, "number of seeds": arguments.seeds, "steps": {}}
    for name in arguments.data:
        images = {"digits": digits, "mnist": mnist}[name]()
        steps = result["steps"][name] = getattr(arguments, f"{name}_steps")
        for label, path in PATHS.items():
            draws = range(arguments.seeds)
            seeds = [measure(images, path, seed, steps, arguments.num_samples) for seed in draws]
            table = summary(seeds)
            result[f"{name}, {label}"] = {"mean and half-width": table, "seeds": seeds}
            for scale, row in table.items():
                cells = ", ".join(f"{n} {show_interval(*pair)}" for n, pair in row.items())
                print(f"{name}, {label}, guidance {scale}: {cells}", flush=True)
            file = write_result("guidance", result | surroundings("flax", "optax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
