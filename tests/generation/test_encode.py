"""Encoding: there and back, and what lies between two data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import decode, encode, exact_velocity, generate, interpolate, kac_path
from tests.generation.flows import PATH, exact, gaussian_velocity
from tests.statistics import ks_bound, ks_distance

KEY = jax.random.key(0)


def test_noise_is_known_for_gaussian_data(x64):
    x = jnp.linspace(-1, 1, 9)[:, None]
    noise, nfe = encode(
        gaussian_velocity, PATH, x, solver="dopri8", rtol=1e-9, atol=1e-9, return_nfe=True
    )
    np.testing.assert_allclose(exact(noise), x, atol=1e-7)
    assert nfe > 13
    np.testing.assert_allclose(
        decode(gaussian_velocity, PATH, noise, solver="dopri8", rtol=1e-9, atol=1e-9), x, atol=1e-7
    )


def test_decoding_noise_is_generating(x64):
    from kacjax import initial_noise

    noise = initial_noise(PATH, KEY, (5, 2))
    x = generate(gaussian_velocity, PATH, KEY, (5, 2), 6, solver="heun")
    np.testing.assert_allclose(decode(gaussian_velocity, PATH, noise, 6, solver="heun"), x)


@pytest.mark.parametrize("solver", ["euler", "rk4"])
def test_the_first_fixed_step_avoids_a_velocity_that_is_infinite(solver):
    x = jnp.ones((2, 1))
    noise = encode(lambda t, x: x / t[:, None], PATH, x, 5, solver=solver)
    assert jnp.all(jnp.isfinite(noise))


def test_round_trip_error_falls_with_the_tolerance(x64):
    """From t = 0.1 of a Kac path with three data in the plane, whose velocity is continuous."""
    path = kac_path(clock="t2")
    data = jnp.array([[0.5, 0.2], [-0.6, 0.1], [0.0, -0.4]])
    velocity = exact_velocity(path, data, width=0.3)
    x = path.sample(KEY, jnp.full(24, 0.3), data[jnp.arange(24) % 3]).x_t
    errors = []
    for tolerance in (1e-5, 1e-7, 1e-9):
        options = {"t_min": 0.3, "solver": "tsit5", "rtol": tolerance, "atol": tolerance}
        noise = encode(velocity, path, x, **options)
        errors.append(float(jnp.median(jnp.abs(decode(velocity, path, noise, **options) - x))))
    # Nearly in proportion to the tolerance, which falls a hundredfold each time.
    assert errors[0] > 20 * errors[1] > 400 * errors[2]
    assert errors[2] < 1e-6


def test_interpolation_runs_from_one_datum_to_the_other(x64):
    x = jax.random.normal(KEY, (2, 5, 4)) * 0.3
    options = {"solver": "tsit5", "rtol": 1e-7, "atol": 1e-7}
    between = interpolate(
        gaussian_velocity, PATH, x[0], x[1], jnp.array([0.0, 0.5, 1.0]), **options
    )
    assert between.shape == (3, 5, 4)
    np.testing.assert_allclose(between[0], x[0], atol=1e-5)
    np.testing.assert_allclose(between[2], x[1], atol=1e-5)
    # The flow is linear here, so that the middle has the data's length, on the arc between them.
    cosine = jnp.sum(x[0] * x[1], -1) / jnp.prod(jnp.linalg.norm(x, axis=-1), axis=0)
    sum_ = (x[0] + x[1]) / jnp.sqrt(2 * (1 + cosine))[:, None]
    np.testing.assert_allclose(between[1], sum_, atol=1e-5)
    straight = interpolate(
        gaussian_velocity, PATH, x[0], x[1], jnp.array([0.25]), mode="linear", **options
    )
    np.testing.assert_allclose(straight[0], 0.75 * x[0] + 0.25 * x[1], atol=1e-5)


def test_mixed_noise_has_the_law_of_the_prior():
    """Of 65,536 Kac components, mixed without a flow: Kolmogorov-Smirnov, false alarm 1e-7.

    The angle between two vectors of 1,024 normals moves the scale by about 1 in 1,000 only.
    """
    path = kac_path()
    ends = path.sample_prior(KEY, (128, 1024)).reshape(2, 64, 1024)
    labels = jnp.zeros(64, int)
    still = lambda t, x, label: jnp.zeros_like(x)  # noqa: E731
    mixed = interpolate(still, path, ends[0], ends[1], jnp.array([0.3, 0.5]), 1, labels=labels)
    uniforms = path.process.cdf(1.0, mixed)
    assert ks_distance(np.asarray(uniforms[1])) < ks_bound(64 * 1024)
    # Displacements mixed linearly have another law: the test sees the difference.
    assert ks_distance(np.asarray(path.process.cdf(1.0, (ends[0] + ends[1]) / 2))) > 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "straight"}, "mode must be one of linear, spherical; got 'straight'"),
        ({"x_b": jnp.ones((3, 2))}, "x_b must have the shape of x_a"),
        ({"weights": 0.5}, "weights must be a vector"),
        ({"path": kac_path(signal="constant")}, "signal must vanish at T, got ConstantSignal"),
        ({"t_min": 1.0}, r"t_min must lie in \[0, T\) with T = 1.0, got 1.0"),
    ],
)
def test_bad_arguments(options, message):
    x = jnp.ones((2, 2))
    options = {"path": PATH, "x_a": x, "x_b": x, "weights": jnp.ones(1), **options}
    with pytest.raises(ValueError, match=message):
        interpolate(gaussian_velocity, **options)
