"""Trains a small classifier of images, whose features and classes judge samples.

python -m experiments.features mnist
python -m experiments.features cifar10 --data-root data --epochs 4

The folder then holds `classifier.safetensors`, which `experiments.compare` takes, and
`features.json` with the accuracy on test images and, as a scale for the scores of a model, those of
test images against other test images, of noise, and of blurred test images.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from flax import nnx
from jaxtyping import Array, UInt8
from scipy.ndimage import gaussian_filter

from experiments import report, runs
from experiments.checks import check_group
from experiments.command import command, optional, start, user_errors
from experiments.datasets.pictures import LOADERS
from experiments.judging.classifier import (
    Classifier,
    ImageClassifier,
    load_classifier,
    save_classifier,
)
from experiments.judging.judge import ImageJudge, in_chunks
from experiments.log import Progress
from kacjax import metrics
from kacjax.data import ImageArrays, to_float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained."""

    channels: tuple[int, ...]  # Width of the network at each resolution.
    epochs: int
    flip: bool  # Whether a mirrored image is of the same class.
    shift: int  # At random along each axis, at most, in pixels.
    stride: int = 1  # Of the network's first convolution.
    batch_size: int = 128
    learning_rate: float = 4e-3  # Peak of the one-cycle schedule.
    weight_decay: float = 1e-2


RECIPES = {
    "mnist": Recipe(channels=(16, 32, 64), epochs=3, flip=False, shift=2),
    "cifar10": Recipe(channels=(32, 64, 128), epochs=6, flip=True, shift=4, stride=2),
}
_EPOCHS = ", ".join(f"{recipe.epochs} for {name}" for name, recipe in RECIPES.items())
# Standard deviation of the blur, in pixels.
_BLUR = 1.0


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """A small classifier of images."""

    data: Annotated[Literal["mnist", "cifar10"], tyro.conf.Positional]
    """Data set."""
    data_root: Annotated[Path | None, optional("DIR", "$KACJAX_DATA or data")] = None
    """Folder of its files; they are downloaded there if missing."""
    epochs: Annotated[int | None, optional("INT", _EPOCHS)] = None
    """Passes over the training images."""
    seed: int = 0
    """Seed of everything random."""
    out: Annotated[Path | None, optional("DIR", "runs/features-DATA")] = None
    """Folder of the results; an earlier classifier in it is replaced."""


def train(config: FeaturesConfig) -> None:
    """Trains, writes the classifier and what there is to say of it, and prints that."""
    check_group(config)
    recipe = RECIPES[config.data]
    if config.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=config.epochs)
    with user_errors(ValueError, OSError, ImportError):
        train_images, test_images = (
            LOADERS[config.data](split, config.data_root) for split in ("train", "test")
        )
    out, start = config.out or Path("runs", f"features-{config.data}"), time.perf_counter()
    trained, loss = train_classifier(train_images, recipe, config.seed)
    seconds = time.perf_counter() - start
    notes = {
        "data": config.data,
        "recipe": dataclasses.asdict(recipe),
        "seed": config.seed,
        "training_loss": loss,
    }
    with runs.atomic(out / "classifier.safetensors") as file:
        # Without times: the same training gives the same file.
        save_classifier(file, trained, notes)
        # What is judged is what was written: rounded.
        classifier = load_classifier(file)
    parameters = jax.tree.leaves(trained.state.filter(nnx.Param))
    _, probabilities = in_chunks(classifier, test_images.images)
    right = probabilities.argmax(axis=1) == test_images.labels
    summary = {
        **notes,
        "seconds": seconds,
        "parameters": sum(leaf.size for leaf in parameters),
        "test_accuracy": float(np.mean(right)),
        "scale": scale(classifier, test_images.images, config.seed),
        **report.surroundings(),
    }
    runs.write(out / "features.json", summary)
    shown = ("seconds", "parameters", "training_loss", "test_accuracy")
    title = f"{config.data}, {recipe.epochs} epochs"
    print(report.table(title, {name: summary[name] for name in shown}), end="\n\n")
    print(report.columns(summary["scale"]), end="")


