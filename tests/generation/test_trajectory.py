"""Trajectories: the way of the samples that generation returns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import diffusion_path, generate, initial_noise, trajectory
from tests.generation.flows import DEVIATION, PATH, GaussianFlow, gaussian_velocity

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "heun"},
        {"solver": "ab2"},
        pytest.param({"solver": "tsit5", "per_sample_steps": True}, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("path", [PATH, diffusion_path()], ids=["flow matching", "diffusion"])
def test_trajectory_ends_where_generate_does(path, options):
    """And is right on its way, at the start and the end too, a time before the last step included."""
    times, flow = np.array([1.0, 0.4, 1e-6, 0.0]), GaussianFlow(path)
    x = trajectory(flow, path, KEY, (5, 1), times, 100, **options)
    assert x.shape == (4, 5, 1)
    np.testing.assert_allclose(x[0], initial_noise(path, KEY, (5, 1)), rtol=1e-6)
    end = generate(flow, path, KEY, (5, 1), 100, **options)
    np.testing.assert_allclose(x[-1], end, rtol=1e-5)
    for i in (1, 2):
        c = path.coefficients(times[i])
        scale = np.sqrt(c.f**2 * DEVIATION**2 + c.sigma**2)
        np.testing.assert_allclose(x[i], x[0] * scale, rtol=3e-3)


@pytest.mark.long
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
    )
    np.testing.assert_allclose((x[0] - x[1])[:, 0], [0, 1.5], atol=1e-6)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, 1.0], r"saved must fall within \[0, 1.0\]"),
        ([2.0, 0.0], r"saved must fall within \[0, 1.0\]"),
        (np.ones((2, 2)), r"saved must be a vector of times, got shape \(2, 2\)"),
        ([], "saved must be a vector of times"),
    ],
)
def test_bad_times(times, message):
    with pytest.raises(ValueError, match=message):
        trajectory(gaussian_velocity, PATH, KEY, (2, 1), np.asarray(times))
