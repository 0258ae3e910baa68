"""Encoding: there and back, and what lies between two data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import decode, encode, exact_velocity, generate, interpolate, kac_path, log_density
from kacjax.generation.encode import _mix
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
    assert np.all(np.isfinite(noise))


@pytest.mark.slow
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
    options = {"solver": "rk4", "steps": 100}
    between = interpolate(
        gaussian_velocity, PATH, x[0], x[1], jnp.array([0.0, 0.5, 1.0]), **options
    )
    assert between.shape == (3, 5, 4)
    np.testing.assert_allclose(between[0], x[0], atol=1e-5)
    np.testing.assert_allclose(between[2], x[1], atol=1e-5)
    # The flow is linear here, so that the middle has the data's mean length, halfway between.
    lengths = jnp.linalg.norm(x, axis=-1, keepdims=True)
    sum_ = jnp.sum(x / lengths, axis=0)
    middle = sum_ / jnp.linalg.norm(sum_, axis=-1, keepdims=True) * jnp.mean(lengths, axis=0)
    np.testing.assert_allclose(between[1], middle, atol=1e-5)


@pytest.mark.slow
def test_linear_interpolation_of_a_linear_flow_is_linear(x64):
    x = jax.random.normal(KEY, (2, 5, 4)) * 0.3
    options = {"mode": "linear", "solver": "tsit5", "rtol": 1e-7, "atol": 1e-7}
    straight = interpolate(gaussian_velocity, PATH, x[0], x[1], jnp.array([0.25]), **options)
    np.testing.assert_allclose(straight[0], 0.75 * x[0] + 0.25 * x[1], atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 2.0, np.pi - 1e-3, np.pi - 1e-6, np.pi])
def test_spherical_mixtures_turn_evenly_at_every_angle(angle):
    """In three dimensions, up to opposite vectors, where any great circle will do."""
    a = 2 * np.array([0.6, 0.0, 0.8])
    across = np.array([0.8, 0.0, -0.6])
    b = 4 * (np.cos(angle) * a / 2 + np.sin(angle) * across)
    weights = np.linspace(0, 1, 5, dtype=np.float32)
    mixed = _mix(
        jnp.asarray(a[None], jnp.float32),
        jnp.asarray(b[None], jnp.float32),
        jnp.asarray(weights),
        "spherical",
    )[:, 0]
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=-1), 2 + 2 * weights, rtol=1e-3)
    np.testing.assert_allclose(mixed[jnp.array([0, -1])], [a, b], atol=2e-3)
    units = np.asarray(mixed, float) / np.linalg.norm(mixed, axis=-1, keepdims=True)
    chords = np.linalg.norm(np.diff(units, axis=0), axis=-1)
    np.testing.assert_allclose(chords, 2 * np.sin(angle / 8), atol=1e-3)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (0.0, 0.0)])
def test_spherical_mixtures_have_finite_gradients(dim, factors):
    """Where vectors are equal, opposite or zero; for equal ones it is that of the straight line."""
    vector = jnp.arange(1.0, dim + 1)[None]

    def first(a, b, weight):
        return _mix(a, b, weight[None], "spherical")[0, 0, 0]

    value, gradients = jax.value_and_grad(first, (0, 1, 2))(
        *(factor * vector for factor in factors), jnp.asarray(0.25)
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    if factors == (1.0, 1.0):
        np.testing.assert_allclose(gradients[0][0], 0.75 * np.eye(dim)[0], atol=1e-6)
        np.testing.assert_allclose(gradients[1][0], 0.25 * np.eye(dim)[0], atol=1e-6)


@pytest.mark.slow
def test_mixed_noise_has_the_law_of_the_prior():
    """Of 65,536 Kac components, mixed without a flow: Kolmogorov-Smirnov, false alarm 1e-7.

    The angle between two vectors of 1,024 normals moves the scale by about 1 in 1,000 only.
    """
    path = kac_path()
    ends = path.sample_prior(KEY, (128, 1024)).reshape(2, 64, 1024)
    labels = jnp.zeros(64, int)
    still = lambda t, x, label: jnp.zeros_like(x)  # noqa: E731
    options = {"labels": labels, "coordinates": "time"}
    mixed = interpolate(still, path, ends[0], ends[1], jnp.array([0.3, 0.5]), 1, **options)
    uniforms = path.process.cdf(1.0, mixed)
    assert ks_distance(np.asarray(uniforms[1])) < ks_bound(64 * 1024)
    # Displacements mixed linearly have another law: the test sees the difference.
    assert ks_distance(np.asarray(path.process.cdf(1.0, (ends[0] + ends[1]) / 2))) > 0.05


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: encode(gaussian_velocity, PATH, x), "x"),
        (lambda x: decode(gaussian_velocity, PATH, x), "noise"),
        (lambda x: interpolate(gaussian_velocity, PATH, jnp.ones((2, 2)), x, jnp.ones(1)), "x_b"),
        (lambda x: log_density(gaussian_velocity, PATH, x), "x"),
    ],
)
def test_points_are_floats(call, name):
    with pytest.raises(ValueError, match=f"^{name} must be floats, got int32"):
        call(jnp.ones((2, 2), jnp.int32))


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
