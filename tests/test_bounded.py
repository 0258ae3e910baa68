"""The prediction that keeps the noise's bound, and the loss that learns its sign."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax.losses import FlowMatching, SignMatching

KEY = jax.random.key(0)
PATHS = {"t": kacjax.kac_path(9.0, 4.0), "t2": kacjax.kac_path(9.0, 4.0, clock="t2")}


class Output(eqx.Module):
    """A network that returns what it holds."""

    x0: jax.Array
    z: jax.Array

    def __call__(self, t, x, key=None):
        shape = x.shape
        parts = jnp.broadcast_to(self.x0, shape), jnp.broadcast_to(self.z, shape)
        return jnp.concatenate(parts, axis=-1)


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_no_component_exceeds_the_bound(path):
    # A million numbers; a network of random parameters that are large.
    network = kacjax.models.MLP(4, rngs=nnx.Rngs(0), width=16, depth=1, outputs=2)
    network.last.kernel[...] = 30 * jax.random.normal(KEY, network.last.kernel.shape)
    velocity = kacjax.Velocity(network, path, "bounded")
    keys = jax.random.split(KEY)
    t = jax.random.uniform(keys[0], (250_000,), minval=1e-6)
    x = 5 * jax.random.normal(keys[1], (250_000, 4))
    c = path.coefficients(t, 2)
    x0 = velocity.output(t, x)[:, :4]
    noise = velocity(t, x) - c.f_dot * x0
    rounding = 4e-6 * jnp.abs(x0)
    assert jnp.all(jnp.abs(noise) <= c.g_dot * 4.0 * (1 + 1e-6) + rounding)
    assert jnp.max(jnp.abs(noise)) > 3.9


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("drawn", [False, True])
def test_cross_entropy_has_its_minimum_at_the_mean_motion(path, drawn):
    # All points at one time and no dependence on x: the best z is the mean over all of them.
    objective = SignMatching(drawn)
    x0 = jnp.ones((40_000, 1))
    velocity = kacjax.Velocity(Output(jnp.zeros(1), jnp.zeros(1)), path, "bounded")
    draw = objective.draw(velocity, velocity, KEY, x0, None, path)
    # A noise of which only upward motions are kept, three in four.
    keep = draw.up > jnp.quantile(draw.up, 0.25) if not drawn else jnp.arange(40_000) % 4 > 0
    draw = jax.tree.map(lambda leaf: leaf[np.asarray(keep).reshape(-1)], draw)
    draw = draw._replace(t=jnp.full_like(draw.t, 0.5))

    def loss(parts):
        velocity = kacjax.Velocity(Output(*parts), path, "bounded")
        return jnp.mean(objective.errors(velocity, draw, None, path))

    best = jnp.ones(1), jnp.arctanh(2 * jnp.mean(draw.up) - 1)[None]
    for slope in jax.grad(loss)(best):
        np.testing.assert_allclose(slope, 0, atol=1e-5)
    assert loss(best) < loss((jnp.ones(1), best[1] + 0.1))
    assert loss(best) < loss((1.1 * jnp.ones(1), best[1]))


@pytest.mark.long
def test_soft_labels_are_the_probabilities_of_drawn_ones():
    path, x0 = PATHS["t"], jnp.zeros((200_000, 1))
    soft = SignMatching().draw(None, None, KEY, x0, None, path)
    hard = SignMatching(drawn=True).draw(None, None, KEY, x0, None, path)
    np.testing.assert_array_equal(soft.x_t, hard.x_t)
    assert set(np.unique(hard.up)) == {0.0, 1.0}
    for low, high in ((0, 0.2), (0.2, 0.4), (0.4, 0.6), (0.6, 0.8), (0.8, 1.01)):
        inside = (soft.up >= low) & (soft.up < high)
        share, wanted = jnp.mean(hard.up[inside]), jnp.mean(soft.up[inside])
        # Five deviations of a mean of signs: a false alarm in 3e-7 for each of five bins.
        assert abs(share - wanted) < 5 / 2 / np.sqrt(np.sum(inside))


@pytest.mark.long
@pytest.mark.parametrize("objective", [FlowMatching(), SignMatching()])
def test_one_datum_is_learned(objective):
    path = kacjax.kac_path(25.0, 2.0)
    network = kacjax.models.MLP(1, rngs=nnx.Rngs(0), width=32, depth=1, outputs=2)
    data = np.full((64, 1), 0.7, np.float32)
    options = {"objective": objective, "prediction": "bounded", "progress": False}
    with jax.numpy_dtype_promotion("standard"):
        run = kacjax.fit(network, path, data, KEY, 600, 128, ema_decay=0.98, **options)
    x = kacjax.generate(run.velocity, path, KEY, (500, 1), 20)
    assert abs(float(jnp.mean(x)) - 0.7) < 0.05
    assert float(jnp.std(x)) < 0.15


@pytest.mark.long
def test_what_does_not_fit_is_refused():
    t, x = jnp.ones(3) / 2, jnp.ones((3, 2))
    one = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    with pytest.raises(ValueError, match=r"network must return shape \(3, 4\) .* got \(3, 2\)"):
        kacjax.Velocity(one, PATHS["t"], "bounded")(t, x)
    two = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, outputs=2)
    with pytest.raises(ValueError, match="bounded velocity, got WienerProcess"):
        kacjax.Velocity(two, kacjax.diffusion_path(), "bounded")(t, x)
    objective = SignMatching()
    draw = objective.draw(None, None, KEY, x, None, PATHS["t"])
    with pytest.raises(ValueError, match="must have prediction='bounded', got 'x0'"):
        objective.errors(kacjax.Velocity(one, PATHS["t"]), draw, None, PATHS["t"])
    with pytest.raises(ValueError, match="outputs must be an integer of at least 1, got 0"):
        kacjax.models.MLP(2, rngs=nnx.Rngs(0), outputs=0)
