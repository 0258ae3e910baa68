"""Schedules in closed form, and Adam under them."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import optax
import pytest

import kacjax
from kacjax.training import default_optimizer
from kacjax.training.step import SCHEDULES

PEAK, STEPS, WARMUP = 1e-1, 100, 10


def after(name, x):
    """The factor at the part `x` of the way from the end of the warm-up to that of the run."""
    return {"cosine": (1 + np.cos(np.pi * x)) / 2, "linear": 1 - x, "constant": 1 + 0 * x}[name]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, WARMUP, 90])
def test_updates_follow_the_schedule(name, warmup):
    """Under a constant gradient Adam moves each parameter by the learning rate."""
    optimizer = default_optimizer(STEPS, PEAK, warmup, 1.0, name, b2=0.9)
    params = {"w": jnp.ones(3)}

    def step(state, _):
        updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
        return state, jnp.abs(updates["w"]).mean()

    _, sizes = jax.lax.scan(step, optimizer.init(params), length=STEPS)
    rise, k = min(warmup, STEPS // 2), np.arange(STEPS)
    x = (k - rise) / (STEPS - rise)
    expected = PEAK * np.where(k < rise, k / max(rise, 1), after(name, x))
    np.testing.assert_allclose(sizes, expected, rtol=1e-3, atol=1e-6)


def test_equal_choices_are_one_object():
    assert default_optimizer(100) is default_optimizer(100, 1e-3, 500, 1.0, "cosine", 0.99)
    assert default_optimizer(100) is not default_optimizer(101)


@pytest.mark.parametrize("b2", [0.0, 0.9, 0.999])
def test_the_mean_of_squares_forgets_at_its_rate(b2):
    optimizer = default_optimizer(STEPS, PEAK, 0, 1e9, "constant", b2)
    state = optimizer.init({"w": jnp.ones(())})
    for gradient in (3.0, 0.5):
        _, state = optimizer.update({"w": jnp.asarray(gradient)}, state)
    square = optax.tree.get(state, "nu")["w"]
    np.testing.assert_allclose(square, (1 - b2) * (b2 * 9 + 0.25), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schedule": "step"}, "schedule must be one of constant, cosine, linear; got 'step'"),
        ({"b2": 1.0}, r"b2 must lie in \[0, 1\), got 1.0"),
        ({"clip": 0.0}, "clip must be positive"),
        ({"learning_rate": np.inf}, "learning_rate must be positive and finite"),
        ({"warmup": -1}, "warmup must be an integer of at least 0, got -1"),
        ({"warmup": 0.5}, "warmup must be an integer of at least 0, got 0.5"),
        ({"warmup": np.inf}, "warmup must be an integer of at least 0, got inf"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
    ],
)
def test_bad_arguments(change, message, monkeypatch):
    # As without the hook, which would refuse other types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    options = {"learning_rate": 0.1, "steps": 10, "warmup": 1, "clip": 1.0, **change}
    with pytest.raises(ValueError, match=message):
        default_optimizer(**options)


@pytest.mark.parametrize("name", ["prodigy", "dog", "dowg"])
def test_optimizers_that_keep_the_parameters(name):
    """Their state and the parameters are buffers of their own."""
    network = jax.tree_util.Partial(lambda p, t, x: p * x, jnp.ones((1, 2)))
    optimizer, data = getattr(optax.contrib, name)(), np.ones((8, 2), np.float32)
    arguments = network, kacjax.flow_matching_path(), data, jax.random.key(0), 2, 8
    run = kacjax.fit(*arguments, optimizer=optimizer, progress=False)
    assert np.all(np.isfinite(run.losses))
