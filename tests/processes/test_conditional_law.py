"""The Kac law with its atoms spread: a law that its velocity moves exactly."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import KacProcess, WienerProcess

pytestmark = pytest.mark.optimised

PROCESS = KacProcess(9.0, 3.0)


@pytest.mark.long
@pytest.mark.parametrize("width", [0.3, 0.02])
def test_mass_bound_and_continuity(width, x64):
    """Of all times together: total mass 1, |v| <= c inside, d/ds p + d/dy (v p) = 0."""
    s = jnp.array([0.003, 0.1, 1.0])[:, None]
    # Gauss-Legendre points in the layers and between them: the density jumps at their edges.
    nodes, weights = np.polynomial.legendre.leggauss(120)
    edges = np.array([-1, -1 + width, 1 - width, 1])
    z = np.concatenate([(b - a) / 2 * nodes + (a + b) / 2 for a, b in itertools.pairwise(edges)])
    weights = np.concatenate([(b - a) / 2 * weights for a, b in itertools.pairwise(edges)])
    y = 3 * s * z[None]

    @jax.jit
    def law(s, y):
        density = lambda s, y: jnp.exp(PROCESS.conditional_law(s, y, width=width)[0])  # noqa: E731
        flux = lambda y: density(s, y) * PROCESS.conditional_law(s, y, width=width)[1]  # noqa: E731
        change = jax.jvp(lambda s: density(s, y), (s,), (jnp.ones_like(s),))[1]
        slope = jax.jvp(flux, (y,), (jnp.ones_like(y),))[1]
        return density(s, y), PROCESS.conditional_law(s, y, width=width)[1], change, slope

    density, velocity, change, slope = law(jnp.broadcast_to(s, y.shape), y)
    np.testing.assert_allclose(np.sum(density * weights[None] * 3 * s, axis=1), 1, rtol=1e-10)
    assert np.all(np.abs(velocity) < 3)
    scale = jnp.max(jnp.abs(change), axis=1, keepdims=True)
    np.testing.assert_allclose((change + slope) / scale, 0, atol=1e-10)


def test_between_the_layers_it_is_the_kac_law():
    s, y = jnp.full(9, 0.2), jnp.linspace(-0.9, 0.9, 9) * 0.6
    log_density, velocity = PROCESS.conditional_law(s, y, width=0.05)
    np.testing.assert_allclose(log_density, PROCESS.log_density(s, y), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(velocity, PROCESS.velocity(s, y), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("s", [1e-12, 1e-4, 0.5])
def test_on_the_cone_and_outside_it(s):
    """Speed c on it; outside, a constant ratio to the cone and a density that falls and is finite."""
    y = jnp.array([1.0, 1.5, 4.0, -1.5]) * 3 * s
    log_density, velocity = PROCESS.conditional_law(s, y, width=0.1)
    np.testing.assert_allclose(velocity, [3, 4.5, 12, -4.5], rtol=1e-4)
    assert np.all(np.isfinite(log_density))
    assert log_density[0] - 100 > log_density[1] > log_density[2]
    _, far = PROCESS.conditional_law(s, jnp.array([2.0]), width=0.1)
    assert np.isfinite(far[0])


def test_a_process_without_atoms_is_itself():
    process, s, y = WienerProcess(0.7), 0.3, jnp.linspace(-1, 1, 5)
    log_density, velocity = process.conditional_law(s, y, width=0.1)
    np.testing.assert_allclose(log_density, process.log_density(s, y), rtol=1e-5)
    np.testing.assert_allclose(velocity, process.velocity(s, y), rtol=1e-6)
