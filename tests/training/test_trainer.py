"""The loop in pieces: the same run however it is cut, and what stops it."""

import itertools

import chex
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax.models import MLP
from kacjax.training import NonFiniteError
from kacjax.training.data import DeviceData, cursor_at, next_batch
from tests.training.small import DATA, Affine, mlp, small_trainer

KEY = jax.random.key(0)
LABELS = np.arange(64) % 3


@pytest.fixture(scope="module")
def trainer():
    """One trainer for all, so that its program compiles once."""
    return small_trainer(steps_per_call=6)


@pytest.fixture(scope="module")
def whole(trainer):
    """A run of twenty steps."""
    with jax.numpy_dtype_promotion("standard"):
        return trainer.run(trainer.init(KEY), trainer.device_data(DATA))


def host_batches(state, num, poisoned=()):
    """The batches that a run from this state draws, on the host."""
    key = jax.random.split(state.key)[0]
    cursor = cursor_at(key, 0, 16, len(DATA))
    for k in range(num):
        (batch, _), cursor = next_batch(DeviceData(jnp.asarray(DATA)), key, cursor, 16)
        batch = np.array(batch)
        if k in poisoned:
            batch[3, 1] = np.nan
        yield batch


@pytest.mark.parametrize("cuts", [(6,), (1, 2, 19), (7, 13)])
def test_a_run_in_pieces_equals_the_whole_to_the_last_bit(trainer, whole, cuts):
    state, source = trainer.init(KEY), trainer.device_data(DATA)
    losses = []
    for until in (*cuts, None):
        state, metrics = trainer.run(state, source, until)
        assert state.step == (until or 20)
        losses.append(metrics.loss)
        # As after a restart: other buffers.
        state = jax.tree.map(jnp.copy, state)
    chex.assert_trees_all_equal(state, whole[0])
    np.testing.assert_array_equal(np.concatenate(losses), whole[1].loss)


@pytest.mark.parametrize("steps_per_call", [1, 20])
def test_calls_of_any_length_give_the_same_run(whole, steps_per_call):
    trainer = small_trainer(steps_per_call=steps_per_call)
    state, metrics = trainer.run(trainer.init(KEY), trainer.device_data(DATA))
    np.testing.assert_allclose(metrics.loss, whole[1].loss, rtol=1e-4)
    chex.assert_trees_all_close(state.ema, whole[0].ema, rtol=1e-4, atol=1e-6)


def test_one_program_for_any_count():
    trainer = small_trainer(steps_per_call=8, ema_decay=0.9)
    state, source = trainer.init(KEY), trainer.device_data(DATA)
    state, _ = trainer.run(state, source, 1)
    before, seconds = Affine.traced, trainer.compile_seconds
    for until in (4, 12, 20):
        state, _ = trainer.run(state, source, until)
    assert Affine.traced == before
    assert trainer.compile_seconds == seconds > 0


