"""Trains a small classifier of MNIST or CIFAR-10, whose features and classes judge samples.

python -m experiments.features mnist --data-root DIR
python -m experiments.features cifar10 --data-root DIR --epochs 8

The folder then holds `classifier.safetensors`, which `experiments.compare` takes, and
`features.json` with the accuracy on test images and, as a scale for the scores of a model, those of
test images against other test images, of noise, and of blurred test images.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from flax import nnx
from jaxtyping import UInt8
from scipy.ndimage import gaussian_filter

from experiments import report, runs
from experiments.checks import MAX_SEED
from experiments.classifier import Recipe, Trained, accuracy, train_classifier
from experiments.command import check_count, optional, parse, run, user_errors
from experiments.datasets.pictures import LOADERS
from experiments.judging.classifier import ImageClassifier
from experiments.judging.classifier_file import load_classifier, save_classifier
from experiments.judging.judge import ImageJudge
from kacjax import metrics

CLASSIFIER, REPORT = "classifier.safetensors", "features.json"
RECIPES = {
    "mnist": Recipe(channels=(16, 32, 64), epochs=3, flip=False, shift=2),
    "cifar10": Recipe(channels=(32, 64, 128), epochs=6, flip=True, shift=4, stride=2),
}
_EPOCHS = ", ".join(f"{recipe.epochs} for {name}" for name, recipe in RECIPES.items())
# Standard deviation of the blur, in pixels.
BLUR = 1.0


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


def train(config: FeaturesConfig) -> dict[str, Any]:
    """Trains, writes the classifier, and returns what it wrote about it.

    Raises:
        UserError: If a number does not make sense, data are absent, or the folder cannot be
            written.
    """
    recipe = RECIPES[config.data]
    with user_errors(ValueError, OSError, ImportError):
        check_count("--seed", config.seed, 0, MAX_SEED)
        if config.epochs is not None:
            check_count("--epochs", config.epochs, 1, 10_000)
            recipe = dataclasses.replace(recipe, epochs=config.epochs)
        train_images, test_images = (
            LOADERS[config.data](split, config.data_root) for split in ("train", "test")
        )
    out = config.out or Path("runs", f"features-{config.data}")
    trained = train_classifier(train_images, recipe, config.seed)
    notes = {
        "data": config.data,
        "recipe": dataclasses.asdict(recipe),
        "seed": config.seed,
        "training_loss": trained.loss,
    }
    with runs.atomic(out / CLASSIFIER) as file:
        # Without times: the same training gives the same file.
        save_classifier(file, trained.classifier, notes)
        # What is judged is what was written: rounded.
        classifier = load_classifier(file)
    summary = {
        **notes,
        "seconds": trained.seconds,
        "parameters": _count(trained),
        "test_accuracy": accuracy(classifier, test_images),
        "scale": scale(classifier, test_images.images, config.seed),
        **report.surroundings(),
    }
    runs.write_json(out / REPORT, summary)
    return summary


def scale(
    classifier: ImageClassifier,
    test: UInt8[np.ndarray, "num height width channels"],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Scores of images whose quality is known, against one half of the test images.

    The other half, that half blurred, and uniform noise.
    """
    order = np.random.default_rng(seed).permutation(len(test))
    half = len(test) // 2
    reference, other = test[order[:half]], test[order[half : 2 * half]]
    judge = ImageJudge(classifier, reference)
    blurred = gaussian_filter(other.astype(np.float32), (0, BLUR, BLUR, 0))
    sets = {
        "real": other,
        "blurred": np.rint(blurred).astype(np.uint8),
        "noise": np.random.default_rng(seed).integers(0, 256, other.shape, np.uint8),
    }
    key = jax.random.key(seed)
    rows = {}
    for name, images in sets.items():
        statistics = judge.statistics(images)
        features, _ = judge.classify(images)
        kernel = metrics.kid(features, judge.real_features, key, subset_size=min(1000, half))
        rows[name] = {
            "classifier_frechet_distance": statistics.classifier_frechet_distance,
            "classifier_kernel_distance": float(kernel.mean),
            "confidence": statistics.confidence,
            "total_variation": statistics.total_variation,
        }
    return rows


def _count(trained: Trained) -> int:
    parameters = trained.classifier.state.filter(nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        about = "Trains a small classifier of images, whose features and classes judge samples."
        examples = (
            "python -m experiments.features mnist\n"
            "python -m experiments.features cifar10 --data-root data --epochs 4"
        )
        config = parse(FeaturesConfig, argv, "python -m experiments.features", about, examples)
        summary = train(config)
        title = f"{config.data}, {summary['recipe']['epochs']} epochs"
        names = ("seconds", "parameters", "training_loss", "test_accuracy")
        print(report.table(title, {name: summary[name] for name in names}))
        print()
        print(report.columns(summary["scale"]), end="")

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
