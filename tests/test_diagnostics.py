"""Size and roughness of fields against linear ones, whose Jacobian is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import diffusion_path, kac_path
from kacjax.diagnostics import field_statistics, lipschitz_constant, velocity_norm

KEY = jax.random.key(0)
MATRIX = np.asarray(jax.random.normal(KEY, (6, 6)), np.float64)
NORM = np.linalg.norm(MATRIX, 2)


def linear(t, x):
    """At time t the matrix times t, on images of two by three pixels."""
    flat = x.reshape(-1, 6) @ jnp.asarray(MATRIX.T, x.dtype)
    return (t[:, None] * flat).reshape(x.shape)


def test_norms_of_a_velocity():
    v = jnp.array([[3.0, -4.0], [0.0, 1.0]])
    largest, norm = velocity_norm(lambda t, x: v, jnp.ones(2), jnp.zeros((2, 2)))
    np.testing.assert_allclose(largest, [4, 1])
    np.testing.assert_allclose(norm, [5, 1])


@pytest.mark.long
def test_lipschitz_constant_is_the_spectral_norm(x64):
    """Exactly, and by power iteration, which needs the gap between singular values."""
    t, x = jnp.array([0.5, 2.0]), jnp.zeros((2, 2, 3))
    np.testing.assert_allclose(lipschitz_constant(linear, t, x), NORM * t, rtol=1e-10)
    for iterations, tolerance in ((5, 0.05), (80, 1e-8)):
        estimate = lipschitz_constant(linear, t, x, iterations=iterations)
        np.testing.assert_allclose(estimate, NORM * t, rtol=tolerance)
        assert np.all(estimate <= NORM * t * (1 + 1e-12))
    # More than 64 components: a diagonal field with a gap.
    scales = jnp.linspace(0, 1, 100).at[-1].set(3.0)
    wide = lipschitz_constant(lambda t, x: x * scales[None], t, jnp.ones((2, 100)))
    np.testing.assert_allclose(wide, 3.0, rtol=1e-6)


def test_statistics_along_trajectories():
    """A single datum: |v| <= c for Kac, and c s / (s + 2/a) just inside; 1/2t for Brownian."""
    times = jnp.array([1.0, 0.01, 0.0])
    x = jnp.array([0.5, 0.004, 0.0])[:, None, None] * jnp.array([[[1.0, -0.2], [0.3, 0.7]]])
    zero = jnp.zeros((2, 2))
    brownian = diffusion_path(signal="constant")
    found = field_statistics(
        lambda t, x: brownian.conditional_velocity(t, x, zero), brownian, x, times
    )
    np.testing.assert_allclose(found.max_lipschitz[:2], 1 / (2 * times[:2]), rtol=1e-5)
    np.testing.assert_allclose(found.mean_lipschitz[:2], found.max_lipschitz[:2], rtol=1e-5)
    np.testing.assert_allclose(found.max_component[:2], [0.25, 0.2], rtol=1e-5)
    norms = np.linalg.norm(np.asarray(x[0]), axis=-1).mean()
    np.testing.assert_allclose(found.mean_norm[0], norms / 2, rtol=1e-5)
    assert found.max_lipschitz[2] > 1e7
    kac = kac_path(9.0, 3.0, signal="constant")
    found = field_statistics(lambda t, x: kac.conditional_velocity(t, x, zero), kac, x, times)
    assert np.all(found.max_component <= 3)
    assert np.all(np.isfinite(found.max_lipschitz))


def test_bad_arguments():
    with pytest.raises(ValueError, match="times must have shape"):
        field_statistics(linear, kac_path(), jnp.zeros((3, 2, 6)), jnp.ones(2))
    with pytest.raises(ValueError, match="iterations must be an integer of at least 1"):
        lipschitz_constant(linear, jnp.ones(2), jnp.zeros((2, 6)), iterations=0)
