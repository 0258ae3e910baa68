"""The targets lie where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import data

KEY = jax.random.key(0)


@pytest.mark.parametrize("name", data.TARGETS)
def test_targets_fill_the_box(name):
    points = data.target(name)(KEY, 20_000)
    assert points.shape == (20_000, 2)
    assert points.dtype == jnp.float32
    assert np.all(np.isfinite(points))
    # The bulk fills the box without leaving it, and no target leans to one side.
    scale = np.quantile(np.abs(points), 0.95, axis=0)
    assert np.all((scale > 0.6) & (scale < 1.6))
    assert np.all(np.abs(np.median(points, axis=0)) < 0.1)


@pytest.mark.parametrize("name", data.TARGETS)
def test_targets_are_pure_and_traceable(name):
    sample = data.target(name)
    np.testing.assert_array_equal(sample(KEY, 50), jax.jit(sample, static_argnums=1)(KEY, 50))
    batched = jax.vmap(lambda key: sample(key, 50))(jax.random.split(KEY, 3))
    assert batched.shape == (3, 50, 2)
    assert not np.array_equal(batched[0], batched[1])


def test_unknown_target_lists_the_known():
    with pytest.raises(ValueError, match=r"checkerboard, funnel, grid2d, moons, spirals; got 'x'"):
        data.target("x")


def test_grid2d_has_nine_equal_modes():
    num = 45_000
    points = np.asarray(data.target("grid2d")(KEY, num))
    modes = np.rint(points)
    counts = np.unique(modes, axis=0, return_counts=True)[1]
    # Each count is within 6 standard deviations: false alarms below 9 * 2e-9.
    assert counts.shape == (9,)
    assert np.all(np.abs(counts - num / 9) < 6 * np.sqrt(num * 8 / 81))
    # The deviation of 90,000 normals is within 2 %, more than 8 of its standard errors.
    assert np.std(points - modes) == pytest.approx(data.GRID2D_STD, rel=0.02)


def test_checkerboard_fills_its_dark_squares_only():
    cell = np.floor(np.asarray(data.target("checkerboard")(KEY, 20_000)) / 0.75).astype(int)
    assert np.all(cell.sum(axis=1) % 2 == 0)
    assert len(np.unique(cell, axis=0)) == 8


def test_spirals_and_moons_are_thin():
    moons = np.asarray(data.target("moons")(KEY, 5000))
    upper = np.abs(np.hypot(moons[:, 0] + 0.5, moons[:, 1] + 0.25) - 1)
    lower = np.abs(np.hypot(moons[:, 0] - 0.5, moons[:, 1] - 0.25) - 1)
    # 10,000 normals of deviation 0.05 exceed 0.35 with probability below 1e-7.
    assert np.minimum(upper, lower).max() < 0.35
    spirals = np.asarray(data.target("spirals")(KEY, 5000))
    radius, angle = np.hypot(*spirals.T), np.arctan2(spirals[:, 1], spirals[:, 0])
    # Both arms meet the angle modulo pi; rings are 0.5 apart.
    ring = (radius / 0.5 - angle / np.pi) % 1
    assert np.quantile(np.minimum(ring, 1 - ring), 0.95) < 0.25


def test_funnel_narrows():
    x, y = np.asarray(data.target("funnel")(KEY, 50_000)).T
    assert np.std(y[x < -0.5]) < 0.3 * np.std(y[x > 0.5])
