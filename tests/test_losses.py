"""The flow matching loss."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from kacjax import diffusion_path, flow_matching_loss, flow_matching_path, kac_path
from kacjax.losses import sample_times
from kacjax.losses.loss import draw_points, weighted_errors
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


@pytest.mark.long
def test_loss_of_the_best_constant():
    """For flow matching of one datum the best constant is -x0, with the loss Var(eps) = 1."""
    x0 = jnp.full((20_000, 2), 0.5)
    path = flow_matching_path()
    loss = flow_matching_loss(lambda t, x: -x0, path, jax.random.key(0), x0, time_power=1.0)
    np.testing.assert_allclose(loss, 1, rtol=0.03)


@pytest.mark.long
def test_loss_vanishes_at_the_exact_velocity_of_one_datum():
    path, x0 = flow_matching_path(), jnp.full((512, 2), 0.5)
    exact = lambda t, x: path.conditional_velocity(t, x, x0)  # noqa: E731
    assert flow_matching_loss(exact, path, jax.random.key(0), x0, time_power=1.0) < 1e-8


@pytest.mark.long
def test_gradient_points_to_the_marginal_velocity():
    """The minimizer among constants is the mean target, whatever the weight."""
    path, x0 = kac_path(4.0, 2.0), jnp.array([[1.0], [-0.5]]).repeat(5000, 0)
    for weight in ("velocity", lambda t: 1 / (1 + t)):
        gradient = jax.grad(
            lambda b, weight=weight: flow_matching_loss(
                lambda t, x: jnp.full_like(x, b),
                path,
                jax.random.key(0),
                x0,
                weight=weight,
                time_power=1.0,
            )
        )
        assert abs(gradient(-0.25)) < 0.1
        assert gradient(0.5) > 0.5
        assert gradient(-1.0) < -0.5


class Constant(eqx.Module):
    """A velocity that predicts the data, and is zero."""

    prediction: str = eqx.field(static=True, default="x0")

    def __call__(self, t, x, label=None, *, key=None):
        """Zero."""
        return jnp.zeros_like(x)


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "gain"),
    [
        # (1 - t) x0 + t n: the velocity is (x - x0) / t.
        (flow_matching_path(), lambda t: 1 / t),
        # e^(-t) x0 + N(0, t): f' - f / (2 t).
        (diffusion_path(signal="exponential"), lambda t: np.exp(-t) * (1 + 1 / (2 * t))),
    ],
)
def test_the_balanced_weight_is_its_formula(path, gain):
    """Term by term, against the same draw with the weight 1."""
    key, x0 = jax.random.key(0), jnp.full((64, 2), 0.5)
    draws = [
        draw_points(path, key, x0, "x0", None, weight, 2.0, 0.0, None)
        for weight in ("balanced", "velocity")
    ]
    balanced, plain = (np.asarray(weighted_errors(Constant(), draw)) for draw in draws)
    gamma = gain(np.asarray(draws[0].t, np.float64))
    np.testing.assert_allclose(balanced, plain / (gamma * (1 + gamma / 300)), rtol=1e-4)
    loss = flow_matching_loss(Constant(), path, key, x0)
    np.testing.assert_allclose(loss, balanced.mean(), rtol=1e-5)
    assert loss != flow_matching_loss(Constant(), path, key, x0, weight="velocity")
    # A prediction of the velocity is weighted evenly.
    for other in (Constant("velocity"), lambda t, x: jnp.zeros_like(x)):
        np.testing.assert_allclose(
            flow_matching_loss(other, path, key, x0), plain.mean(), rtol=1e-5
        )


@pytest.mark.long
def test_a_gain_for_each_component():
    path = diffusion_path(sigma=jnp.array([1.0, 2.0]))
    draw = draw_points(
        path, jax.random.key(0), jnp.ones((8, 2)), "x0", None, "balanced", 2.0, 0.0, None
    )
    assert draw.weight.shape in ((8, 1), (8, 2))
    assert np.all(np.isfinite(weighted_errors(Constant(), draw)))


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_stops_at_the_network(dtype):
    """Times, noise and mean are those of float32 data; only the prediction is rounded."""
    path, key = kac_path(), jax.random.key(0)
    x0 = jax.random.normal(key, (256, 2)).astype(dtype)
    seen = []

    def network(t, x):
        seen.extend([t, x])
        return -x.astype(dtype)

    loss = flow_matching_loss(network, path, key, x0)
    assert loss.dtype == jnp.float32
    assert [leaf.dtype for leaf in seen] == [jnp.float32] * 2
    assert len(np.unique(seen[0])) == 256
    expected = flow_matching_loss(lambda t, x: -x, path, key, x0.astype(jnp.float32))
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


@pytest.mark.long
def test_bytes_stand_for_numbers_from_minus_one_to_one():
    path, key = kac_path(), jax.random.key(0)
    images = np.random.default_rng(0).integers(0, 256, (8, 2, 2, 1)).astype(np.uint8)
    loss = lambda x0: flow_matching_loss(lambda t, x: x, path, key, x0)  # noqa: E731
    floats = jnp.asarray(images / 127.5 - 1, jnp.float32)
    np.testing.assert_allclose(loss(images), loss(floats), rtol=1e-5)


@pytest.mark.long
def test_label_dropout_drops_its_share_and_nothing_else():
    """100,000 labels; a deviation of 5.5 standard errors has probability 4e-8."""
    labels = jnp.asarray(np.arange(100_000) % 10, jnp.int32)
    given = (
        flow_matching_path(),
        jax.random.key(0),
        jnp.ones((100_000, 1)),
        "x0",
        labels,
        "velocity",
    )
    dropped = draw_points(*given, 1.0, 0.1, 10).labels
    np.testing.assert_array_equal(dropped[dropped != 10], labels[dropped != 10])
    share = float(jnp.mean(dropped == 10))
    assert abs(share - 0.1) < 5.5 * np.sqrt(0.1 * 0.9 / 100_000)
    np.testing.assert_array_equal(draw_points(*given, 1.0, 0.0, None).labels, labels)


@pytest.mark.long
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "even"}, "weight must be one of balanced, velocity; got 'even'"),
        ({"time_power": 0.0}, "time_power must be positive"),
        ({"label_dropout": 0.1}, "label_dropout=0.1 needs labels; got None"),
        ({"label_dropout": 0.1, "labels": jnp.zeros(4, int)}, "needs null_label"),
        ({"labels": jnp.zeros(4, bool)}, "labels must be integers of shape .* got bool"),
        ({"labels": jnp.zeros((4, 1), int)}, r"labels must be integers .* of shape \(4, 1\)"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        flow_matching_loss(Constant(), kac_path(), jax.random.key(0), jnp.ones((4, 2)), **options)


@pytest.mark.long
def test_under_jit_and_vmap():
    path, x0 = kac_path(), jnp.ones((8, 2))
    loss = lambda key: flow_matching_loss(lambda t, x: x * t[:, None], path, key, x0)  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_allclose(
        jax.vmap(loss)(keys), [jax.jit(loss)(key) for key in keys], rtol=1e-5
    )


@pytest.mark.long
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
        (
            lambda t, x: x,
            jnp.ones((4, 2), jnp.int32),
            "x0 must be floats, or bytes as uint8, got int32",
        ),
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
