"""The step: pure, right in its loss, its average and its sums, and safe from what is not finite."""

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import kacjax
from kacjax.training.step import TIME_BINS
from tests.training.small import DATA, PATH, Affine, NoLabels, mlp, small_step, small_trainer

KEY = jax.random.key(2)
LABELS = jnp.asarray(np.arange(64) % 3, jnp.int32)
# Moves the parameters by the gradient itself, so that they show it.
PLAIN = optax.sgd(1.0)
TIMES = kacjax.losses.LogNormalTimes()


@pytest.mark.long
def test_step_is_pure_and_moves_everything():
    state, step = small_step(mlp())
    first, metrics = step(state, DATA, KEY)
    again, same = step(state, DATA, KEY)
    chex.assert_trees_all_equal(metrics, same)
    chex.assert_trees_all_equal(first.params, again.params)
    assert (first.step, first.skipped) == (1, 0)
    second, _ = step(first, DATA, KEY)
    for moved in (second.params, second.ema, second.opt_state):
        pairs = zip(jax.tree.leaves(moved), jax.tree.leaves(state.params), strict=False)
        assert any(jnp.any(a != b) for a, b in pairs if a.shape == b.shape)


@pytest.mark.long
@pytest.mark.parametrize("prediction", ["x0", "velocity", "edm"])
@pytest.mark.parametrize(
    ("weight", "coupling"), [("balanced", "independent"), (lambda t: 2 - t, "ot")]
)
def test_what_a_step_minimizes_is_the_public_loss(prediction, weight, coupling):
    """Loss and gradient, with labels, label dropout and dropout of the network."""
    network = Affine()
    options = {"prediction": prediction, "weight": weight, "label_dropout": 0.5}
    options |= {"coupling": coupling, "times": TIMES}
    state, step = small_step(network, optimizer=PLAIN, **options)
    draw_key, dropout_key = jax.random.split(KEY)

    def loss(velocity):
        return kacjax.flow_matching_loss(
            velocity,
            PATH,
            draw_key,
            DATA,
            labels=LABELS,
            weight=weight,
            coupling=coupling,
            times=TIMES,
            label_dropout=0.5,
            null_label=3,
            dropout_key=dropout_key,
        )

    value, gradient = eqx.filter_value_and_grad(loss)(kacjax.Velocity(network, PATH, prediction))
    moved, metrics = step(state, (DATA, LABELS), KEY)
    np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
    slope = jax.tree.map(lambda new, old: old - new, moved.params.params, state.params.params)
    chex.assert_trees_all_close(slope, gradient.network.params, rtol=1e-4, atol=1e-5)
    assert jnp.all(jnp.any(slope["shifts"][...] != 0, axis=1))


def test_average_follows_its_formula():
    state, step = small_step(ema_decay=0.3)
    expected = state.ema
    for k in range(5):
        state, _ = step(state, DATA, jax.random.key(k))
        decay = min(0.3, (1 + k) / (10 + k))
        expected = jax.tree.map(lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.params)
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-7)


def test_the_average_of_bfloat16_moves():
    """5,000 steps of share 0.001 from 1.0 towards 1.5 give 1.4966."""
    trainer = small_trainer(
        NoLabels(dtype=jnp.bfloat16), optimizer=optax.sgd(0.0), steps=20_000, steps_per_call=5000
    )
    state = trainer.init(KEY)
    # Far in the run, where the decay is what was asked for.
    state = state._replace(
        params=jax.tree.map(lambda leaf: jnp.full_like(leaf, 1.5), state.params),
        ema=jax.tree.map(jnp.ones_like, state.ema),
        step=jnp.asarray(15_000, jnp.int32),
    )
    state, _ = trainer.run(state, trainer.device_data(DATA))
    for leaf in jax.tree.leaves(state.ema):
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, 1.5 - 0.5 * 0.999**5000, atol=2e-4)
    assert {leaf.dtype for leaf in jax.tree.leaves(trainer.velocity(state).network)} == {
        jnp.dtype(jnp.bfloat16)
    }


def test_time_bins_sum_to_the_loss():
    state, step = small_step(NoLabels())
    _, metrics = step(state, DATA, KEY)
    assert metrics.bin_counts.sum() == 64
    # Of times u^2, twice as many as with power 1 and more lie in the first bin.
    assert metrics.bin_counts[0] > 16
    np.testing.assert_allclose(metrics.bin_sums.sum() / 64, metrics.loss, rtol=1e-5)
    state, step = small_step(NoLabels(), time_power=1.0)
    _, metrics = step(state, DATA, KEY)
    np.testing.assert_allclose(metrics.bin_counts, np.full(TIME_BINS, 64 / TIME_BINS), atol=1)


@pytest.mark.parametrize(
    ("accumulate", "dtype"), [(2, jnp.float32), (8, jnp.float32), (64, jnp.bfloat16)]
)
def test_micro_batches_equal_the_batch(accumulate, dtype):
    """In bfloat16 a sum of 64 gradients would be off by up to a step of 2^-8 each time."""
    state, whole = small_step(NoLabels(dtype=dtype), optimizer=PLAIN)
    _, parts = small_step(NoLabels(dtype=dtype), optimizer=PLAIN, accumulate=accumulate)
    (expected, metrics), (actual, others) = (f(state, DATA, KEY) for f in (whole, parts))
    tolerance = 1e-5 if dtype == jnp.float32 else 2**-6
    chex.assert_trees_all_close(metrics, others, rtol=tolerance)
    chex.assert_trees_all_close(actual.params, expected.params, rtol=tolerance, atol=1e-6)


def test_micro_batches_keep_labels_with_their_data():
    """The shift of class 0 moves by the gradient of the data of class 0 alone."""
    state, whole = small_step(Affine(), optimizer=PLAIN)
    _, parts = small_step(Affine(), optimizer=PLAIN, accumulate=4)
    # Without the dropout, which draws anew for each micro-batch.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "bernoulli", lambda key, p, shape: jnp.ones(shape, bool))
        expected, actual = (f(state, (DATA, LABELS), KEY)[0] for f in (whole, parts))
    chex.assert_trees_all_close(actual.params, expected.params, rtol=1e-5, atol=1e-6)
    shifts = expected.params.params["shifts"][...]
    assert jnp.all(jnp.any(shifts[:3] != 0, axis=1))
    np.testing.assert_array_equal(shifts[3], 0)


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_update_that_is_not_finite_is_not_applied(policy):
    state, step = small_step(on_nonfinite=policy)
    state, metrics = step(state, DATA, KEY)
    assert metrics.finite
    for bad in (np.nan, np.inf):
        batch = np.where(np.arange(128).reshape(64, 2) == 70, bad, DATA)
        after, metrics = step(state, batch, KEY)
        assert not metrics.finite
        for name in ("params", "ema", "opt_state", "key"):
            chex.assert_trees_all_equal(getattr(after, name), getattr(state, name))
        assert (after.step, after.skipped) == ((1, 0) if policy == "stop" else (2, 1))


def test_under_strict_promotion():
    """Of the library's own code; Adam is another matter, see `conftest.py`."""
    with jax.numpy_dtype_promotion("strict"):
        for accumulate in (1, 2):
            state, step = small_step(Affine(), optimizer=PLAIN, accumulate=accumulate)
            assert step(state, (DATA, LABELS), KEY)[1].finite
