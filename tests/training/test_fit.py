"""Training in one call: what it learns, what it reports, and what it refuses."""

import chex
import jax
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax import FitResult, fit
from kacjax.models import MLP
from tests.training.small import DATA, PATH, Affine, mlp


def quick(model=None, path=None, data=DATA, **options) -> FitResult:
    options = {"steps": 20, "batch_size": 16, "progress": False, **options}
    key = jax.random.key(0)
    return fit(model or mlp(), path or PATH, data, key, **options)


def test_reproducible_from_the_key_and_leaves_the_model_alone():
    model = Affine()
    before = nnx.to_pure_dict(nnx.state(model))
    first, second = quick(model), quick(model)
    np.testing.assert_array_equal(first.losses, second.losses)
    chex.assert_trees_all_equal(before, nnx.to_pure_dict(nnx.state(model)))
    assert first.losses.shape == (20,)
    assert first.steps_per_second > 0
    assert first.compile_seconds > 0


@pytest.mark.parametrize(
    "path",
    [
        kacjax.kac_path(),
        pytest.param(kacjax.diffusion_path(), marks=pytest.mark.slow),
        pytest.param(kacjax.flow_matching_path(), marks=pytest.mark.slow),
    ],
)
def test_learns_one_point(path):
    """All data at one point: generation reaches it, for every model."""
    data = np.tile([[0.5, -0.3]], (32, 1)).astype(np.float32)
    model = MLP(2, rngs=nnx.Rngs(0), width=32, depth=1)
    result = quick(model, path, data, steps=300, batch_size=64, learning_rate=1e-2, warmup=10)
    x = kacjax.generate(result.velocity, path, jax.random.key(3), (200, 2), 30, solver="heun")
    assert np.median(np.linalg.norm(np.asarray(x) - data[0], axis=1)) < 0.05


def test_goes_on_from_a_state_that_stays_readable(capsys):
    seen = []
    # A schedule without an end, so that steps can be added.
    options = {"schedule": "constant", "warmup": 5, "steps_per_call": 8, "progress": True}
    half = quick(Affine(), callback=lambda *call: seen.append(call), **options)
    assert [(step, len(metrics.loss)) for step, metrics in seen] == [(8, 8), (16, 8), (20, 4)]
    assert "20/20" in capsys.readouterr().err
    rest = quick(Affine(), state=half.state, steps=30, **options)
    assert rest.losses.shape == (10,)
    assert (half.state.step, rest.state.step) == (20, 30)
    with pytest.raises(ValueError, match="state must have fewer than steps=20 steps, got 20"):
        quick(Affine(), state=half.state)


def test_labels_and_iterators():
    labelled = quick(Affine(), labels=np.arange(64) % 3, label_dropout=0.2)
    assert np.all(np.any(labelled.state.parameters["shifts"][...] != 0, axis=1))
    streamed = quick(Affine(), data=iter([DATA[:16]] * 25))
    assert streamed.losses.shape == (20,)


@pytest.mark.slow
def test_in_float64_the_state_keeps_its_types(x64):
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, fourier=2)
    result = quick(model, steps=5, steps_per_call=5)
    for tree in (result.state.parameters, result.state.ema):
        assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype("float32")}
    assert np.all(np.isfinite(result.losses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": np.zeros((0, 2))}, "data must have shape .* and not be empty"),
        ({"data": np.zeros(5)}, "data must have shape"),
        ({"data": np.array([[1.0, np.nan]])}, "data must be finite, got 1 NaN"),
        ({"data": np.zeros((4, 3))}, "data"),
        ({"steps": 0}, "steps must be an integer of at least 1, got 0"),
        ({"batch_size": -1}, "batch_size must be an integer"),
        ({"learning_rate": -1.0}, "learning_rate must be positive"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
        ({"time_power": 0.0}, "power must be positive"),
        ({"parameterisation": "noise"}, "parameterisation must be one of data, velocity"),
        ({"data": iter([DATA[:16]]), "labels": np.zeros(64, int)}, "labels must be None if data"),
        ({"data": iter([])}, "source must hold a batch for each step from 0 to 20, got none"),
        ({"labels": np.zeros(64, int)}, "label must be None for a network without classes"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        quick(**options)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match=r"loss became .* at step"):
        quick(Affine(), learning_rate=1e38, warmup=0, clip=1e30)
