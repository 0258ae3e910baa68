"""Noise that is learned: gradients against quadrature, the transport's minimum, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import kacjax
from kacjax import ProbabilityPath, QuantileProcess, Velocity, kac_path
from kacjax.training import PathMatching, fit_path
from kacjax.training.learned_path import _Joint

DATA = np.array([-1.0, 0.5])


def best_for_nothing(t, x):
    return -0.7 * x + 0.3 * t[:, None]


def make_kac(numbers):
    return kac_path(jnp.exp(numbers[0]), jnp.exp(numbers[1]))


def spline(numbers):
    return ProbabilityPath(QuantileProcess(*numbers))


def joint_velocity(network, make_path, numbers, prediction="velocity"):
    return Velocity(_Joint(network, numbers, make_path), make_path(numbers), prediction)


@jax.jit
def expected(numbers):
    """`E[v^2 - 2 v u]` at uniform times: the density inside the cone, and the two atoms."""
    path = make_kac(numbers)
    a, c = jnp.exp(numbers[0]), jnp.exp(numbers[1])
    times, weights = (np.array(part) / 2 for part in np.polynomial.legendre.leggauss(40))
    nodes, node_weights = np.polynomial.legendre.leggauss(120)
    t = jnp.asarray(times + 0.5)[:, None]
    k = path.coefficients(t)
    cone, y = c * k.g, jnp.asarray(nodes)[None] * c * k.g
    mass = path.process.density(k.g, y) * cone * jnp.asarray(node_weights)[None]
    motion, atom = path.process.velocity(k.g, y), jnp.exp(-a * k.g) / 2
    y, motion = jnp.hstack([y, cone, -cone]), jnp.hstack([motion, c + 0 * cone, -c + 0 * cone])
    mass, total = jnp.hstack([mass, atom, atom]), 0.0
    for x in DATA:
        v = -0.7 * (k.f * x + y) + 0.3 * t
        value = jnp.square(v) - 2 * v * (k.f_dot * x + k.g_dot * motion)
        total += jnp.sum(mass * value, axis=1) / len(DATA)
    return jnp.sum(jnp.asarray(weights) * total)


@pytest.mark.long
def test_gradients_of_the_flow_are_those_of_the_expectation(x64):
    """In rate and speed, the square of the target a constant; 16 batches of 5,000, to 6.5 errors.

    By Student's law with 15 degrees of freedom that is a false-alarm rate of 2e-5. Without the terms
    of the atoms the gradient in `a` is off.
    """
    numbers = jnp.log(jnp.array([2.0, 1.5]))
    objective = PathMatching(1.0, 0.0, 0.0, time_power=1.0)
    x0 = jnp.asarray(np.resize(DATA, 5000), jnp.float32)[:, None]

    @jax.jit
    def gradient(numbers, key):
        def loss(numbers):
            velocity = joint_velocity(best_for_nothing, make_kac, numbers)
            draw = objective.draw(velocity, velocity, key, x0, None, make_kac(numbers))
            return jnp.mean(objective.errors(velocity, draw, None, velocity.path))

        return jax.grad(loss)(numbers)

    with jax.enable_x64(False):
        start = numbers.astype(jnp.float32)
        rows = np.array([gradient(start, key) for key in jax.random.split(jax.random.key(0), 16)])
    step = 1e-4
    slopes = [
        (expected(numbers.at[i].add(step)) - expected(numbers.at[i].add(-step))) / (2 * step)
        for i in range(2)
    ]
    deviation = rows.std(0, ddof=1) / 16**0.5
    assert np.all(np.abs(rows.mean(0) - np.array(slopes)) <= 6.5 * deviation)
    assert np.all(deviation < 0.05 * np.abs(rows.mean(0)))


@pytest.mark.long
@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_the_value_is_that_of_the_loss(prediction):
    path, key = make_kac(jnp.zeros(2)), jax.random.key(1)
    x0 = jax.random.normal(key, (50, 3))
    velocity = joint_velocity(best_for_nothing, make_kac, jnp.zeros(2), prediction)
    objective = PathMatching(1.0, 0.0, 0.0)
    draw = objective.draw(velocity, velocity, key, x0, None, path)
    point = path.sample_from_normal(draw.t, draw.x0, draw.n)
    own = Velocity(best_for_nothing, path, prediction)
    kind = kacjax.predictions.make_prediction(prediction)
    weight = kind.weight(path, draw.t[:, None])
    wanted = weight * (own(point.t, point.x_t) - point.velocity) ** 2
    found = objective.errors(velocity, draw, None, path)
    np.testing.assert_allclose(found, wanted.mean(axis=1), rtol=2e-3, atol=2e-4)


def test_partners_have_the_rank_of_their_noise():
    x0 = jax.random.normal(jax.random.key(0), (40, 2, 3))
    draw = PathMatching().draw(None, None, jax.random.key(1), x0, None, kac_path())
    order = np.argsort(np.asarray(draw.n), axis=0)
    np.testing.assert_array_equal(
        np.take_along_axis(np.asarray(draw.partner), order, axis=0), np.sort(x0, axis=0)
    )


@pytest.mark.long
def test_each_term_by_its_formula():
    """Of a spline that is a Gaussian of deviation 2, with slope 2 everywhere."""
    start = QuantileProcess.gaussian(sigma=2.0, bins=4)
    numbers = start.log_heights, start.log_slopes
    velocity = joint_velocity(best_for_nothing, spline, numbers)
    x0, key = jax.random.normal(jax.random.key(0), (64, 2)), jax.random.key(1)
    draw = PathMatching().draw(velocity, velocity, key, x0, None, velocity.path)
    for weights in ((0, 3.0, 0), (0, 1.0, 0.5)):
        found = PathMatching(*weights).errors(velocity, draw, None, velocity.path)
        wanted = weights[1] * (2 * draw.n - draw.partner) ** 2 - weights[2] * np.log(2)
        np.testing.assert_allclose(found, wanted.mean(axis=1), rtol=1e-4, atol=1e-5)


@pytest.mark.long
def test_transport_finds_the_law_of_the_data():
    """The quantiles of Laplace data at the nine deciles, to 0.1, from a Gaussian twice as wide."""
    data = np.random.default_rng(0).laplace(size=(20_000, 1)).astype(np.float32)
    start = QuantileProcess.gaussian(sigma=2.0, bins=8)
    network = kacjax.models.MLP(1, rngs=nnx.Rngs(0), width=4, depth=1)
    numbers = start.log_heights, start.log_slopes
    options = {"flow": 0.0, "log_slope": 0.0, "progress": False}
    learned = fit_path(network, spline, numbers, data, jax.random.key(0), 400, **options)
    levels = np.arange(1, 10) / 10
    found = learned.path.process.quantile(1.0, jnp.asarray(levels, jnp.float32))
    np.testing.assert_allclose(found, np.quantile(data, levels), atol=0.1)
    # The network of no weight is as it was.
    before = kacjax.velocity.wrap_network(network).params
    jax.tree.map(np.testing.assert_array_equal, before, learned.velocity.network.params)
    assert learned.losses.shape == (400,)
    assert "last loss" in repr(learned)


@pytest.mark.slow
def test_rate_and_speed_are_found():
    """Of Kac noise, from far away; to 5 %."""
    process = kacjax.KacProcess(2.0, 1.0)
    data = np.asarray(process.sample(jax.random.key(0), 1.0, (20_000, 4)))
    network = kacjax.models.MLP(4, rngs=nnx.Rngs(0), width=4, depth=1)
    options = {"flow": 0.0, "log_slope": 0.0, "progress": False}
    start = (np.log(9.0), np.log(3.0))
    learned = fit_path(network, make_kac, start, data, jax.random.key(1), 1500, 512, **options)
    np.testing.assert_allclose(np.exp(learned.numbers), [2.0, 1.0], rtol=0.05)


@pytest.mark.long
def test_network_and_numbers_learn_together():
    """Both change, by optimizers of their own, and the network goes on where it was."""
    data = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    start = QuantileProcess.gaussian((2,), bins=4)
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, classes=3)
    numbers, labels = (start.log_heights, start.log_slopes), np.arange(200) % 3
    optimizers = {"optimizer": optax.sgd(0.1), "path_optimizer": optax.sgd(0.0)}
    arguments = network, spline, numbers, data, jax.random.key(0), 3, 32
    learned = fit_path(*arguments, labels=labels, coupling="ot", progress=False, **optimizers)
    np.testing.assert_allclose(learned.numbers[0], start.log_heights, rtol=1e-6)
    assert learned.velocity.classes == 3
    changed = [
        np.any(a != b)
        for a, b in zip(
            jax.tree.leaves(kacjax.velocity.wrap_network(network).params),
            jax.tree.leaves(learned.velocity.network.params),
            strict=True,
        )
    ]
    assert any(changed)
    rest = {"labels": labels, "progress": False}
    network = learned.velocity.network
    run = kacjax.fit(network, learned.path, data, jax.random.key(1), 2, 32, **rest)
    assert np.all(np.isfinite(run.losses))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flow": -1.0}, r"flow must be at least 0, got -1\.0"),
        ({"transport": np.nan}, r"transport must be at least 0, got nan"),
        ({"flow": 0, "transport": 0}, r"flow or transport must be positive"),
        ({"make_path": make_kac, "numbers": np.zeros(2)}, r"log_slope must be 0 for KacProcess"),
        ({"numbers": ()}, r"numbers must hold floats"),
        ({"coupling": "best"}, r"coupling"),
        ({"time_power": 0.0}, r"time_power"),
    ],
)
def test_what_is_refused(options, message):
    start = QuantileProcess.gaussian(bins=4)
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=4, depth=1)
    given = {"make_path": spline, "numbers": (start.log_heights, start.log_slopes)} | options
    with pytest.raises(ValueError, match=message):
        fit_path(network, data=np.zeros((20, 2)), key=jax.random.key(0), steps=1, **given)
