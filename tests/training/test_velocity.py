"""The velocity of a network: a pytree, which passes on what the network takes and no more."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax.training import NetworkVelocity
from tests.training.small import Affine

T, X, LABEL = jnp.array([0.5]), jnp.ones((1, 2)), jnp.array([1], jnp.int32)


def velocity_of(network, parameterisation="velocity"):
    graphdef, parameters = nnx.split(network)
    return NetworkVelocity(parameters, kacjax.kac_path(), graphdef, parameterisation)


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


def test_does_not_recompile_for_other_parameters():
    velocity = velocity_of(Affine())
    evaluate = jax.jit(lambda velocity, t, x: velocity(t, x))
    before = Affine.traced
    first = evaluate(velocity, T, X)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, velocity)
    assert jnp.any(evaluate(doubled, T, X) != first)
    assert Affine.traced == before + 1


def test_passes_on_what_the_network_takes():
    key = jax.random.key(0)
    affine = velocity_of(Affine())
    np.testing.assert_array_equal(affine(T, X, LABEL), affine(T, X))
    rows = jax.tree.map(lambda leaf: leaf + jnp.arange(len(leaf))[:, None], affine.parameters)
    shifted = dataclasses.replace(affine, parameters=rows)
    assert jnp.all(shifted(T, X, LABEL) != shifted(T, X))
    assert jnp.any(affine(T, X, LABEL, key=key) != affine(T, X, LABEL))
    np.testing.assert_array_equal(velocity_of(Bare())(T, X, key=key), X)
    np.testing.assert_array_equal(velocity_of(Open())(T, X, LABEL, key=key), 0 * X + 2)
    np.testing.assert_array_equal(velocity_of(Open())(T, X), 0 * X)


def test_a_prediction_of_the_data_becomes_a_velocity():
    path = kacjax.kac_path()
    expected = path.velocity_from_data(T, 3 * X, 3 * X)
    np.testing.assert_allclose(velocity_of(Bare(), "data")(T, 3 * X), expected, rtol=1e-6)


def test_refuses_labels_that_the_network_does_not_take_and_unknown_names():
    with pytest.raises(ValueError, match="labels, but Bare takes no argument 'label'"):
        velocity_of(Bare())(T, X, LABEL)
    with pytest.raises(ValueError, match="parameterisation must be one of data, velocity"):
        velocity_of(Bare(), "noise")
