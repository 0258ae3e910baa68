"""Training: the step, the average, the loop, and what it refuses."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import kacjax
from kacjax import FitResult, TrainState, fit, train_step
from kacjax.models import MLP
from kacjax.training import NetworkVelocity, init_state, make_optimiser


@pytest.fixture(autouse=True)
def standard_promotion():
    """Optax itself does not work under strict dtype promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


def small(parameterisation="data", path=None):
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)
    graphdef, parameters = nnx.split(model)
    velocity = NetworkVelocity(parameters, path or kacjax.kac_path(), graphdef, parameterisation)
    optimiser = make_optimiser(1e-2, 50, 5, 1.0)
    state = init_state(parameters, optimiser, jax.random.key(1))
    return state, partial(train_step, velocity=velocity, optimiser=optimiser)


def quick(model=None, path=None, data=DATA, **options) -> FitResult:
    model = model or MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)
    options = {"steps": 20, "batch_size": 16, "progress": False, **options}
    return fit(model, path or kacjax.kac_path(), data, jax.random.key(0), **options)


@pytest.mark.parametrize("parameterisation", ["data", "velocity"])
def test_step_is_pure_and_moves_everything(parameterisation):
    state, step = small(parameterisation)
    key = jax.random.key(2)
    first, loss = step(state, jnp.asarray(DATA), key)
    again, same = jax.jit(step)(state, jnp.asarray(DATA), key)
    np.testing.assert_allclose(loss, same, rtol=1e-4)
    assert first.step == again.step == 1
    second, _ = step(first, jnp.asarray(DATA), key)
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), second.parameters, first.parameters)
    assert any(jax.tree.leaves(moved))
    assert isinstance(second, TrainState)


def test_average_follows_its_formula():
    state, step = small()
    expected = state.ema
    for k in range(5):
        state, _ = step(state, jnp.asarray(DATA), jax.random.key(k), ema_decay=0.3)
        decay = min(0.3, (1 + k) / (10 + k))
        expected = jax.tree.map(
            lambda e, p, d=decay: d * e + (1 - d) * p, expected, state.parameters
        )
    chex.assert_trees_all_close(state.ema, expected, rtol=1e-5, atol=1e-7)


def test_calls_of_any_length_give_the_same_run():
    results = [quick(steps_per_call=n) for n in (20, 7)]
    np.testing.assert_allclose(results[0].losses, results[1].losses, rtol=1e-5)
    chex.assert_trees_all_close(results[0].state.ema, results[1].state.ema, rtol=1e-4, atol=1e-6)


def test_reproducible_from_the_key_and_leaves_the_model_alone():
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)
    before = nnx.to_pure_dict(nnx.state(model))
    first, second = quick(model), quick(model)
    np.testing.assert_array_equal(first.losses, second.losses)
    chex.assert_trees_all_equal(before, nnx.to_pure_dict(nnx.state(model)))
    assert first.losses.shape == (20,)
    assert first.steps_per_second > 0
    assert first.compile_seconds > 0


@pytest.mark.parametrize(
    "path", [kacjax.kac_path(), kacjax.diffusion_path(), kacjax.flow_matching_path()]
)
def test_learns_one_point(path):
    """All data at one point: generation reaches it, for every model."""
    data = np.tile([[0.5, -0.3]], (32, 1)).astype(np.float32)
    model = MLP(2, rngs=nnx.Rngs(0), width=32, depth=1)
    result = quick(model, path, data, steps=300, batch_size=64, learning_rate=1e-2, warmup=10)
    x = kacjax.generate(result.velocity, path, jax.random.key(3), (200, 2), 30, solver="heun")
    assert np.median(np.linalg.norm(np.asarray(x) - data[0], axis=1)) < 0.05


def test_velocity_is_a_pytree_that_does_not_recompile():
    result = quick()
    traces = []

    @jax.jit
    def evaluate(velocity, t, x):
        traces.append(1)
        return velocity(t, x)

    t, x = jnp.array([0.5]), jnp.ones((1, 2))
    first = evaluate(result.velocity, t, x)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, result.velocity)
    assert jnp.any(evaluate(doubled, t, x) != first)
    assert len(traces) == 1


def test_schedule_warms_up_and_decays():
    optimiser = make_optimiser(1e-1, 100, 10, 1.0)
    parameters = {"w": jnp.ones(3)}
    state, sizes = optimiser.init(parameters), []
    for _ in range(100):
        updates, state = optimiser.update({"w": jnp.ones(3)}, state, parameters)
        sizes.append(float(optax.global_norm(updates)))
    assert sizes[0] < sizes[5] < sizes[10]
    assert sizes[-1] < 0.01 * max(sizes)


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
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        quick(**options)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(FloatingPointError, match=r"loss became .* at step"):
        quick(learning_rate=1e38, warmup=0, clip=1e30)
