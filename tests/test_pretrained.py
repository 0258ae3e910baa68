"""Velocities that come with the library."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from kacjax.export import load_notes, pretrained

KEY = jax.random.key(0)


@pytest.mark.long
@pytest.mark.parametrize(("steps", "taken"), [(None, 20), (4, 4), (1, 1)])
def test_digits_are_of_their_classes(steps, taken):
    datasets = pytest.importorskip("sklearn.datasets")
    linear = pytest.importorskip("sklearn.linear_model")
    real = datasets.load_digits()
    judge = linear.LogisticRegression(max_iter=2000).fit(real.data / 8 - 1, real.target)
    velocity, labels = kacjax.load_pretrained("digits", steps), np.arange(400) % 10
    options = {"solver": "ab2" if steps is None else "euler", "labels": labels}
    x = kacjax.generate(velocity, velocity.path, KEY, (400, 64), taken, **options)
    # The judge is right for 96 of a hundred real digits that it has not seen.
    assert np.mean(judge.predict(np.asarray(x)) == labels) > 0.93
    assert jnp.std(x) == pytest.approx(np.std(real.data / 8 - 1), rel=0.05)


@pytest.mark.long
@pytest.mark.parametrize(("steps", "taken"), [(None, 10), (4, 4), (1, 1)])
def test_mnist_is_of_its_classes(steps, taken):
    classifier = pytest.importorskip("experiments.judging.classifier")
    velocity, labels = kacjax.load_pretrained("mnist", steps), np.arange(100) % 10
    options = {"solver": "ab2" if steps is None else "euler", "labels": labels}
    x = kacjax.generate(velocity, velocity.path, KEY, (100, 28, 28, 1), taken, **options)
    assert x.dtype == jnp.float32
    _, probabilities = classifier.mnist_classifier()(kacjax.data.to_uint8(np.asarray(x)))
    assert np.mean(np.argmax(probabilities, axis=1) == labels) > (0.8 if steps is None else 0.95)
    assert jnp.std(x) == pytest.approx(0.617, rel=0.1)  # of MNIST; guidance draws bolder


def test_files_are_small_and_say_what_they_are():
    files = sorted(pathlib.Path(pretrained._FOLDER).glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 3e6
    kinds = "student-1", "student-4", "teacher"
    names = [f"{name}-{kind}" for name in ("digits", "mnist") for kind in kinds]
    assert [file.stem for file in files] == names
    for file in files:
        assert load_notes(file)["data"] == file.stem.split("-")[0]
    assert load_notes(files[0])["sampling"] == {"solver": "euler", "solver_steps": 1}


def test_others_are_refused():
    with pytest.raises(ValueError, match="name must be one of digits, mnist; got 'cats'"):
        kacjax.load_pretrained("cats")
    with pytest.raises(ValueError, match="steps must be None, 4 or 1, got 2"):
        kacjax.load_pretrained("digits", 2)