def test_lists_of_batches_are_not_begun_again(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    trainer = small_trainer()
    with pytest.raises(ValueError, match=r"iter\(batches\); got a list"):
        trainer.run(trainer.init(KEY), [DATA[:16]] * 20)


def test_goes_on_where_another_trainer_stopped(trainer, whole):
    """Not with the position that the first one remembers."""
    state, _ = trainer.run(trainer.init(KEY), trainer.device_data(DATA), 7)
    other = small_trainer(steps_per_call=6)
    state, _ = other.run(state, other.device_data(DATA), 11)
    state, _ = trainer.run(state, trainer.device_data(DATA))
    chex.assert_trees_all_equal(state, whole[0])


@pytest.mark.long
@pytest.mark.parametrize("calls", [None, 3])
def test_convolutions_on_cpus_are_kept_out_of_loops(calls):
    class Convolution(nnx.Module):
        def __init__(self):
            self.layer = nnx.Conv(1, 1, (3, 3), rngs=nnx.Rngs(0))

        def __call__(self, t, x):
            return jax.checkpoint(lambda x: self.layer(x))(x)

    seen = []
    images = np.zeros((20, 4, 4, 1), np.uint8)
    for network, data in ((Convolution(), images), (Affine(), DATA)):
        trainer = small_trainer(network, steps_per_call=calls)
        source = trainer.device_data(data)
        trainer.run(trainer.init(KEY), source, 6, lambda *call: seen.append(call[0]))
    assert seen == ([1, 2, 3, 4, 5, 6, 6] if calls is None else [3, 6, 3, 6])


def test_metrics_and_callback_cover_every_step(trainer, whole):
    _, metrics = whole
    assert metrics.loss.shape == metrics.gradient_norm.shape == (20,)
    np.testing.assert_allclose(metrics.bin_sums.sum(1) / 16, metrics.loss, rtol=1e-5)
    np.testing.assert_array_equal(metrics.bin_counts.sum(1), 16)
    seen = []
    _, again = trainer.run(
        trainer.init(KEY), trainer.device_data(DATA), 15, lambda *call: seen.append(call)
    )
    assert [step for step, _ in seen] == [6, 12, 15]
    np.testing.assert_array_equal(np.concatenate([m.loss for _, m in seen]), again.loss)


def test_nothing_to_do_is_no_step(trainer, whole):
    state, metrics = trainer.run(jax.tree.map(jnp.copy, whole[0]), trainer.device_data(DATA), 30)
    assert state.step == 20
    assert metrics.loss.shape == (0,)
    assert metrics.bin_sums.shape == (0, 8)


def test_the_velocity_has_the_averaged_parameters(trainer, whole):
    chex.assert_trees_all_equal(trainer.velocity(whole[0]).network, whole[0].ema)


def test_abstract_state_has_the_shapes_of_a_state(trainer, whole):
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), trainer.abstract_state())
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), whole[0])


@pytest.mark.long
def test_host_batches_train_as_the_same_batches_on_the_device(trainer, whole):
    state = trainer.init(KEY)
    batches = host_batches(state, 20)
    state, metrics = trainer.run(state, batches, 7)
    assert state.step == 7
    # No batch more than steps: the iterator's position belongs to the state.
    assert len(list(itertools.islice(batches, 20))) == 13
    np.testing.assert_allclose(metrics.loss, whole[1].loss[:7], rtol=1e-4)
    expected, _ = trainer.run(trainer.init(KEY), trainer.device_data(DATA), 7)
    chex.assert_trees_all_close(state.params, expected.params, rtol=1e-4, atol=1e-6)


def test_batches_that_end_end_the_run():
    trainer = small_trainer()
    state, metrics = trainer.run(trainer.init(KEY), iter([DATA[:16]] * 3))
    assert state.step == len(metrics.loss) == 3


@pytest.mark.long
def test_labels_and_bytes_reach_the_network():
    trainer = small_trainer(label_dropout=0.5)
    images = np.random.default_rng(0).integers(0, 256, (64, 2)).astype(np.uint8)
    state, metrics = trainer.run(trainer.init(KEY), trainer.device_data(images, LABELS), 10)
    assert jnp.all(jnp.any(state.params.params["shifts"][...] != 0, axis=1))
    streamed = [(images[:16], LABELS[:16])] * 5
    state, _ = trainer.run(trainer.init(KEY), iter(streamed))
    assert jnp.all(jnp.any(state.params.params["shifts"][...] != 0, axis=1))
    assert np.all(np.isfinite(metrics.loss))


@pytest.mark.long
@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_what_is_not_finite_stops_at_the_last_good_state(kind):
    """A bad datum is met once an epoch of four steps."""
    trainer = small_trainer(steps_per_call=5)
    state = trainer.init(KEY)
    if kind == "stream":
        bad = 2
        source = host_batches(state, 20, poisoned=[bad])
    else:
        data = np.where(np.arange(64)[:, None] == 9, np.nan, DATA)
        source = DeviceData(jnp.asarray(data))
        rows = [np.isin(batch, DATA[9]).all(1).any() for batch in host_batches(state, 4)]
        bad = rows.index(True)
    with pytest.raises(NonFiniteError, match=f"The loss became nan at step {bad}; ") as error:
        trainer.run(state, source)
    assert len(error.value.metrics.loss) == bad + 1
    clean = host_batches(error.value.state, bad) if kind == "stream" else source
    expected, _ = trainer.run(trainer.init(KEY), clean, bad)
    chex.assert_trees_all_equal(error.value.state, expected)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["resident", "stream"])
