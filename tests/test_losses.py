"""The flow matching loss."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from kacjax import flow_matching_loss, flow_matching_path, kac_path
from kacjax.losses import sample_times
from tests.statistics import ks_bound, ks_distance

pytestmark = pytest.mark.optimised


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("batch", [1, 7, 100, 256, 4096])
def test_times_are_spread_evenly(batch, power):
    """Gaps on the circle of at most 1.9 / n, and neighbours in the batch far apart."""
    path = kac_path(T=2.0)
    t = np.asarray(sample_times(jax.random.key(0), path, batch, power), np.float64)
    u = (t / 2) ** (1 / power)
    ordered = np.sort(u)
    gaps = np.diff(ordered, append=ordered[0] + 1)
    assert gaps.max() * batch <= 1.9
    assert t.min() > 0
    assert t.max() <= 2
    apart = np.abs(np.diff(u))
    assert np.all(np.minimum(apart, 1 - apart) > 0.38)


def test_times_in_float64_are_those_of_float32(x64):
    draw = lambda: sample_times(jax.random.key(0), kac_path(), 100)  # noqa: E731
    double = draw()
    with jax.enable_x64(False):
        np.testing.assert_allclose(double, draw(), rtol=1e-6)


def test_each_time_is_uniform():
    """The last of five times over 20,000 keys; false-alarm rate 1e-7."""
    keys = jax.random.split(jax.random.key(0), 20_000)
    u = jax.vmap(lambda key: sample_times(key, kac_path(), 5)[-1])(keys)
    assert ks_distance(u) < ks_bound(20_000)


def test_loss_of_the_best_constant():
    """For flow matching of one datum the best constant is -x0, with the loss Var(eps) = 1."""
    x0 = jnp.full((20_000, 2), 0.5)
    loss = flow_matching_loss(lambda t, x: -x0, flow_matching_path(), jax.random.key(0), x0)
    np.testing.assert_allclose(loss, 1, rtol=0.03)


def test_loss_vanishes_at_the_exact_velocity_of_one_datum():
    path, x0 = flow_matching_path(), jnp.full((512, 2), 0.5)
    exact = lambda t, x: path.conditional_velocity(t, x, x0)  # noqa: E731
    assert flow_matching_loss(exact, path, jax.random.key(0), x0) < 1e-8


def test_gradient_points_to_the_marginal_velocity():
    """The minimiser among constants is the mean target, whatever the weight."""
    path, x0 = kac_path(4.0, 2.0), jnp.array([[1.0], [-0.5]]).repeat(5000, 0)
    for weight in (None, lambda t: 1 / (1 + t)):
        gradient = jax.grad(
            lambda b, weight=weight: flow_matching_loss(
                lambda t, x: jnp.full_like(x, b), path, jax.random.key(0), x0, weight=weight
            )
        )
        assert abs(gradient(-0.25)) < 0.1
        assert gradient(0.5) > 0.5
        assert gradient(-1.0) < -0.5


def test_under_jit_and_vmap():
    path, x0 = kac_path(), jnp.ones((8, 2))
    loss = lambda key: flow_matching_loss(lambda t, x: x * t[:, None], path, key, x0)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_allclose(
        jax.vmap(loss)(keys), [jax.jit(loss)(key) for key in keys], rtol=1e-5
    )


def test_images():
    x0 = jnp.ones((4, 8, 8, 3))
    assert flow_matching_loss(lambda t, x: x, kac_path(), jax.random.key(0), x0).shape == ()


@pytest.mark.parametrize(
    ("velocity", "x0", "message"),
    [
        (
            lambda t, x: x[:, :1],
            jnp.ones((4, 2)),
            r"velocity must return shape \(4, 2\), got \(4, 1\)",
        ),
        (lambda t, x: x, jnp.ones((0, 2)), "x0 must hold at least one datum"),
        (lambda t, x: x, jnp.ones((4, 2), jnp.int32), "x0 must be floating, got int32"),
    ],
)
def test_bad_arguments(velocity, x0, message, monkeypatch):
    # As without the hook, which would refuse integers before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        flow_matching_loss(velocity, kac_path(), jax.random.key(0), x0)


@pytest.mark.parametrize("weight", [lambda t: t[:, None], lambda t: t[:1], lambda t: 2.0])
def test_one_weight_for_each_time(weight):
    with pytest.raises(ValueError, match=r"weight must return shape \(4,\), got \("):
        flow_matching_loss(
            lambda t, x: x, kac_path(), jax.random.key(0), jnp.ones((4, 2)), weight=weight
        )
