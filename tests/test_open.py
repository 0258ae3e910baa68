"""Programs of a user who brings an object of the ecosystem for each part."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen

import kacjax

DATA = np.tile([[0.5, -0.3]], (64, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def as_users_have_it():
    """Adam does not work under strict promotion, see `tests/training/conftest.py`."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


class EquinoxNetwork(eqx.Module):
    """A perceptron in Equinox, whose layers take one point at a time."""

    layers: eqx.nn.MLP

    def __init__(self, key):
        self.layers = eqx.nn.MLP(3, 2, 32, 2, key=key)

    def __call__(self, t, x):
        """The prediction of the data."""
        return jax.vmap(self.layers)(jnp.concatenate([x, t[:, None]], axis=-1))


class LinenNetwork(linen.Module):
    """A perceptron in Linen."""

    @linen.compact
    def __call__(self, t, x):
        """The prediction of the data."""
        h = linen.silu(linen.Dense(32)(jnp.concatenate([x, t[:, None]], axis=-1)))
        return linen.Dense(2)(linen.silu(linen.Dense(32)(h)))


def is_learned(velocity, path):
    """Whether its prediction of the data is near the one point that there is."""
    t = jnp.full(64, 0.5)
    x = path.sample(jax.random.key(9), t, jnp.asarray(DATA)).x_t
    wanted = path.velocity_from_x0(t, x, jnp.asarray(DATA))
    error = jnp.sqrt(jnp.mean(jnp.square(velocity(t, x) - wanted)))
    return error < 0.25 * jnp.sqrt(jnp.mean(jnp.square(wanted)))


@pytest.mark.long
def test_an_optax_loop_with_an_equinox_network():
    path = kacjax.kac_path()
    velocity = kacjax.Velocity(EquinoxNetwork(jax.random.key(0)), path)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
    params, static = eqx.partition(velocity.network, eqx.is_inexact_array)

    def loss(params, key):
        network = eqx.combine(params, static)
        return kacjax.flow_matching_loss(kacjax.Velocity(network, path), path, key, DATA)

    @jax.jit
    def step(params, opt_state, key):
        gradient = jax.grad(loss)(params, key)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return optax.apply_updates(params, updates), opt_state

    opt_state = optimizer.init(params)
    for key in jax.random.split(jax.random.key(1), 200):
        params, opt_state = step(params, opt_state, key)
    assert is_learned(kacjax.Velocity(eqx.combine(params, static), path), path)


@pytest.mark.long
def test_an_optax_loop_with_a_linen_network():
    path, module = kacjax.diffusion_path(), LinenNetwork()
    variables = module.init(jax.random.key(0), jnp.ones(1), jnp.ones((1, 2)))
    optimizer = optax.adam(1e-2)

    def loss(variables, key):
        predict = lambda t, x: path.velocity_from_x0(t, x, module.apply(variables, t, x))  # noqa: E731
        weight = lambda t: t**2  # noqa: E731
        return kacjax.flow_matching_loss(predict, path, key, DATA, weight=weight)

    @jax.jit
    def step(variables, opt_state, key):
        updates, opt_state = optimizer.update(jax.grad(loss)(variables, key), opt_state)
        return optax.apply_updates(variables, updates), opt_state

    opt_state = optimizer.init(variables)
    for key in jax.random.split(jax.random.key(1), 200):
        variables, opt_state = step(variables, opt_state, key)
    assert is_learned(kacjax.Velocity(module.bind(variables), path), path)


@pytest.mark.parametrize("kind", ["equinox", "linen"])
def test_fit_with_lion_and_a_weight_of_ones_own(kind):
    path, network = kacjax.flow_matching_path(), EquinoxNetwork(jax.random.key(0))
    if kind == "linen":
        module = LinenNetwork()
        network = module.bind(module.init(jax.random.key(0), jnp.ones(1), jnp.ones((1, 2))))
    run = kacjax.fit(
        network,
        path,
        DATA,
        jax.random.key(1),
        steps=400,
        batch_size=32,
        optimizer=optax.lion(3e-3),
        weight=lambda t: t**2,
        ema_decay=0.99,
        progress=False,
    )
    assert is_learned(run.velocity, path)
