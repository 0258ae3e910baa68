"""Encoding: there and back, what lies between two data, and where the way up begins."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax
from kacjax import (
    decode,
    diffusion_path,
    encode,
    exact_velocity,
    flow_matching_path,
    generate,
    initial_noise,
    interpolate,
    kac_path,
    log_density,
)
from kacjax.generation.encode import _turn, earliest
from tests.generation.flows import PATH, GaussianFlow, exact, gaussian_velocity, recording
from tests.statistics import ks_bound, ks_distance

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
PATHS = {
    "kac": kac_path(),
    "kac t2": kac_path(clock="t2", T=2.0),
    "diffusion": diffusion_path(),
    "flow matching": flow_matching_path(),
}


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
def test_there_and_back_with_the_default_solver(name):
    path = PATHS[name]
    x = jnp.linspace(-1, 1, 9)[:, None]
    flow = GaussianFlow(path)
    noise = encode(flow, path, x, 200)
    np.testing.assert_allclose(flow.data(noise), x, atol=5e-3)
    np.testing.assert_allclose(decode(flow, path, noise, 200), x, atol=5e-3)


@pytest.mark.long
def test_decoding_noise_is_generating(x64):
    noise = initial_noise(PATH, KEY, (5, 2))
    x = generate(gaussian_velocity, PATH, KEY, (5, 2), 6, solver="heun")
    np.testing.assert_allclose(decode(gaussian_velocity, PATH, noise, 6, solver="heun"), x)


@pytest.mark.parametrize("solver", ["euler", "ab2", "rk4"])
def test_the_first_fixed_step_avoids_a_velocity_that_is_infinite(solver):
    velocity, times = recording(lambda t, x: x / t[:, None])
    noise = encode(velocity, PATH, jnp.ones((2, 1)), 5, solver=solver)
    jax.effects_barrier()
    assert np.all(np.isfinite(noise))
    assert min(times) > 0


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


@pytest.mark.slow
def test_interpolation_runs_from_one_datum_to_the_other(x64):
    x = jax.random.normal(KEY, (2, 5, 4)) * 0.3
    options = {"solver": "rk4", "steps": 100}
    between = interpolate(gaussian_velocity, PATH, x[0], x[1], [0.0, 0.5, 1.0], **options)
    assert between.shape == (3, 5, 4)
    np.testing.assert_allclose(between[0], x[0], atol=1e-5)
    np.testing.assert_allclose(between[2], x[1], atol=1e-5)
    # The flow is linear here, so that the middle has the data's mean length, halfway between.
    lengths = jnp.linalg.norm(x, axis=-1, keepdims=True)
    sum_ = jnp.sum(x / lengths, axis=0)
    middle = sum_ / jnp.linalg.norm(sum_, axis=-1, keepdims=True) * jnp.mean(lengths, axis=0)
    np.testing.assert_allclose(between[1], middle, atol=1e-5)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 1e-3, 2.0, np.pi - 1e-3, np.pi - 1e-6, np.pi])
def test_mixtures_turn_evenly_at_every_angle(angle):
    """In three dimensions, up to opposite vectors, where any great circle will do."""
    a = 2 * np.array([0.6, 0.0, 0.8])
    across = np.array([0.8, 0.0, -0.6])
    b = 4 * (np.cos(angle) * a / 2 + np.sin(angle) * across)
    weights = np.linspace(0, 1, 5, dtype=np.float32)
    first, second = (jnp.asarray(v[None, None], jnp.float32) for v in (a, b))
    mixed = _turn(first, second, jnp.asarray(weights)[:, None, None])[:, 0]
    np.testing.assert_allclose(mixed[jnp.array([0, -1])], [a, b], atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(mixed, axis=-1), 2 + 2 * weights, rtol=1e-3)
    units = np.asarray(mixed, float) / np.linalg.norm(mixed, axis=-1, keepdims=True)
    chords = np.linalg.norm(np.diff(units, axis=0), axis=-1)
    np.testing.assert_allclose(chords, 2 * np.sin(angle / 8), atol=1e-3)


@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("factors", [(1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (0.0, 0.0)])
def test_mixtures_have_finite_gradients(dim, factors):
    """Where vectors are equal, opposite or zero; for equal ones it is that of the straight line."""
    vector = jnp.arange(1.0, dim + 1)[None, None]

    def first(a, b, weight):
        return _turn(a, b, weight[None, None, None])[0, 0, 0]

    value, gradients = jax.value_and_grad(first, (0, 1, 2))(
        *(factor * vector for factor in factors), jnp.asarray(0.25)
    )
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    if factors == (1.0, 1.0):
        np.testing.assert_allclose(gradients[0][0, 0], 0.75 * np.eye(dim)[0], atol=1e-6)
        np.testing.assert_allclose(gradients[1][0, 0], 0.25 * np.eye(dim)[0], atol=1e-6)


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
    mixed = interpolate(still, path, ends[0], ends[1], [0.3, 0.5], 1, **options)
    uniforms = path.process.cdf(1.0, mixed)
    assert ks_distance(np.asarray(uniforms[1])) < ks_bound(64 * 1024)
    # Displacements mixed linearly have another law: the test sees the difference.
    assert ks_distance(np.asarray(path.process.cdf(1.0, (ends[0] + ends[1]) / 2))) > 0.05


class Still(eqx.Module):
    """A velocity of zero that says what its network predicts."""

    prediction: str = "x0"

    def __call__(self, t, x):
        return jnp.zeros_like(x)


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
def test_the_way_up_of_an_x0_prediction_begins_in_a_little_noise(name):
    """At 3 % of the noise, a thousandth of T at least, from the datum that is faded."""
    path, x = PATHS[name], jnp.array([[1.0, -2.0]])
    t, f = earliest(Still(), path)
    c, end = path.coefficients(t), path.coefficients(path.T)
    rho = c.sigma / (c.f + c.sigma) * (end.f + end.sigma) / end.sigma
    np.testing.assert_allclose(f, c.f, rtol=1e-6)
    if name == "diffusion":
        # sqrt(t) / (1 - t + sqrt(t)) = 0.03 below a thousandth.
        np.testing.assert_allclose(t, 1e-3, rtol=1e-6)
    else:
        np.testing.assert_allclose(rho, 0.03, rtol=1e-3)
        assert t > 1e-3 * path.T
    found = encode(Still(), path, x, 2, coordinates="time")
    np.testing.assert_allclose(found, f * x, rtol=1e-6)
    density = log_density(Still(), path, 0.1 * x, 2, coordinates="time")
    prior = path.process.log_density(end.g, f * 0.1 * x).sum(-1)
    np.testing.assert_allclose(density, prior + 2 * jnp.log(f), rtol=1e-4)
    # Any other velocity begins at the data; and a t_min is taken as it is.
    for velocity, options in ((Still("velocity"), {}), (Still(), {"t_min": 0.0})):
        found = encode(velocity, path, x, 2, coordinates="time", **options)
        np.testing.assert_array_equal(found, x)
    assert earliest(lambda t, x: x, path)[0] == 0


@pytest.mark.long
@pytest.mark.parametrize("call", [encode, log_density])
def test_noise_that_is_too_large_is_said(call):
    x = jnp.ones((4, 2))
    grow = lambda t, x: 3 * x  # noqa: E731
    with pytest.warns(
        RuntimeWarning, match="times the prior's deviation.*or the velocity is wrong.$"
    ):
        call(grow, PATH, x, 5)
    wrong = kacjax.Velocity(lambda t, x: -100 * x, PATH)
    with pytest.warns(RuntimeWarning, match="prediction='velocity', or take a larger t_min"):
        call(wrong, PATH, x, 5)
    with pytest.warns(RuntimeWarning, match="nan times"):
        call(lambda t, x: x / 0, PATH, x, 5)


@pytest.mark.long
@pytest.mark.filterwarnings("error")
def test_noise_of_the_right_size_is_not():
    flow, x = GaussianFlow(PATH), 0.3 * jax.random.normal(KEY, (100, 2))
    encode(flow, PATH, x, 10, return_nfe=True)
    log_density(flow, PATH, x, 10)
    # Nor is an outlier a fault.
    normal = kacjax.exact_velocity(PATH, jnp.zeros((1, 1)), std=1.0)
    found = log_density(normal, PATH, jnp.array([[3.0]]), 40)
    np.testing.assert_allclose(found, -(9 + np.log(2 * np.pi)) / 2, atol=1e-3)
    # Nothing is said of what is traced.
    jax.jit(lambda x: encode(lambda t, x: 3 * x, PATH, x, 5))(x)


MODES = 0.7 * jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
STD = 0.15


def mixture(key, num):
    modes = jax.random.randint(key, (num,), 0, 4)
    return MODES[modes] + STD * jax.random.normal(jax.random.fold_in(key, 1), (num, 2))


def mixture_log_density(x):
    square = np.sum((np.asarray(x)[:, None] - MODES[None]) ** 2, axis=-1)
    return np.log(np.mean(np.exp(-square / (2 * STD**2)), axis=1) / (2 * np.pi * STD**2))


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [kac_path(), kac_path(clock="t2"), diffusion_path(), flow_matching_path()],
    ids=["kac", "kac t2", "diffusion", "flow matching"],
)
def test_small_networks_of_both_predictions_agree(path):
    """With defaults: log-densities within 0.05 nats, and the prior's deviation within 10 %.

    The prior of the Kac process ends at its cone, where -inf begins: of the way up with an x0
    prediction 13 and 18 of these 1,000 data end outside, with a velocity prediction none. Of a
    diffusion, whose velocities are infinite at 0, the velocity's network is the bad one, by 0.2
    nats, so that the x0 prediction is compared with the truth.
    """
    data, held_out = mixture(KEY, 20_000), mixture(jax.random.key(1), 1000)
    truth, prior = mixture_log_density(held_out).mean(), float(path.coefficients(path.T).sigma)
    means = {}
    with jax.numpy_dtype_promotion("standard"):
        for prediction in ("x0", "velocity"):
            network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=64)
            velocity = kacjax.fit(
                network, path, data, KEY, steps=3000, batch_size=256, prediction=prediction
            ).velocity
            found = np.asarray(log_density(velocity, path, held_out))
            inside = np.isfinite(found)
            allowed = 0.03 if isinstance(path.process, kacjax.KacProcess) else 0
            assert np.mean(~inside) <= (allowed if prediction == "x0" else 0)
            means[prediction] = found[inside].mean()
            noise = encode(velocity, path, held_out)
            np.testing.assert_allclose(np.sqrt(np.mean(np.square(noise))), prior, rtol=0.1)
    infinite = isinstance(path.process, kacjax.WienerProcess) and path.coefficients(0.5).g == 0.5
    assert abs(means["x0"] - (truth if infinite else means["velocity"])) < 0.05, (means, truth)
    assert abs(means["x0"] - truth) < 0.1, (means, truth)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: encode(gaussian_velocity, PATH, x), "x"),
        (lambda x: decode(gaussian_velocity, PATH, x), "noise"),
        (lambda x: interpolate(gaussian_velocity, PATH, jnp.ones((2, 2)), x, jnp.ones(1)), "x_b"),
        (lambda x: log_density(gaussian_velocity, PATH, x), "x"),
    ],
)
def test_points_are_floats(call, name, without_hook):
    with pytest.raises(ValueError, match=f"^{name} must hold floats of shape .*, got int32"):
        call(jnp.ones((2, 2), jnp.int32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x_b": jnp.ones((3, 2))}, "x_a and x_b must have one shape"),
        ({"weights": 0.5}, "weights must be a vector"),
        ({"path": kac_path(signal="constant")}, "signal must vanish at T, got ConstantSignal"),
        ({"t_min": 1.0}, "t1 must differ from t0"),
        ({"t_min": 1.5}, r"within \[0, 1.0\]"),
    ],
)
def test_bad_arguments(options, message, without_hook):
    x = jnp.ones((2, 2))
    options = {"path": PATH, "x_a": x, "x_b": x, "weights": jnp.ones(1), **options}
    with pytest.raises(ValueError, match=message):
        interpolate(gaussian_velocity, **options)
