"""Networks for vectors and their embeddings."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from flax import nnx

from kacjax.models import MLP
from kacjax.models.layers import FourierFeatures, time_features


@pytest.mark.long
def test_zero_at_initialization_and_right_shape():
    model = MLP(3, rngs=nnx.Rngs(0), width=32, depth=2, fourier=8)
    x = jax.random.normal(jax.random.key(0), (5, 3))
    np.testing.assert_array_equal(model(jnp.linspace(0, 1, 5), x), jnp.zeros((5, 3)))


@pytest.mark.slow
def test_smooth_in_space_and_time_after_a_change_of_the_last_layer():
    model = MLP(2, rngs=nnx.Rngs(0), width=32, depth=2, fourier=8)
    model.last.kernel[...] = jnp.ones((32, 2))
    evaluate = lambda t, x: jnp.sum(model(t[None], x[None]))  # noqa: E731
    point = (jnp.array(0.3), jnp.array([0.1, -0.4]))
    for order in (jax.grad(evaluate, (0, 1)), jax.hessian(evaluate, (0, 1))):
        assert all(
            bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(jax.jit(order)(*point))
        )


def test_time_features_tell_times_apart_on_every_scale():
    """Neighbours of a logarithmic grid differ, and so do those of a uniform one."""
    for t in (jnp.geomspace(1e-3, 1.0, 30), jnp.linspace(0.01, 1.0, 100)):
        features = time_features(t, 1.0, 32)
        assert features.shape == (t.size, 32 + 9)
        assert jnp.min(jnp.linalg.norm(jnp.diff(features, axis=0), axis=1)) > 0.05
    assert jnp.all(jnp.isfinite(time_features(jnp.zeros(1), 1.0, 32)))


def test_time_is_measured_in_units_of_T():
    np.testing.assert_allclose(
        time_features(jnp.array([0.3]), 1.0, 16),
        time_features(jnp.array([0.9]), 3.0, 16),
        atol=1e-4,
    )


def test_fourier_features_are_fixed():
    """They are no parameters; and who differentiates everything finds no gradient."""
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, fourier=4)
    model.last.kernel[...] = jnp.ones((16, 2))
    _, _, rest = nnx.split(model, nnx.Param, ...)
    assert [path for path, _ in nnx.to_flat_state(rest)] == [("embedding", "frequencies")]
    graphdef, state = nnx.split(model)
    loss = lambda s: jnp.sum(nnx.merge(graphdef, s)(jnp.ones(3), jnp.ones((3, 2))))  # noqa: E731
    gradient = nnx.to_pure_dict(jax.jit(jax.grad(loss))(state))
    np.testing.assert_array_equal(gradient["embedding"]["frequencies"], 0)
    assert jnp.any(gradient["first"]["kernel"] != 0)


def test_fourier_features_at_a_point():
    module = FourierFeatures(2, 6, 0.5, 20.0, rngs=nnx.Rngs(0))
    lengths = jnp.linalg.norm(module.frequencies[...], axis=0)
    np.testing.assert_allclose(lengths, np.geomspace(0.5, 20, 6), rtol=1e-5)
    x = jnp.array([[0.2, -0.1]])
    out = module(x)
    assert out.shape == (1, 2 + 2 * 6)
    np.testing.assert_allclose(out[:, 2:8] ** 2 + out[:, 8:] ** 2, 1, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dim": 0}, "dim must be an integer of at least 1, got 0"),
        ({"dim": 2, "width": -3}, "width must be an integer"),
        ({"dim": 2, "depth": 0}, "depth must be an integer"),
        ({"dim": 2, "T": -1.0}, "T must be positive"),
        ({"dim": 2, "T": "1"}, "T must be a number"),
        ({"dim": 2, "highest_frequency": 0.0}, "highest_frequency must be positive"),
        ({"dim": 2, "fourier": 2.5}, "fourier must be an integer of at least 0, got 2.5"),
        ({"dim": 2, "fourier": -1}, "fourier must be an integer of at least 0, got -1"),
    ],
)
def test_bad_sizes(arguments, message, monkeypatch):
    # As without the hook, which would refuse other types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match=message):
        MLP(rngs=nnx.Rngs(0), **arguments)


def test_labels_change_the_output_and_the_null_label_is_none():
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)
    model.last.kernel[...] = jnp.ones((16, 2))
    t, x = jnp.linspace(0.1, 1, 4), jax.random.normal(jax.random.key(0), (4, 2))
    outputs = [model(t, x, jnp.full(4, label, jnp.int32)) for label in range(4)]
    for i in range(4):
        for j in range(i):
            assert jnp.all(outputs[i] != outputs[j])
    np.testing.assert_array_equal(model(t, x), outputs[3])
    np.testing.assert_array_equal(model(t, x, key=jax.random.key(0)), outputs[3])


def test_labels_out_of_place():
    t, x, label = jnp.ones(2), jnp.ones((2, 2)), jnp.array([0, 4])
    with pytest.raises(ValueError, match="label must be None for a network without classes"):
        MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)(t, x, label)
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3 .* from 0 to 4"):
        MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)(t, x, label)
    with pytest.raises(ValueError, match="classes must be an integer of at least 1, got -2"):
        MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=-2)


@pytest.mark.parametrize("bad", [-1, -2, 4, 100])
def test_a_traced_label_out_of_range_is_nan_and_never_another_class(bad):
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)
    model.last.kernel[...] = jnp.ones((16, 2))
    t, x, label = jnp.ones(3), jnp.ones((3, 2)), jnp.array([0, bad, 3])
    out = jax.jit(model)(t, x, label)
    np.testing.assert_array_equal(jnp.isnan(out[:, 0]), [False, True, False])
    np.testing.assert_allclose(out[::2], model(t[::2], x[::2], label[::2]), rtol=1e-5)


def test_labels_that_are_known_while_tracing_are_checked():
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)
    t, x = jnp.ones(2), jnp.ones((2, 2))
    assert jax.jit(lambda x: model(t, x, jnp.array([0, 3])))(x).shape == (2, 2)
    label = jnp.array([0, 4])
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.3"):
        jax.jit(lambda x: model(t, x, label))(x)


def test_the_type_is_that_of_the_points_and_float32_at_least(x64):
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, fourier=2, classes=3)
    graphdef, state = nnx.split(model)
    half = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), state))
    for given, expected in (("bfloat16", "float32"), ("float32", "float32"), ("float64",) * 2):
        t, x = jnp.ones(3, jnp.float64), jnp.ones((3, 2), given)
        with jax.numpy_dtype_promotion("standard"):
            for network in (model, half):
                assert jax.eval_shape(network, t, x, jnp.array([0, 1, 2])).dtype == expected


def test_odd_input_is_named(monkeypatch):
    # As without the hook, which would refuse other types before.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    model = MLP(2, rngs=nnx.Rngs(0), width=16, depth=1, classes=3)
    t, x = jnp.ones(2), jnp.ones((2, 2))
    for arguments, message in (
        ((t, jnp.ones((2, 3))), r"x must have shape \(batch, 2\), got \(2, 3\)"),
        ((t, jnp.float32(1)), "x must hold floats of shape"),
        ((t, jnp.ones((2, 2), int)), "x must hold floats"),
        ((jnp.ones(3), x), r"t must have shape \(2,\), .* got \(3,\)"),
        ((t, x, jnp.ones(2)), "labels must be integers"),
        ((t, x, 1), r"labels must be integers of shape \(2,\)"),
        ((t, x, jnp.zeros((2, 1), int)), "labels must be integers of shape"),
    ):
        with pytest.raises(ValueError, match=message):
            model(*arguments)
    np.testing.assert_array_equal(
        model([1, 1], [[1.0, 1.0]] * 2, [0, 3]), model(t, x, jnp.array([0, 3]))
    )
    with pytest.raises(TypeError, match="widht"):
        MLP(2, rngs=nnx.Rngs(0), widht=8)
