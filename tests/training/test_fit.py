"""Training in one call: what it learns, what it reports, and what it refuses."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import kacjax
from kacjax import FitResult, fit
from kacjax.models import MLP
from kacjax.training import default_optimizer
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
    optimizer = default_optimizer(300, learning_rate=1e-2, warmup=10)
    result = quick(model, path, data, steps=300, batch_size=64, optimizer=optimizer)
    x = kacjax.generate(result.velocity, path, jax.random.key(3), (200, 2), 30, solver="heun")
    assert np.median(np.linalg.norm(np.asarray(x) - data[0], axis=1)) < 0.05


def test_goes_on_from_a_state_that_stays_readable(capsys):
    seen = []
    # A schedule without an end, so that steps can be added.
    optimizer = default_optimizer(20, warmup=5, schedule="constant")
    options = {"optimizer": optimizer, "steps_per_call": 8, "progress": True}
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
    assert np.all(np.any(labelled.state.params.params["shifts"][...] != 0, axis=1))
    streamed = quick(Affine(), data=iter([DATA[:16]] * 25))
    assert streamed.losses.shape == (20,)


@pytest.mark.slow
def test_in_float64_the_state_keeps_its_types(x64):
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, fourier=2)
    result = quick(model, steps=5, steps_per_call=5)
    for tree in (result.state.params, result.state.ema):
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
        ({"data": 3}, "data must be an array or an iterable of batches, got 3"),
        ({"labels": [0, 1]}, r"labels must be integers of shape \(64,\), got .* \(2,\)"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
        ({"time_power": 0.0}, "time_power must be positive"),
        ({"prediction": "noise"}, "prediction must be one of bounded, edm, velocity, x0"),
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
        quick(Affine(), optimizer=optax.sgd(1e38))


def test_a_list_of_batches_is_gone_through_once():
    result = quick(Affine(), data=[DATA[:16]] * 7)
    assert result.losses.shape == (7,)


@pytest.mark.long
def test_compiles_once_for_runs_of_one_kind():
    """Other seeds, data, parameters, numbers of the path; but for another kind of path, anew."""
    options = {"ema_decay": 0.5, "steps_per_call": 7}
    quick(Affine(), kacjax.kac_path(5.0, 2.0), **options)
    before = Affine.traced
    for seed, path in ((1, kacjax.kac_path(6.0, 3.0)), (2, kacjax.kac_path(7.0, 1.0, T=2.0))):
        network = Affine()
        network.weight[...] = network.weight[...] + seed
        key = jax.random.key(seed)
        result = fit(network, path, DATA + seed, key, 20, 16, progress=False, **options)
        # The network itself is looked at once, without compiling it.
        assert Affine.traced == before + seed
        assert result.compile_seconds == 0
    quick(Affine(), kacjax.kac_path(5.0, 2.0, clock="t2"), **options)
    assert Affine.traced > before + 3


def test_only_parameters_are_trained():
    class Fixed(Affine):
        def __init__(self):
            super().__init__()
            self.frequency = nnx.Variable(jnp.ones(2))
            self.count = nnx.Variable(jnp.zeros((), jnp.int32))

        def __call__(self, t, x, label=None):
            return super().__call__(
                t, x * self.frequency[...][None] + self.count[...].astype(x.dtype), label
            )

    result = quick(Fixed(), optimizer=optax.adamw(0.1))
    rest = result.velocity.network.rest
    np.testing.assert_array_equal(rest["frequency"][...], 1)
    assert (rest["count"][...], rest["count"][...].dtype) == (0, jnp.int32)
    trained = result.velocity.network.params
    assert jnp.all(trained["weight"][...] != 0.1)
    # With a filter, fewer.
    kept = quick(Fixed(), trainable=lambda path, _: "shifts" in path).velocity.network
    np.testing.assert_array_equal(kept.rest["weight"][...], np.float32(0.1))


def test_a_filter_of_an_equinox_network():
    class Scale(eqx.Module):
        first: jax.Array
        second: jax.Array

        def __call__(self, t, x):
            return self.first[None] * x + self.second[None]

    network = Scale(jnp.ones(2), jnp.ones(2))
    some = Scale(True, False)
    result = quick(network, trainable=some).velocity.network
    assert jnp.all(result.first != 1)
    np.testing.assert_array_equal(result.second, 1)
    with pytest.raises(ValueError, match="network must hold parameters to train"):
        quick(network, trainable=False)


def test_batch_normalization_in_training_mode_is_refused():
    class Normalized(Affine):
        def __init__(self):
            super().__init__()
            self.norm = nnx.BatchNorm(2, rngs=nnx.Rngs(0))

        def __call__(self, t, x):
            return super().__call__(t, self.norm(x))

    network = Normalized()
    with pytest.raises(ValueError, match=r"changes its variable .*'norm'.*model.eval\(\)"):
        quick(network)
    network.eval()
    assert np.all(np.isfinite(quick(network).losses))


def test_what_is_known_of_classes_stays_known():
    class Own(Affine):
        @property
        def config(self):
            return {}

    result = quick(Own(), labels=np.arange(64) % 3, classes=3)
    assert result.velocity.classes == 3


@pytest.mark.long
@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_a_path_with_numbers_for_each_component(prediction):
    pair = jnp.array([2.0, 3.0])
    for path in (kacjax.kac_path(4 * pair, pair), kacjax.diffusion_path(sigma=pair)):
        assert np.all(np.isfinite(quick(Affine(), path, prediction=prediction).losses))


def test_shown_in_a_line():
    assert len(repr(quick(Affine()))) < 200