def train_classifier(
    images: ImageArrays, recipe: Recipe, seed: int
) -> tuple[ImageClassifier, float]:
    """A classifier by AdamW with one cycle of the rate, and the mean loss of the last epoch."""
    num, size = len(images.images), recipe.batch_size
    per_epoch = -(-num // size)
    steps = recipe.epochs * per_epoch
    # Optax and Flax count on the standard promotion, whatever the caller has set.
    with jax.numpy_dtype_promotion("standard"):
        model = Classifier(
            images.images.shape[1:],
            len(images.classes),
            rngs=nnx.Rngs(seed),
            channels=recipe.channels,
            stride=recipe.stride,
        )
        graphdef, parameters, statistics = nnx.split(model, nnx.Param, ...)
        optimizer = optax.adamw(
            optax.cosine_onecycle_schedule(steps, recipe.learning_rate),
            weight_decay=recipe.weight_decay,
        )
        state = (parameters, statistics, optimizer.init(parameters))
        data = (jnp.asarray(images.images), jnp.asarray(images.labels))
        # One call a step: inside a scan, XLA's convolutions on a CPU use one thread and are slow.
        step = jax.jit(functools.partial(_step, graphdef, optimizer, recipe, jax.random.key(seed)))
        losses, random = [], np.random.default_rng(seed)
        epochs = [random.permutation(num) for _ in range(-(-steps * size // num))]
        batches = np.concatenate(epochs)[: steps * size].reshape(steps, size)
        bar, begin = Progress(steps, 0, shown=True), time.perf_counter()
        for number, rows in enumerate(batches):
            state, loss = step(data, state, number, rows)
            losses.append(loss)
            bar.update(number + 1, None, (number + 1) / (time.perf_counter() - begin))
        bar.close()
    trained = nnx.merge(graphdef, state[0], state[1])
    return ImageClassifier(trained, images.classes), float(np.mean(losses[-per_epoch:]))


def scale(
    classifier: ImageClassifier, test: UInt8[np.ndarray, "num height width channels"], seed: int
) -> dict[str, dict[str, float]]:
    """Scores against one half of the test images: of the other, of that blurred, and of noise."""
    order = np.random.default_rng(seed).permutation(len(test))
    half = len(test) // 2
    reference, other = test[order[:half]], test[order[half : 2 * half]]
    judge = ImageJudge(classifier, reference)
    blurred = gaussian_filter(other.astype(np.float32), (0, _BLUR, _BLUR, 0))
    sets = {
        "real": other,
        "blurred": np.rint(blurred).astype(np.uint8),
        "noise": np.random.default_rng(seed).integers(0, 256, other.shape, np.uint8),
    }
    key = jax.random.key(seed)
    rows = {}
    for name, images in sets.items():
        features, _ = judge.classify(images)
        kernel = metrics.kid(features, judge.real_features, key, subset_size=min(1000, half))
        found = judge.statistics(images)
        rows[name] = {
            "classifier_frechet_distance": found.classifier_frechet_distance,
            "classifier_kernel_distance": float(kernel.mean),
            "confidence": found.confidence,
            "total_variation": found.total_variation,
        }
    return rows


def _step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    key: Array,
    data: tuple[Array, Array],
    state: tuple[Any, Any, Any],
    number: Array,
    rows: Array,
) -> tuple[tuple[Any, Any, Any], Array]:
    """One step of the optimizer: the new state, and the loss before it."""
    parameters, statistics, inner = state
    x, labels = to_float(data[0][rows]), data[1][rows]
    shift_key, flip_key = jax.random.split(jax.random.fold_in(key, number))
    if recipe.flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(x), 1, 1, 1))
        x = jnp.where(mirrored, x[:, :, ::-1], x)
    x = _shift(shift_key, x, recipe.shift)

    def loss_of(parameters):
        model = nnx.merge(graphdef, parameters, statistics, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(x).logits, labels)
        return jnp.mean(losses), nnx.split(model, nnx.Param, ...)[2]

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    updates, inner = optimizer.update(gradient, inner, parameters)
    return (optax.apply_updates(parameters, updates), statistics, inner), loss


def _shift(key: Array, x: Array, most: int) -> Array:
    """Moves each image by up to `most` pixels along both axes; its rim is repeated."""
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, offsets)


main = command(FeaturesConfig, train, "features", __doc__)

if __name__ == "__main__":
    start(main)
