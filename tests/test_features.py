"""The command that trains a classifier: a small run on made-up digits, and what it refuses."""

import json

import jax
import numpy as np
import pytest

from experiments import features
from experiments.judging.classifier import load_classifier
from kacjax.data import ImageArrays, load_mnist

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """Optax's Adam does not train under strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def bars(num: int) -> ImageArrays:
    """Noisy images of a bar that lies (0) or stands (1)."""
    labels = RNG.integers(0, 2, num).astype(np.int32)
    images = RNG.integers(0, 100, (num, 16, 16, 1))
    for image, label in zip(images, labels, strict=True):
        place = RNG.integers(4, 12)
        image[(slice(None), place) if label else (place, slice(None))] += 120
    return ImageArrays(images.astype(np.uint8), labels, ("lies", "stands"))


@pytest.fixture
def small(monkeypatch):
    """The command on bars instead of digits, with a small network."""
    sets = {"train": bars(320), "test": bars(120)}
    recipe = features.Recipe(channels=(4, 8), epochs=5, flip=True, shift=1, batch_size=32)
    monkeypatch.setitem(features.LOADERS, "mnist", lambda split, root: sets[split])
    monkeypatch.setitem(features.RECIPES, "mnist", recipe)


@pytest.mark.slow
def test_command_learns_writes_and_reports(small, tmp_path, capsys):
    out = tmp_path / "bars"
    assert features.main(["mnist", "--out", str(out), "--seed", "1"]) == 0
    summary = json.loads((out / "features.json").read_text())
    # 120 test images; guessing would reach this with probability 1e-13.
    assert summary["test_accuracy"] > 0.85
    scale = {name: row["classifier_frechet_distance"] for name, row in summary["scale"].items()}
    assert scale["real"] < scale["blurred"]
    assert scale["real"] < scale["noise"]
    assert "test accuracy" in capsys.readouterr().out
    loaded = load_classifier(out / "classifier.safetensors")
    assert loaded.classes == ("lies", "stands")
    assert sorted(path.name for path in out.iterdir()) == [
        "classifier.safetensors",
        "features.json",
    ]


def test_shifts_repeat_the_rim():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    padded = np.pad(image[0, ..., 0], 2, mode="edge")
    windows = {padded[i : i + 4, j : j + 4].tobytes() for i in range(5) for j in range(5)}
    moved = features._shift(jax.random.key(0), np.repeat(image, 500, axis=0), 2)
    # Of 25 places each is missed with probability (24/25)^500, 1e-9.
    assert {np.asarray(x)[..., 0].tobytes() for x in moved} == windows


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["mnist", "--epochs", "0"], "--epochs"),
        (["mnist", "--seed", "-1"], "--seed"),
        (["letters"], "letters"),
    ],
)
def test_wrong_flags_are_one_line(small, capsys, argv, word):
    assert features.main(argv) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert word in printed


def test_help_has_the_recipes(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        features.main(["--help"])
    printed = " ".join(capsys.readouterr().out.replace("│", "").split())
    for name, recipe in features.RECIPES.items():
        assert f"{recipe.epochs} for {name}" in printed


def test_absent_data_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(
        features.LOADERS,
        "mnist",
        lambda split, root: load_mnist(split, root, download=False),
    )
    assert features.main(["mnist", "--data-root", str(tmp_path)]) == 2
    assert "MNIST" in capsys.readouterr().err
