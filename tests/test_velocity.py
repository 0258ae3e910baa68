"""Velocities: networks of three libraries as pytrees, what they are given, and guidance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import kacjax
from kacjax import Velocity, guided
from kacjax.velocity import LinenNetwork, NNXNetwork, trainable, wrap_network
from tests.training.small import Affine

T, X, LABEL = jnp.array([0.5]), jnp.ones((1, 2)), jnp.array([1], jnp.int32)
PATH = kacjax.kac_path()


class Bare(nnx.Module):
    """A network of points alone."""

    def __call__(self, t, x):
        """The point."""
        return x


class Open(nnx.Module):
    """A network that takes anything, and says what it was given."""

    def __call__(self, t, x, **options):
        """The number of options."""
        return x * 0 + len(options)


class LinenAffine(linen.Module):
    """A network in Linen, with a class and with dropout."""

    @linen.compact
    def __call__(self, t, x, label=None, *, key=None):
        """An affine map."""
        scale = self.variable("constants", "scale", lambda: jnp.full((1, 2), 2.0)).value
        y = linen.Dense(2)(x * scale)
        y = y if label is None else y + label[:, None].astype(y.dtype)
        return linen.Dropout(0.5, deterministic=key is None)(y)


def bound():
    """The Linen network with its variables."""
    return LinenAffine().bind(LinenAffine().init(jax.random.key(0), T, X))


def plain(network):
    return Velocity(network, PATH, "velocity")


def test_does_not_recompile_for_other_parameters():
    evaluate = jax.jit(lambda velocity, t, x: velocity(t, x))
    velocity = plain(Affine())
    first = evaluate(velocity, T, X)
    before = Affine.traced
    doubled = jax.tree.map(lambda leaf: 2 * leaf, velocity)
    assert jnp.any(evaluate(doubled, T, X) != first)
    evaluate(plain(Affine()), T, X)
    assert Affine.traced == before


def test_passes_on_what_the_network_takes():
    key = jax.random.key(0)
    affine = plain(Affine())
    network = Affine()
    network.shifts[...] = jnp.arange(8.0).reshape(4, 2)
    rows = plain(network)
    assert jnp.all(rows(T, X, LABEL) != rows(T, X))
    assert jnp.any(affine(T, X, LABEL, key=key) != affine(T, X, LABEL))
    np.testing.assert_array_equal(plain(Bare())(T, X, key=key), X)
    np.testing.assert_array_equal(plain(Open())(T, X, LABEL, key=key), 0 * X + 2)
    np.testing.assert_array_equal(plain(Open())(T, X), 0 * X)
    np.testing.assert_array_equal(
        plain(lambda t, x, label: x * label.astype(x.dtype)[:, None])(T, X, LABEL), X
    )


def test_linen_networks():
    network = bound()
    velocity = plain(network)
    assert isinstance(velocity.network, LinenNetwork)
    np.testing.assert_array_equal(velocity(T, X), network(T, X))
    np.testing.assert_array_equal(velocity(T, X, LABEL), network(T, X, LABEL))
    dropped = velocity(T, jnp.ones((1, 2)), key=jax.random.key(1))
    assert jnp.any(dropped != velocity(T, X))
    with pytest.raises(ValueError, match="a Linen module without variables"):
        wrap_network(LinenAffine())


def test_what_is_trained():
    linen_mask = trainable(wrap_network(bound())).variables
    assert jax.tree.leaves(linen_mask["params"]) == [True, True]
    assert jax.tree.leaves(linen_mask["constants"]) == [False]
    layer = nnx.BatchNorm(2, rngs=nnx.Rngs(0))
    mask = trainable(wrap_network(layer))
    assert isinstance(mask, NNXNetwork)
    assert jax.tree.leaves((mask.params, mask.rest)) == [True, True, False, False]
    mask = trainable(eqx.nn.MLP(2, 2, 4, 1, key=jax.random.key(0)))
    assert sum(jax.tree.leaves(mask)) == 4
    assert trainable([jnp.ones(2), jnp.arange(2), 1.0, jax.nn.silu]) == [True, False, False, False]
    path = kacjax.kac_path(a=jnp.asarray(25.0))
    mask = trainable(Velocity(layer, path))
    assert jax.tree.leaves((mask.network.params, mask.network.rest)) == [True, True, False, False]
    assert not any(jax.tree.leaves(mask.path))
    inner = eqx.nn.Sequential([eqx.nn.Lambda(wrap_network(layer))])
    assert sum(jax.tree.leaves(trainable(inner))) == 2


def test_points_must_be_floats(without_hook):
    velocity = Velocity(
        jax.tree_util.Partial(lambda p, t, x: p * x, jnp.ones(2)), kacjax.kac_path()
    )
    with pytest.raises(ValueError, match="x must hold floats, got int32"):
        velocity(jnp.array([0.5]), jnp.array([[1, 0]]))


def test_integers_of_every_kind_are_counts():
    labeled = Velocity(lambda t, x, label: x, kacjax.kac_path(), classes=3)
    for null in (np.int64(3), jnp.asarray(3)):
        assert guided(labeled, 2.0, null).null_label == 3
    with pytest.raises(ValueError, match=r"null_label must lie in 0\.\.3, got 4"):
        guided(labeled, 2.0, np.int64(4))
    assert guided(labeled, 2.0, 3).prediction == "x0"


def test_a_call_leaves_the_variables_alone():
    class Counting(nnx.Module):
        def __init__(self):
            self.count = nnx.Variable(jnp.zeros(()))

        def __call__(self, t, x):
            self.count[...] += 1
            return x

    velocity = plain(Counting())
    with pytest.raises(ValueError, match=r"changes its variable .*count"):
        velocity(T, X)
    assert velocity.network.rest["count"][...] == 0


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_prediction_of_the_data_becomes_a_velocity_of_the_type_of_the_points(dtype):
    expected = PATH.velocity_from_x0(T, 3 * X, 3 * X)
    velocity = Velocity(lambda t, x: x.astype(dtype), PATH)
    assert velocity.prediction == "x0"
    result = velocity(T, 3 * X)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, expected, rtol=1e-6)


def test_refusals():
    with pytest.raises(ValueError, match="labels, but Bare takes no argument 'label'"):
        plain(Bare())(T, X, LABEL)
    with pytest.raises(
        ValueError, match="prediction must be one of bounded, edm, velocity, x0; got 'noise'"
    ):
        Velocity(Bare(), PATH, "noise")
    with pytest.raises(ValueError, match="classes must be 3, as of the network, got 2"):
        Velocity(Affine(), PATH, classes=2)
    assert Velocity(Affine(), PATH).classes == 3
    assert Velocity(Bare(), PATH, classes=2).classes == 2


def test_guidance_does_not_compile_anew_for_other_numbers():
    velocity = plain(Affine())
    evaluate = eqx.filter_jit(lambda field: field(T, X, LABEL))
    before = Affine.traced
    evaluate(guided(velocity, 1.5, 3))
    evaluate(guided(velocity, 2, 3))
    # A program without an interval has one network, one with an interval also that of outside.
    assert Affine.traced == before + 1
    for scale, interval in ((1.5, (0.0, 0.5)), (2.0, (0.0, 1.0)), (3, (0.1, 0.7))):
        evaluate(guided(velocity, float(scale), 3, interval))
    assert Affine.traced == before + 3


def test_guidance_of_a_velocity_of_another_type():
    field = lambda t, x, label: (label[:, None].astype(x.dtype) * x).astype(jnp.bfloat16)  # noqa: E731
    result = guided(field, 3.0, null_label=0)(T, X, LABEL)
    assert result.dtype == jnp.float32
    np.testing.assert_array_equal(result, 3 * X)
    outside = guided(field, 3.0, 0, (0.6, 1.0))(T, X, LABEL)
    np.testing.assert_array_equal(outside, X)


def test_guidance_knows_what_its_velocity_knows():
    strong = guided(Velocity(Affine(), PATH), 2.0, 3)
    assert (strong.classes, strong.path) == (3, PATH)
    with pytest.raises(ValueError, match=r"null_label must lie in 0..3, got 4"):
        guided(Velocity(Affine(), PATH), 2.0, 4)
    with pytest.raises(ValueError, match="scale must be a number"):
        guided(Bare(), jnp.ones(2), 0)
    with pytest.raises(ValueError, match="interval must run from a lower to a higher time"):
        guided(Bare(), 1.0, 0, (0.5, 0.2))


def test_a_config_of_another_kind_says_nothing():
    class Network:
        config = "large"

        def __call__(self, t, x):
            return x

    velocity = kacjax.Velocity(Network(), kacjax.kac_path(), "velocity")
    assert velocity.classes is None
    assert velocity(jnp.ones(2), jnp.ones((2, 3))).shape == (2, 3)
