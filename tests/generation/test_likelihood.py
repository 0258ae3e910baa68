"""Log-densities against laws that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import diffusion_path, exact_velocity, flow_matching_path, kac_path, log_density
from tests.generation.flows import DEVIATION, GaussianFlow

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
CENTERS = jnp.array([[0.6, 0.1], [-0.5, 0.4], [0.1, -0.7]])


def mixture_log_density(x, centers, std):
    """Of an even mixture of normals in the plane, written out."""
    square = np.sum((x[:, None] - centers[None]) ** 2, axis=-1)
    return np.log(np.mean(np.exp(-square / (2 * std**2)), axis=1) / (2 * np.pi * std**2))


@pytest.mark.parametrize("precision", [32, pytest.param(64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "path",
    [diffusion_path(0.8), diffusion_path(T=2.0, signal="cosine"), flow_matching_path(0.5)],
    ids=["diffusion", "cosine", "flow matching"],
)
def test_a_gaussian(path, precision):
    """With the default solver: every term of the formula, of which the growth is one, is needed."""
    with jax.enable_x64(precision == 64):
        x = jnp.asarray([[0.1, 0.2], [-0.5, 0.3], [0.0, 0.9]], jnp.result_type(float))
        found = log_density(GaussianFlow(path), path, x)
        square = np.sum(np.square(x), axis=-1) / DEVIATION**2
        expected = -square / 2 - np.log(2 * np.pi * DEVIATION**2)
        np.testing.assert_allclose(found, expected, atol=3e-3)


@pytest.mark.parametrize(
    "path", [pytest.param(diffusion_path(), marks=pytest.mark.slow), flow_matching_path()]
)
@pytest.mark.parametrize("precision", [32, 64])
def test_mixture_of_gaussians(path, precision):
    """The whole chain: exact velocity, its divergence, the solver, the prior."""
    with jax.enable_x64(precision == 64):
        centers = CENTERS.astype(jnp.result_type(float))
        velocity = exact_velocity(path, centers, std=0.2)
        x = 0.5 * jax.random.normal(KEY, (20, 2))
        options = {"solver": "tsit5", "rtol": 1e-4, "atol": 1e-4}
        computed, nfe = log_density(velocity, path, x, return_nfe=True, **options)
        assert computed.dtype == jnp.result_type(float)
        expected = mixture_log_density(np.asarray(x), np.asarray(centers), 0.2)
        np.testing.assert_allclose(computed, expected, atol=2e-3)
        assert nfe > 12


@pytest.mark.long
def test_kac_noise_of_one_datum(x64):
    """At t = 0.3 the law is the Kac law around the datum: its own closed form is the answer."""
    path, datum = kac_path(4.0, 2.0), jnp.array([0.3, -0.2])
    c = path.coefficients(0.3)

    def velocity(t, x):
        return path.conditional_velocity(t, x, jnp.broadcast_to(datum, x.shape))

    y = 0.55 * jnp.array([[0.1, 0.2], [-0.9, 0.5], [0.0, 0.99], [0.6, -0.7]])
    options = {"solver": "tsit5", "rtol": 1e-7, "atol": 1e-7}
    computed = log_density(velocity, path, (c.f * datum)[None] + y, t_min=0.3, **options)
    expected = jnp.sum(path.process.log_density(c.g, y), axis=-1)
    np.testing.assert_allclose(computed, expected, atol=1e-5)
    # The continuous part was integrated: its mass at time t is 1 - exp(-a g) in each component.
    assert float(path.process.atom_mass(c.g)) > 0.2


@pytest.mark.long
def test_outside_the_cone_of_the_prior_there_is_no_density():
    path = kac_path(4.0, 2.0)
    x = jnp.array([[0.0], [1.9], [2.1]])
    still = lambda t, x: jnp.zeros_like(x)  # noqa: E731
    found = log_density(still, path, x, 2, solver="euler", coordinates="time")
    expected = path.process.log_density(1.0, x[:2, 0])
    np.testing.assert_allclose(found[:2], expected, rtol=1e-5)
    assert found[2] == -jnp.inf


@pytest.mark.slow
def test_hutchinson_is_right_on_average_and_exact_for_diagonal_fields(x64):
    """400 probes of one linear field each: the mean within 6 standard errors of the trace."""
    path = flow_matching_path()
    matrix = jax.random.normal(KEY, (2, 3, 2, 3)) / 3
    field = lambda t, x: jnp.einsum("abcd,ncd->nab", matrix, x)  # noqa: E731
    x = jnp.zeros((400, 2, 3))
    options = {"solver": "rk4", "steps": 4, "grid_power": 1.0}
    exact = log_density(field, path, x[:2], steps=4, solver="rk4", grid_power=1.0)
    estimates = log_density(field, path, x, key=KEY, probes=1, **options)
    deviation = float(jnp.std(estimates))
    assert deviation > 0.01
    assert abs(float(jnp.mean(estimates) - exact[0])) < 6 * deviation / 20
    # With more probes each, the deviation falls like the root of their number: within 25 %.
    many = log_density(field, path, x, key=KEY, probes=16, **options)
    assert 0.75 < float(jnp.std(many)) * 4 / deviation < 1.25
    scales = jnp.arange(6.0).reshape(2, 3)
    diagonal = log_density(lambda t, x: scales[None] * x, path, x[:2], key=KEY, **options)
    density = -0.5 * 6 * np.log(2 * np.pi) + float(jnp.sum(scales))
    np.testing.assert_allclose(diagonal, density, rtol=1e-9)


@pytest.mark.slow
def test_gradients_in_the_points(x64):
    """The score of a Gaussian, -x / variance."""
    path = flow_matching_path()
    x = jnp.array([[0.1, 0.2], [-0.5, 0.3]])
    flow = GaussianFlow(path)
    score = jax.grad(lambda x: jnp.sum(log_density(flow, path, x)))(x)
    np.testing.assert_allclose(score, -x / DEVIATION**2, rtol=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": kac_path(signal="exponential")}, "signal must vanish at T"),
        ({"probes": 0}, "probes must be an integer of at least 1"),
        ({"t_min": 1.0}, "t1 must differ from t0, got 1.0 and 1.0"),
        ({"t_min": -0.5}, "t0 must not be negative"),
    ],
)
def test_bad_arguments(options, message):
    options = {"path": kac_path(), "x": jnp.ones((2, 2)), **options}
    with pytest.raises(ValueError, match=message):
        log_density(lambda t, x: x, **options)