def test_what_is_not_finite_is_skipped_and_counted_if_asked(kind):
    trainer = small_trainer(steps_per_call=5, on_nonfinite="skip")
    state = trainer.init(KEY)
    if kind == "stream":
        source = host_batches(state, 20, poisoned=[2, 3, 9])
    else:
        source = DeviceData(jnp.asarray(np.where(np.arange(64)[:, None] == 9, np.nan, DATA)))
    state, metrics = trainer.run(state, source, 12)
    assert (state.step, state.skipped) == (12, 3)
    assert np.sum(~metrics.finite) == np.sum(np.isnan(metrics.loss)) == 3
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state.params))


def test_an_infinite_gradient_is_named():
    class Cliff(Affine):
        def __call__(self, t, x, label=None):
            # The root's slope is infinite at zero, its value is not.
            return super().__call__(t, x) + jnp.sqrt(jnp.abs(self.shifts[...][0]))[None]

    trainer = small_trainer(Cliff())
    with pytest.raises(NonFiniteError, match=r"The gradient's norm became .* at step 0"):
        trainer.run(trainer.init(KEY), trainer.device_data(DATA))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps_per_call": 0}, "steps_per_call must be an integer of at least 1, got 0"),
        ({"on_nonfinite": "ignore"}, "on_nonfinite must be one of skip, stop; got 'ignore'"),
        ({"label_dropout": 1.0}, r"label_dropout must lie in \[0, 1\), got 1.0"),
        ({"label_dropout": 0.1, "network": mlp()}, "label_dropout needs classes"),
        ({"classes": 2}, "classes must be 3, as of the network, got 2"),
        ({"classes": 3, "network": mlp()}, "classes must be None, as of the network, got 3"),
        ({"classes": 0}, "classes must be an integer of at least 1, got 0"),
        (
            {"network": mlp(), "path": kacjax.kac_path(T=5.0)},
            "path must have the T of the network, 1.0, got 5.0",
        ),
        (
            {"accumulate": 5},
            "batch_size must be a multiple of 5 .* got 16; the nearest are 15 and 20",
        ),
        ({"accumulate": 17}, "the nearest is 17"),
        ({"optimizer": 1e-3}, "optimizer must be an optax.GradientTransformation, got 0.001"),
        ({"network": lambda t, x: x}, "network must hold parameters to train, got none"),
        ({"network": 3}, "network must be callable"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in \[0, 1\), got 1.0"),
        ({"time_power": 0.0}, "time_power must be positive"),
        (
            {"prediction": "noise"},
            "prediction must be one of bounded, edm, velocity, x0|prediction must be one of",
        ),
    ],
)
def test_bad_choices(options, message, monkeypatch):
    # As without the hook, which would refuse other types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        small_trainer(**options)


def test_data_that_do_not_fit(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=r"label_dropout=0\.1 needs labels, got None"):
        small_trainer(label_dropout=0.1).device_data(DATA)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got values from 0 to 63"):
        small_trainer().device_data(DATA, np.arange(64))
    with pytest.raises(ValueError, match=r"key must be a jax\.random\.key, got 0"):
        small_trainer().init(0)


@pytest.mark.parametrize(
    ("options", "batches", "message"),
    [
        ({}, [DATA], "a batch must be data of shape"),
        ({}, [np.zeros((16, 3))], r"network does not accept data of shape \(num, \*\(3,\)\)"),
        ({}, [(DATA[:16], LABELS[:16] + 1)], r"labels must lie in 0\.\.2, got values from 1 to 3"),
        ({"label_dropout": 0.1}, [DATA[:16]], "label_dropout=0.1 needs labels, got None"),
        ({}, [], "source must hold a batch for each step from 0 to 20, got none"),
    ],
)
def test_batches_that_do_not_fit(options, batches, message):
    trainer = small_trainer(**options)
    with pytest.raises(ValueError, match=message):
        trainer.run(trainer.init(KEY), iter(batches))


@pytest.mark.long
def test_classes_and_times_that_agree():
    """Also where the path holds its T in float32."""
    path = kacjax.kac_path(T=jnp.asarray(0.1, jnp.float32))
    small_trainer(MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3, T=0.1), path=path)
    small_trainer(classes=3)
