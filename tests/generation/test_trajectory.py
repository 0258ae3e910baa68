"""Trajectories: the way of the samples that generation returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import generate, initial_noise, trajectory
from tests.generation.flows import DEVIATION, PATH, gaussian_velocity

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "heun"},
        pytest.param({"solver": "tsit5", "control": "sample"}, marks=pytest.mark.slow),
    ],
)
def test_trajectory_ends_where_generate_does(options):
    times = jnp.array([1.0, 0.4, 0.0])
    x = trajectory(gaussian_velocity, PATH, KEY, (5, 1), times, 200, **options)
    assert x.shape == (3, 5, 1)
    np.testing.assert_allclose(x[0], initial_noise(PATH, KEY, (5, 1)))
    end = generate(gaussian_velocity, PATH, KEY, (5, 1), 200, **options)
    np.testing.assert_allclose(x[-1], end, rtol=1e-5)
    scale = np.sqrt(0.6**2 * DEVIATION**2 + 0.4**2)
    np.testing.assert_allclose(x[1], x[0] * scale, rtol=1e-3)


def test_labels_go_along():
    labels = jnp.array([0, 3])
    x = trajectory(
        lambda t, x, label: jnp.broadcast_to(label.astype(x.dtype)[:, None], x.shape),
        PATH,
        KEY,
        (2, 1),
        jnp.array([1.0, 0.5]),
        2,
        labels=labels,
        grid="uniform",
    )
    np.testing.assert_allclose((x[0] - x[1])[:, 0], [0, 1.5], atol=1e-6)


def test_bad_times():
    for times in (jnp.array([0.0, 1.0]), jnp.array([2.0, 0.0]), jnp.ones((2, 2))):
        with pytest.raises(ValueError, match="times must be a vector that falls"):
            trajectory(gaussian_velocity, PATH, KEY, (2, 1), times)
