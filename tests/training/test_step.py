"""The step: pure, right in its loss, its average and its sums, and safe from what is not finite."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kacjax
from kacjax import TrainState
from kacjax.data.images import to_float
from kacjax.training import TIME_BINS
from kacjax.training.step import _drop_labels, apply_gradient
from tests.training.small import DATA, Affine, mlp, small_step

KEY = jax.random.key(2)
LABELS = jnp.asarray(np.arange(64) % 3, jnp.int32)
# Moves the parameters by the gradient itself, so that they show it.
PLAIN = optax.sgd(1.0)


class NoLabels(Affine):
    """A network of points alone."""

    def __call__(self, t, x):
        """The affine map."""
        return super().__call__(t, x)


@pytest.fixture(scope="module")
def plain():
    """A state and a step of points alone, whose update is the gradient."""
    return small_step(NoLabels(), optimiser=PLAIN)


def test_step_is_pure_and_moves_everything():
    state, step = small_step(mlp())
    first, metrics = step(state, DATA, KEY)
    again, same = step(state, DATA, KEY)
    chex.assert_trees_all_equal(metrics, same)
    chex.assert_trees_all_equal(first.parameters, again.parameters)
    assert first.step == 1
    assert first.skipped == 0
    second, _ = step(first, DATA, KEY)
    for moved in (second.parameters, second.ema, second.optimiser):
        pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(state.parameters), strict=False)
        assert any(jnp.any(a != b) for a, b in pairs if a.shape == b.shape)
    assert isinstance(second, TrainState)


def test_average_follows_its_formula():
    state, step = small_step(ema_decay=0.3)
    expected = state.ema
    for k in range(5):
        state, _ = step(state, DATA, jax.random.key(k))
        decay = min(0.3, (1 + k) / (10 + k))
        expected = jax.tree.map(
            lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.parameters
        )
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-7)


def test_loss_is_the_flow_matching_loss_of_its_first_key():
    state, step = small_step(NoLabels(), "velocity", time_power=1.0)
    velocity = step.__wrapped__.keywords["velocity"]
    expected = kacjax.flow_matching_loss(
        velocity, velocity.path, jax.random.split(KEY, 3)[0], jnp.asarray(DATA)
    )
    _, metrics = step(state, DATA, KEY)
    np.testing.assert_allclose(metrics.loss, expected, rtol=1e-5)
    # Times are spread evenly, so that with power 1 each bin has its share, but for one.
    np.testing.assert_allclose(metrics.bin_counts, np.full(TIME_BINS, 64 / TIME_BINS), atol=1)
    whole = np.average(metrics.bin_losses(), weights=metrics.bin_counts)
    np.testing.assert_allclose(whole, metrics.loss, rtol=1e-5)


def test_time_bins_sum_to_the_loss(plain):
    state, step = plain
    _, metrics = step(state, DATA, KEY)
    assert metrics.bin_counts.sum() == 64
    # Of times u^2, twice as many as with power 1 and more lie in the first bin.
    assert metrics.bin_counts[0] > 16
    np.testing.assert_allclose(metrics.bin_sums.sum() / 64, metrics.loss, rtol=1e-5)
    assert metrics.bin_losses().shape == (TIME_BINS,)


@pytest.mark.parametrize("accumulate", [2, 8])
def test_micro_batches_equal_the_batch(plain, accumulate):
    state, whole = plain
    _, parts = small_step(NoLabels(), optimiser=PLAIN, accumulate=accumulate)
    (expected, metrics), (actual, others) = (f(state, DATA, KEY) for f in (whole, parts))
    chex.assert_trees_all_close(metrics, others, rtol=1e-5)
    chex.assert_trees_all_close(actual.parameters, expected.parameters, rtol=1e-5, atol=1e-6)


def test_micro_batches_keep_labels_with_their_data():
    """The shift of class 0 moves by the gradient of the data of class 0 alone."""
    state, whole = small_step(Affine(), optimiser=PLAIN)
    _, parts = small_step(Affine(), optimiser=PLAIN, accumulate=4)
    # Without the dropout, which draws anew for each micro-batch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "bernoulli", lambda key, p, shape: jnp.ones(shape, bool))
        expected, actual = (f(state, (DATA, LABELS), KEY)[0] for f in (whole, parts))
    chex.assert_trees_all_close(actual.parameters, expected.parameters, rtol=1e-5, atol=1e-6)
    assert jnp.all(jnp.any(expected.parameters["shifts"][...][:3] != 0, axis=1))
    np.testing.assert_array_equal(expected.parameters["shifts"][...][3], 0)


def test_label_dropout_drops_its_share_and_nothing_else():
    """100,000 labels; a deviation of 5.5 standard errors has probability 4e-8."""
    labels = jnp.asarray(np.arange(100_000) % 10, jnp.int32)
    dropped = _drop_labels(KEY, labels, 0.1, 10)
    np.testing.assert_array_equal(dropped[dropped != 10], labels[dropped != 10])
    share = float(jnp.mean(dropped == 10))
    assert abs(share - 0.1) < 5.5 * np.sqrt(0.1 * 0.9 / 100_000)
    assert _drop_labels(KEY, labels, 0.0, 10) is labels
    state, step = small_step(Affine(), optimiser=PLAIN, label_dropout=0.5, null_label=3)
    moved = step(state, (DATA, LABELS), KEY)[0].parameters["shifts"][...]
    assert jnp.all(jnp.any(moved != 0, axis=1))


def test_bytes_are_scaled(plain):
    images = np.random.default_rng(0).integers(0, 256, (64, 2)).astype(np.uint8)
    state, step = plain
    expected = step(state, to_float(images), KEY)
    chex.assert_trees_all_close(step(state, images, KEY)[1], expected[1], rtol=1e-6)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_not_applied(policy):
    state, step = small_step(on_nonfinite=policy)
    state, metrics = step(state, DATA, KEY)
    assert metrics.finite
    for bad in (np.nan, np.inf):
        batch = np.where(np.arange(128).reshape(64, 2) == 70, bad, DATA)
        after, metrics = step(state, batch, KEY)
        assert not metrics.finite
        for name in ("parameters", "ema", "optimiser", "key"):
            chex.assert_trees_all_equal(getattr(after, name), getattr(state, name))
        assert (after.step, after.skipped) == ((1, 0) if policy == "stop" else (2, 1))
        assert np.all(np.isnan(metrics.bin_losses()))


@pytest.mark.parametrize("finite", [True, False])
def test_what_gpus_do_in_place_of_the_branch_is_the_same(finite, monkeypatch):
    # Without a random key, which is not a number that could be close to another.
    state = small_step(mlp())[0]._replace(key=jnp.zeros(2))
    gradient = jax.tree.map(jnp.ones_like, state.parameters)
    arguments = state, gradient, jnp.asarray(finite), PLAIN, 0.9
    expected = apply_gradient(*arguments)
    taken = []

    def elsewhere(*operands, default, **_):
        taken.append(default)
        return default(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", elsewhere)
    chex.assert_trees_all_close(apply_gradient(*arguments), expected, rtol=1e-6)
    assert taken
    if not finite:
        chex.assert_trees_all_equal(expected, state)


@pytest.mark.parametrize(
    ("options", "batch", "message"),
    [
        ({"accumulate": 3}, DATA, "accumulate must divide the batch of 64, got 3"),
        ({"accumulate": 0}, DATA, "accumulate must be an integer of at least 1, got 0"),
        ({"on_nonfinite": "ignore"}, DATA, "on_nonfinite must be one of skip, stop"),
        ({"label_dropout": 0.1}, (DATA, LABELS), "label_dropout needs null_label"),
        ({"label_dropout": 0.1, "null_label": 3}, DATA, "label_dropout=0.1 needs labels, got None"),
        ({}, DATA.astype(int), "batch must hold floats, or bytes as uint8, got int32"),
        ({}, (DATA, LABELS.astype(jnp.float32)), "labels must be integers of shape .* got float32"),
        (
            {},
            (DATA, LABELS[:, None]),
            r"labels must be integers of shape \(64,\), got .* \(64, 1\)",
        ),
        ({"model": NoLabels()}, (DATA, LABELS), "labels, but NoLabels takes no argument 'label'"),
    ],
)
def test_bad_arguments(options, batch, message):
    state, step = small_step(**options)
    with pytest.raises(ValueError, match=message):
        step(state, batch, KEY)
