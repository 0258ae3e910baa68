"""Velocities that come with the library."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from kacjax.export import load_notes, pretrained

KEY = jax.random.key(0)


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


def test_files_are_small_and_say_what_they_are():
    files = sorted(pathlib.Path(pretrained._FOLDER).glob("*.safetensors"))
    assert sum(file.stat().st_size for file in files) < 3e6
    assert [file.stem for file in files] == [
        "digits-student-1",
        "digits-student-4",
        "digits-teacher",
    ]
    for file in files:
        assert load_notes(file)["data"] == "digits"
    assert load_notes(files[0])["sampling"] == {"solver": "euler", "solver_steps": 1}


def test_others_are_refused():
    with pytest.raises(ValueError, match="name must be one of digits; got 'cats'"):
        kacjax.load_pretrained("cats")
    with pytest.raises(ValueError, match="steps must be None, 4 or 1, got 2"):
        kacjax.load_pretrained("digits", 2)
