"""The exact velocity: it moves its law, and generation with it reaches the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import (
    ProbabilityPath,
    diffusion_path,
    exact_velocity,
    flow_matching_path,
    generate,
    kac_path,
    trajectory,
)
from kacjax.data import target
from kacjax.data.targets import GRID2D_MODES
from kacjax.processes.base import EDGE
from tests.processes.test_base import UniformProcess
from tests.statistics import frequency_bound

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
PATHS = {
    "kac-t": kac_path(),
    "kac-t2": kac_path(clock="t2"),
    "diffusion": diffusion_path(),
    "flow-matching": flow_matching_path(),
}
DATA = jnp.array([[0.5, 0.2], [-0.6, 0.1], [0.0, -0.4]])
WEIGHTS = np.array([0.5, 0.2, 0.3])
POINTS = target("moons")(jax.random.key(5), 200)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (PATHS["kac-t"], {"width": 0.2}),
        pytest.param(
            kac_path(4.0, 2.0, T=1.5, signal="cosine", clock="t2"),
            {"width": 0.02},
            marks=pytest.mark.slow,
        ),
        (
            diffusion_path(0.8, signal="exponential", clock="t2"),
            {"std": jnp.array([0.1, 0.2, 0.05])},
        ),
    ],
)
def test_velocity_moves_its_law(path, options, x64):
    """The continuity equation, d/dt log p + div u + u . grad log p = 0, at random points.

    Exact in the sums over data and components, in the layers of the cones and between them.
    """
    data = DATA.astype(jnp.float64)
    field = exact_velocity(path, data, WEIGHTS, **options)
    t = jax.random.uniform(KEY, (400,), minval=0.02, maxval=0.9)
    index = jnp.arange(400) % 3
    x = path.sample(jax.random.key(1), t, data[index]).x_t

    @jax.jit
    def residual(t, x):
        log_density = lambda t, x: field.log_density(t[None], x[None])[0]  # noqa: E731
        velocity = lambda x: field(t[None], x[None])[0]  # noqa: E731
        u, divergence = velocity(x), jnp.trace(jax.jacfwd(velocity)(x))
        change, gradient = jax.grad(log_density, argnums=(0, 1))(t, x)
        terms = jnp.array([change, divergence, u @ gradient])
        return jnp.sum(terms), jnp.max(jnp.abs(terms))

    value, scale = jax.vmap(residual)(t, x)
    c = getattr(path.process, "c", jnp.inf)
    at = path.coefficients(t, 3)
    z = jnp.abs(x[:, None] - at.f * data[None]) / (c * at.g)
    # Points on their own cone, as the sampler's atoms are, have one-sided derivatives. Just outside
    # a cone the density is no law's but a slope, which has fallen to e^-25 where it is left out.
    atom = jnp.any(jnp.abs(z[jnp.arange(400), index] - 1) < 1e-7, axis=1)
    slope = jnp.any((z > 1) & (z < 1 + 25 * EDGE * options.get("width", 0)), axis=(1, 2))
    np.testing.assert_allclose(jnp.where(atom | slope, 0, value / scale), 0, atol=1e-8)
    # Of the second path's samples 27 % have turned in both components.
    assert jnp.sum(~(atom | slope)) > 90


@pytest.mark.long
def test_brownian_velocity_is_that_of_the_posterior_mean():
    """For Brownian motion the velocity is `velocity_from_x0` of E[x0 | x]: another formula."""
    path = PATHS["diffusion"]
    t, x = jnp.array([0.3, 0.05, 0.9]), jnp.array([[0.1, 0.0], [0.4, 0.25], [1.0, -1.0]])
    square = np.sum((x[:, None] - (1 - t)[:, None, None] * DATA[None]) ** 2, axis=-1)
    posterior = WEIGHTS * np.exp(-square / (2 * t[:, None]))
    posterior /= posterior.sum(axis=1, keepdims=True)
    mean = jnp.asarray(posterior, jnp.float32) @ DATA
    np.testing.assert_allclose(
        exact_velocity(path, DATA, WEIGHTS)(t, x),
        path.velocity_from_x0(t, x, mean),
        rtol=1e-4,
    )


@pytest.mark.parametrize("name", [pytest.param("kac-t", marks=pytest.mark.slow), "flow-matching"])
def test_blocks_change_nothing(name, x64):
    """In float64: in float32, rounding decides how far outside its cone an atom is."""
    path, points = PATHS[name], POINTS.astype(jnp.float64)
    t = jnp.array([0.9, 0.2, 1e-3])
    weights = np.linspace(1, 2, 200)
    x = path.sample(KEY, t, points[:3]).x_t
    whole = exact_velocity(path, points, weights)
    for block in (7, 64):
        parts = exact_velocity(path, points, weights, block=block)
        np.testing.assert_allclose(parts(t, x), whole(t, x), rtol=1e-8)
        np.testing.assert_allclose(parts.log_density(t, x), whole.log_density(t, x), rtol=1e-8)
    images = exact_velocity(path, points.reshape(25, 4, 2, 2))
    assert images(t, jnp.zeros((3, 4, 2, 2))).shape == (3, 4, 2, 2)


def test_cones_lead_into_their_data():
    """On a cone: speed c towards the datum. Outside all cones: the one least exceeded decides."""
    path, t = PATHS["kac-t"], jnp.full(3, 0.01)
    f = 0.99
    y = jnp.array([[0.03, -0.03], [0.045, 0.0], [-0.3, 0.1]])
    x = f * DATA[:1] + y
    v = exact_velocity(path, DATA)(t, x) + DATA[:1]
    np.testing.assert_allclose(v[0], [3, -3], rtol=1e-3)
    np.testing.assert_allclose(v[1:, 0], [4.5, -30.0], rtol=1e-3)
    # A straight line: from outside, a single Euler step arrives.
    end = x - t[:, None] * (v - DATA[:1])
    np.testing.assert_allclose(end[0], DATA[0], atol=1e-5)
    np.testing.assert_allclose(end[:, 0], DATA[0, 0], atol=1e-5)


@pytest.mark.long
def test_any_process_has_an_exact_velocity():
    path = ProbabilityPath(UniformProcess())
    t, x = jnp.array([0.5]), jnp.array([[0.3, -0.1]])
    found = exact_velocity(path, DATA[:1])(t, x)
    np.testing.assert_allclose(found, path.conditional_velocity(t, x, DATA[:1]), rtol=1e-4)


def nearest(x, data):
    distances = np.linalg.norm(np.asarray(x)[:, None] - np.asarray(data)[None], axis=-1)
    return distances.min(axis=1), distances.argmin(axis=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_nine_points_are_reached_in_their_shares(name):
    """5,000 samples, 100 evaluations; Bernstein's bound for each share, false alarm 1e-7.

    The shares are unequal: equal ones would come out by symmetry.
    """
    weights = np.array([4, 3, 2, 1, 1, 2, 3, 4, 5]) / 25
    velocity = exact_velocity(PATHS[name], jnp.asarray(GRID2D_MODES), weights)
    x, nfe = generate(velocity, PATHS[name], KEY, (5000, 2), 100, return_nfe=True)
    assert int(nfe) == 100
    distances, index = nearest(x, GRID2D_MODES)
    assert np.median(distances) <= 1e-3
    shares = np.bincount(index, minlength=9) / len(x)
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - weight) < frequency_bound(weight, len(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_two_hundred_points_are_reached_and_marginals_agree(name):
    """4,000 samples; the median, the shares by quarters of the data, and three marginals.

    Marginals: along 8 directions, after both sets are blurred by the same normal of deviation
    0.03 (atoms lie in a layer here), the two-sample Kolmogorov-Smirnov distance stays below the
    bound of Dvoretzky, Kiefer, Wolfowitz and Massart, in the sum of both, false alarm 1e-7 each.
    """
    path, num = PATHS[name], 4000
    velocity = exact_velocity(path, POINTS)
    times = np.array([0.6, 0.3, 0.1, 0.0])
    x = np.asarray(trajectory(velocity, path, KEY, (num, 2), times, 100))
    distances, index = nearest(x[-1], POINTS)
    assert np.median(distances) <= 1e-3
    shares = np.bincount(index // 20, minlength=10) / num
    assert np.max(np.abs(shares - 0.1)) < frequency_bound(0.1, num)
    rng = np.random.default_rng(0)
    bound = 2 * np.sqrt(np.log(2 / 1e-7) / (2 * num))
    for i, time in enumerate(times[:3]):
        rows = rng.integers(0, 200, num)
        noised = path.sample(jax.random.key(i), jnp.full(num, time, jnp.float32), POINTS[rows]).x_t
        for angle in np.arange(8) * np.pi / 8:
            direction = np.array([np.cos(angle), np.sin(angle)])
            sets = [
                np.sort(np.asarray(part) @ direction + 0.03 * rng.standard_normal(num))
                for part in (x[i], noised)
            ]
            values = np.concatenate(sets)
            first, second = (np.searchsorted(part, values, side="right") / num for part in sets)
            assert np.max(np.abs(first - second)) < bound


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": jnp.ones((0, 2))}, "data must hold at least one datum"),
        ({"weights": np.ones(2)}, r"weights must have the shape \(3,\), got \(2,\)"),
        ({"weights": np.array([1.0, 0.0, 1.0])}, "weights must be positive"),
        ({"width": 1.0}, "width must lie between 0 and 1, got 1.0"),
        ({"std": 0.1}, "blur must be None but for Brownian motion"),
        ({"std": -1.0, "path": diffusion_path()}, "std must not be negative"),
        ({"std": np.ones(2), "path": diffusion_path()}, "std must be a number or of shape"),
        ({"block": 0}, "block must be an integer of at least 1"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        exact_velocity(**{"path": kac_path(), "data": DATA, **options})


def test_points_of_another_shape():
    with pytest.raises(ValueError, match="x must have the data's event shape"):
        exact_velocity(kac_path(), DATA)(jnp.ones(2), jnp.ones((2, 3)))
