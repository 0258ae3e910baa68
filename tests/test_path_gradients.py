"""Gradients of the loss in the numbers of the path, against quadrature in the law's density."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

from kacjax import Process, flow_matching_loss, kac_path
from kacjax.losses.loss import draw_points, weighted_errors

DATA = np.array([-1.0, 0.5])


def velocity(t, x):
    """A velocity that is best for nothing."""
    return -0.7 * x + 0.3 * t[:, None]


def make_path(a, c, power):
    return kac_path(a, c, clock=lambda u: u**power)


@jax.jit
def expected(a, c, power):
    """The loss with uniform times, without samples: density inside the cone, mass on the atoms."""
    path = make_path(a, c, power)
    times, weights = (np.array(part) / 2 for part in np.polynomial.legendre.leggauss(40))
    nodes, node_weights = np.polynomial.legendre.leggauss(120)
    k = path.coefficients(jnp.asarray(times + 0.5)[:, None])
    cone = c * k.g
    y = jnp.asarray(nodes)[None] * cone
    mass = path.process.density(k.g, y) * cone * jnp.asarray(node_weights)[None]
    v = path.process.velocity(k.g, y)
    # Behind the points inside, the two atoms.
    y, v = jnp.hstack([y, cone, -cone]), jnp.hstack([v, c + 0 * cone, -c + 0 * cone])
    mass = jnp.hstack([mass, jnp.exp(-a * k.g) / 2, jnp.exp(-a * k.g) / 2])
    t = jnp.asarray(times + 0.5)[:, None]
    errors = [-0.7 * (k.f * x + y) + 0.3 * t - (k.f_dot * x + k.g_dot * v) for x in DATA]
    loss = sum(jnp.sum(mass * jnp.square(error), axis=1) for error in errors) / len(DATA)
    return jnp.sum(jnp.asarray(weights) * loss)


def slopes(numbers, step=1e-4):
    """Central differences of the expected loss."""
    found = []
    for i, number in enumerate(numbers):
        up, down = list(numbers), list(numbers)
        up[i], down[i] = number * (1 + step), number * (1 - step)
        found.append((expected(*up) - expected(*down)) / (2 * step * number))
    return np.array(found)


def sampled(numbers, key, num):
    x0 = jnp.asarray(np.resize(DATA, num), jnp.result_type(float))[:, None]
    options = {"weight": "velocity", "time_power": 1.0}
    return flow_matching_loss(velocity, make_path(*numbers), key, x0, **options)


@pytest.mark.parametrize(
    "numbers",
    [
        (9.0, 3.0, 1.0),
        *(pytest.param(n, marks=pytest.mark.slow) for n in ((1.0, 1.0, 1.0), (25.0, 2.0, 2.0))),
    ],
)
def test_gradients_are_those_of_the_expected_loss(numbers, x64):
    """In rate, speed and the clock's exponent; 32 batches of 20,000, to 6.5 standard errors.

    That is a false-alarm rate of 3e-7. The standard error in `a` must be below a hundredth, where
    the pathwise part alone is off by 22 to 87 %.
    """
    with jax.enable_x64(False):
        gradient = jax.jit(jax.grad(lambda n, key: sampled(n, key, 20_000)))
        keys = jax.random.split(jax.random.key(0), 32)
        rows = np.array([gradient(numbers, key) for key in keys], np.float64)
    error, deviation = np.abs(rows.mean(0) - slopes(numbers)), rows.std(0, ddof=1) / 32**0.5
    assert np.all(error <= 6.5 * deviation)
    assert np.all(deviation[:2] < 0.01 * np.abs(rows.mean(0)[:2]))


def test_the_value_does_not_change():
    """Bit for bit that of a draw without terms of atoms."""
    path, key = kac_path(1.0, 1.0), jax.random.key(0)
    x0 = jnp.asarray(np.resize(DATA, 500), jnp.float32)[:, None]
    draw = draw_points(path, key, x0, None, None, "balanced", 2.0, 0.0, None)
    assert draw.atoms is None
    assert flow_matching_loss(velocity, path, key, x0) == jnp.mean(weighted_errors(velocity, draw))


class Clipped(Process):
    """A clipped normal, of atoms that no gradient knows."""

    level: float = 1.0

    def from_normal(self, s, n):
        return s * jnp.clip(n, -self.level, self.level)

    def variance(self, s):
        return jnp.square(s) * 0.516

    def atom_mass(self, s):
        return jnp.full_like(s, 2 * ndtr(-self.level))


def test_atoms_without_terms_are_refused_where_they_matter(without_hook):
    from kacjax import ProbabilityPath

    x0, key = jnp.zeros((8, 1)), jax.random.key(0)

    def loss(level):
        return flow_matching_loss(velocity, ProbabilityPath(Clipped(level)), key, x0)

    assert np.isfinite(loss(1.0))
    with pytest.raises(ValueError, match=r"atom_terms for a gradient .* got Clipped"):
        jax.grad(loss)(1.0)
