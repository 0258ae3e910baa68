"""Variance preserving and exploding diffusions, and EDM, against their own papers' formulas."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import stats

import kacjax
from kacjax import edm_path, exact_velocity, generate, initial_noise, trajectory, vp_path
from kacjax.generation import solve
from kacjax.losses import LogNormalTimes
from kacjax.predictions import PREDICTIONS, EDMPrediction, Prediction
from kacjax.schedules import karras_times
from tests.processes.test_base import UniformProcess
from tests.statistics import ks_bound, ks_distance

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
PATHS = {"cosine": vp_path(), "linear-beta": vp_path("linear-beta"), "edm": edm_path()}
every_path = pytest.mark.parametrize("name", PATHS)
# A mixture of three Gaussians: its exact velocities are known.
CENTERS = np.array([[0.5, 0.2], [-0.6, 0.1], [0.0, -0.4]])
WEIGHTS, STD = np.array([0.5, 0.2, 0.3]), 0.5


def mixture(path):
    return exact_velocity(path, jnp.asarray(CENTERS), WEIGHTS, std=STD)


def posterior_mean(x, f, sigma):
    """E[x0 | x] of the mixture at the level of noise, written out."""
    variance = f**2 * STD**2 + sigma**2
    y = x[:, None] - f * CENTERS
    log = np.log(WEIGHTS) - np.sum(y**2, axis=-1) / (2 * variance)
    share = np.exp(log - log.max(axis=1, keepdims=True))
    share /= share.sum(axis=1, keepdims=True)
    means = CENTERS + f * STD**2 / variance * y
    return np.sum(share[..., None] * means, axis=1)


@pytest.mark.long
@every_path
def test_the_target_is_the_derivative_of_the_path(name, x64):
    """At fixed noise, by autodiff; and the field that is given the points finds it again."""
    path = PATHS[name]
    t = path.T * jnp.linspace(0.01, 1, 40)
    x0 = jax.random.normal(jax.random.key(1), (40, 3))
    point = path.sample(KEY, t, x0)
    derivative = jax.jvp(lambda t: path.sample(KEY, t, x0).x_t, (t,), (jnp.ones_like(t),))[1]
    np.testing.assert_allclose(point.velocity, derivative, rtol=1e-9, atol=1e-12)
    conditional = path.conditional_velocity(t, point.x_t, x0)
    np.testing.assert_allclose(conditional, point.velocity, rtol=1e-8, atol=1e-10)


@pytest.mark.long
def test_coefficients_are_those_of_the_papers(x64):
    u = np.linspace(0, 1, 21)
    c = vp_path().coefficients(u)
    np.testing.assert_allclose(c.f, np.cos(np.pi * u / 2), atol=1e-12)
    c = vp_path("linear-beta", 0.2, 15.0).coefficients(u)
    np.testing.assert_allclose(c.f, np.exp(-0.25 * u**2 * 14.8 - 0.5 * u * 0.2), rtol=1e-12)
    for path in (vp_path(), vp_path("linear-beta")):
        c = path.coefficients(u)
        np.testing.assert_allclose(c.f**2 + c.sigma**2, 1, rtol=1e-12)
        np.testing.assert_allclose(c.f * c.f_dot + c.sigma * c.sigma_dot, 0, atol=1e-9)
    c = edm_path(50.0).coefficients(50 * u[1:])
    np.testing.assert_allclose(c.sigma, 50 * u[1:], rtol=1e-12)
    np.testing.assert_allclose(c.sigma_dot, 1, rtol=1e-12)
    np.testing.assert_array_equal(c.f, 1)


def test_noise_is_exact_near_the_data():
    """In float32 1 - f^2 would be rounded there, from 1e-7 on."""
    t = np.geomspace(1e-6, 1e-3, 10)
    sine = vp_path().coefficients(t.astype(np.float32)).sigma
    np.testing.assert_allclose(sine, np.sin(np.pi * t / 2), rtol=1e-5)
    beta = vp_path("linear-beta").coefficients(t.astype(np.float32)).sigma
    expected = np.sqrt(-np.expm1(-(0.1 * t + 19.9 * t**2 / 2)))
    np.testing.assert_allclose(beta, expected, rtol=1e-5)


@pytest.mark.long
@every_path
def test_the_exact_flow_has_the_marginals_of_the_path(name):
    """From noise alone; 4,000 samples, along 4 directions at 4 times.

    Two-sample Kolmogorov-Smirnov distances stay below the sum of the bounds of Dvoretzky, Kiefer,
    Wolfowitz and Massart, each with a false alarm of 1e-7: what the priors leave out is less.
    """
    path, num = PATHS[name], 4000
    levels = np.array([0.5, 0.1, 0.01, 0.0])
    way = trajectory(mixture(path), path, KEY, (num, 2), path.T * levels, 60)
    rng = np.random.default_rng(0)
    rows = rng.choice(3, num, p=WEIGHTS)
    x0 = jnp.asarray(CENTERS[rows] + STD * rng.standard_normal((num, 2)), jnp.float32)
    for i, level in enumerate(levels):
        t = jnp.full(num, path.T * level, jnp.float32)
        noised = np.asarray(path.sample(jax.random.key(i + 1), t, x0).x_t)
        for angle in np.arange(4) * np.pi / 4:
            direction = np.array([np.cos(angle), np.sin(angle)])
            one, two = np.asarray(way[i]) @ direction, noised @ direction
            assert stats.ks_2samp(one, two).statistic < 2 * ks_bound(num)


@pytest.mark.long
@pytest.mark.parametrize("name", ["cosine", "linear-beta"])
def test_euler_on_a_variance_preserving_path_is_ddim(name, x64):
    r"""$x' = f' \hat x_0 + \sigma' \hat\varepsilon$ at every step, written out, of the same noise."""
    path = PATHS[name]
    times = np.array([1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1, 0.03, 0.0])
    found = generate(mixture(path), path, KEY, (50, 2), times, solver="euler")
    x = np.asarray(initial_noise(path, KEY, (50, 2)))
    if name == "cosine":
        signal = lambda t: np.sin(np.pi * (1 - t) / 2)  # noqa: E731
    else:
        signal = lambda t: np.exp(-(0.1 * t + 19.9 * t**2 / 2) / 2)  # noqa: E731
    for t, after in itertools.pairwise(times):
        f, sigma = signal(t), np.sqrt(1 - signal(t) ** 2)
        data = posterior_mean(x, f, sigma)
        noise = (x - f * data) / sigma
        x = signal(after) * data + np.sqrt(max(0, 1 - signal(after) ** 2)) * noise
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.long
def test_heun_on_the_exploding_path_is_edms_sampler(x64):
    """Algorithm 1 of Karras et al. with 18 steps, written out, of the same noise.

    The last step is Euler's there; here `generate` makes it by the midpoint rule, which differs by
    half of (sigma_min / std)^2, here 8e-6.
    """
    path, times = edm_path(), karras_times(18)
    x = noise = np.asarray(initial_noise(path, KEY, (50, 2)))
    slope = lambda x, sigma: (x - posterior_mean(x, 1, sigma)) / sigma  # noqa: E731
    for sigma, after in itertools.pairwise(np.asarray(times)):
        first = slope(x, sigma)
        euler = x + (after - sigma) * first
        x = euler
        if after > 0:
            x = euler + (after - sigma) * (slope(euler, after) - first) / 2
            until = x
    velocity, options = mixture(path), {"solver": "heun", "coordinates": "time"}
    found = solve(velocity, path, jnp.asarray(noise), path.T, times[-2], times[:-1], **options)
    np.testing.assert_allclose(found, until, atol=1e-8)
    last = solve(velocity, path, found, times[-2], 0.0, 1, solver="euler", coordinates="time")
    np.testing.assert_allclose(last, x, atol=1e-8)
    found = generate(velocity, path, KEY, (50, 2), times, **options)
    np.testing.assert_allclose(found, x, rtol=1e-5, atol=1e-5)


def test_the_steps_are_karras(x64):
    n, (low, high) = 18, np.array([0.002, 80.0]) ** (1 / 7)
    expected = (high + np.arange(n) / (n - 1) * (low - high)) ** 7
    np.testing.assert_allclose(karras_times(n), [*expected, 0], rtol=1e-9)


def edm_by_hand(x, sigma, network, sigma_data):
    """Table 1 of Karras et al.: the data, from c_skip, c_out, c_in and c_noise."""
    square = sigma**2 + sigma_data**2
    skip, out = sigma_data**2 / square, sigma * sigma_data / np.sqrt(square)
    return skip * x + out * network(np.log(sigma[:, 0]) / 4, x / np.sqrt(square))


def test_the_prediction_of_edm_is_its_table(x64):
    network = lambda t, x: jnp.sin(3 * x + t[:, None])  # noqa: E731
    path, prediction = edm_path(), EDMPrediction(0.7)
    t = np.geomspace(0.002, 80, 30)
    x = np.random.default_rng(0).normal(size=(30, 2)) * t[:, None]
    data = edm_by_hand(x, t[:, None], network, 0.7)
    found = kacjax.Velocity(network, path, prediction)(jnp.asarray(t), jnp.asarray(x))
    np.testing.assert_allclose(found, (x - data) / t[:, None], rtol=1e-8, atol=1e-10)


@pytest.mark.long
def test_the_loss_of_edm_is_its_loss(x64):
    """Its weight (sigma^2 + sigma_d^2) / (sigma sigma_d)^2 of the squared error of the data."""
    network = lambda t, x: jnp.sin(3 * x + t[:, None])  # noqa: E731
    path, times = edm_path(), LogNormalTimes()
    x0 = jax.random.normal(jax.random.key(1), (64, 2))
    velocity = kacjax.Velocity(network, path, "edm")
    loss = kacjax.flow_matching_loss(velocity, path, KEY, x0, times=times)
    time_key, noise_key, _ = jax.random.split(KEY, 3)
    t = times(time_key, path, 64)
    x, sigma = np.asarray(path.sample(noise_key, t, x0).x_t), np.asarray(t)[:, None]
    error = edm_by_hand(x, sigma, network, 0.5) - x0
    weight = (sigma**2 + 0.5**2) / (0.5 * sigma) ** 2
    np.testing.assert_allclose(loss, np.mean(weight * error**2), rtol=1e-8)


@pytest.mark.parametrize("clock", ["t", "t2"])
def test_the_weight_of_edm_is_bounded_toward_the_data(clock):
    """Noise of Kac's ballistic start leaves the data so slowly that the velocity says nothing of them."""
    path = kacjax.kac_path(clock=clock)
    t = jnp.geomspace(1e-20, 1, 200)
    weight = EDMPrediction().weight(path, t)
    assert float(jnp.max(weight)) <= 1e6
    assert float(weight[-1]) == pytest.approx(4, rel=1e-5)  # The gain is sigma_data at T.
    velocity = kacjax.Velocity(lambda t, x: jnp.ones_like(x), path, "edm")
    times = lambda key, path, num: t[:num]  # noqa: E731
    loss = kacjax.flow_matching_loss(velocity, path, KEY, jnp.ones((150, 2)), times=times)
    assert float(loss) < 100


@pytest.mark.long
@pytest.mark.parametrize(
    "path",
    [
        *(vp_path(), kacjax.flow_matching_path(0.4), kacjax.kac_path(clock="t2")),
        kacjax.ProbabilityPath(UniformProcess()),
        kacjax.diffusion_path(np.array([0.5, 2.0])),
    ],
)
def test_edm_prediction_on_any_path(path, x64):
    """The velocity is that of the data it stands for; input and target have deviation 1.

    The deviations over 50,000 draws of Gaussian data: 5.5 of their standard errors, which for a
    fourth moment of at most 3 is 1.8 %; false alarm 4e-8 each.
    """
    prediction, num = EDMPrediction(0.7), 50_000
    t = jnp.full(num, 0.3 * path.T)
    x0 = 0.7 * jax.random.normal(jax.random.key(1), (num, 2))
    x = path.sample(KEY, t, x0).x_t
    c = path.coefficients(t, 2)
    square = c.f**2 * 0.49 + c.sigma**2
    skip, out = c.f * 0.49 / square, 0.7 * c.sigma / jnp.sqrt(square)
    target = (x0 - skip * x) / out
    expected = path.velocity_from_x0(t, x, x0)
    np.testing.assert_allclose(prediction.velocity(path, t, x, target), expected, atol=1e-9)
    time, given = prediction.inputs(path, t, x, None)
    for part in (given, target):
        np.testing.assert_allclose(jnp.std(part, axis=0), 1, rtol=0.018)
    level = np.log(np.broadcast_to(c.sigma / c.f, (num, c.sigma.shape[-1]))).mean(axis=1)
    np.testing.assert_allclose(time, level / 4, rtol=1e-9)


@every_path
def test_edm_prediction_is_finite_at_both_ends(name):
    path = PATHS[name]
    velocity = kacjax.Velocity(lambda t, x: x + t[:, None], path, "edm")
    t, x = jnp.array([0.0, path.T]), jnp.ones((2, 2))
    for part in (velocity(t, x), EDMPrediction().weight(path, t)):
        assert np.all(np.isfinite(part))


@pytest.mark.long
def test_a_network_with_a_final_time_gets_a_time_within_it():
    """Of any final time: levels of 1e-4 and 1e4 are its ends, 1 its middle."""
    path, prediction = edm_path(), EDMPrediction()
    t = jnp.array([1e-6, 1e-4, 1e-2, 1.0, 80.0])
    time, _ = prediction.inputs(path, t, jnp.ones((5, 1)), 2.0)
    expected = 1 + np.log([1e-4, 1e-4, 1e-2, 1.0, 80.0]) / np.log(1e4)
    np.testing.assert_allclose(time, expected, atol=1e-5)
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, T=3.0)
    assert kacjax.Velocity(network, path, "edm")(t, jnp.ones((5, 2))).shape == (5, 2)
    with pytest.raises(ValueError, match=r"path must have the T of the network, 3\.0"):
        kacjax.Velocity(network, path, "x0")


class Residual(Prediction):
    """A prediction of a user's own, of the way from the point to its datum."""

    def velocity(self, path, t, x, output):
        return path.velocity_from_x0(t, x, x + output)

    def weight(self, path, t):
        return PREDICTIONS["x0"].weight(path, t)


@pytest.mark.slow
@pytest.mark.usefixtures("adam")
def test_a_prediction_of_ones_own_trains_generates_and_is_saved(tmp_path):
    kacjax.register(Residual)
    path, data = vp_path("linear-beta"), 0.5 + 0 * jnp.ones((64, 2))
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)
    options = {"prediction": Residual(), "progress": False}
    run = kacjax.fit(network, path, data, KEY, 200, 64, **options)
    assert np.mean(run.losses[-20:]) < 0.5 * np.mean(run.losses[:20])
    kacjax.save_velocity(tmp_path / "v", run.velocity)
    loaded = kacjax.load_velocity(tmp_path / "v")
    assert isinstance(loaded.prediction, Residual)
    for velocity in (run.velocity, loaded):
        x = generate(velocity, path, KEY, (100, 2), 20)
        assert abs(float(jnp.mean(x)) - 0.5) < 0.2


@pytest.mark.long
def test_lognormal_times():
    """20,000 of them, the last of five for each key; false alarm 1e-7."""
    keys = jax.random.split(KEY, 20_000)
    t = jax.vmap(lambda key: LogNormalTimes()(key, edm_path(), 5)[-1])(keys)
    assert ks_distance(stats.norm.cdf(np.log(t), -1.2, 1.2)) < ks_bound(20_000)
    t = LogNormalTimes(0.0, 2.0)(KEY, edm_path(3.0), 4096)
    assert float(jnp.max(t)) == 3
    assert np.mean(np.asarray(t) == 3) == pytest.approx(stats.norm.sf(np.log(3) / 2), abs=2e-3)
    # As evenly spread as the others.
    u = np.sort(stats.norm.cdf(np.log(t[t < 3]) / 2))
    assert np.max(np.diff(u)) < 2 / 4096


def test_other_times_of_the_loss():
    """They change where the loss is taken, not what is drawn besides."""
    path, x0 = kacjax.flow_matching_path(), jnp.ones((8, 2))
    seen = []
    field = lambda t, x: seen.append((t, x)) or x  # noqa: E731
    half = lambda key, path, batch: jnp.full(batch, 0.5)  # noqa: E731
    kacjax.flow_matching_loss(field, path, KEY, x0, times=half)
    noise = path.sample(jax.random.split(KEY, 3)[1], jnp.full(8, 0.5), x0).x_t
    np.testing.assert_array_equal(seen[0][0], 0.5)
    np.testing.assert_allclose(seen[0][1], noise, rtol=1e-6)


def test_a_prior_that_is_declared():
    """Of any signal; without the declaration it needs data."""
    options = {"signal": "exponential", "T": 6.0, "approximate_prior": True}
    path = kacjax.ProbabilityPath(kacjax.WienerProcess(), **options)
    assert path.prior_is_noise
    noise = path.sample_prior(KEY, (5, 2))
    np.testing.assert_array_equal(noise, path.process.sample(KEY, 6.0, (5, 2)))
    assert path != kacjax.diffusion_path(T=6.0, signal="exponential")
    again = kacjax.export.path_from_dict(kacjax.export.path_to_dict(path))
    assert again.prior_is_noise
    assert [p.prior_is_noise for p in PATHS.values()] == [True] * 3
    assert [p.approximate_prior for p in PATHS.values()] == [False, True, True]


@pytest.mark.slow
@every_path
def test_data_are_encoded_and_have_a_density(name):
    """The way up and back, in straight coordinates; the density is that of the mixture.

    To 0.01 nats: the approximate priors leave out 0.0066 and 0.0125 deviations.
    """
    path, x = PATHS[name], jnp.asarray(CENTERS, jnp.float32)
    velocity = mixture(path)
    noise = kacjax.encode(velocity, path, x, 100, solver="heun")
    back = kacjax.decode(velocity, path, noise, 100, solver="heun")
    np.testing.assert_allclose(back, x, atol=2e-3)
    square = np.sum((CENTERS[:, None] - CENTERS) ** 2, axis=-1)
    density = np.exp(-square / (2 * STD**2)) @ WEIGHTS / (2 * np.pi * STD**2)
    found = kacjax.log_density(velocity, path, x)
    np.testing.assert_allclose(found, np.log(density), atol=0.01)


@pytest.mark.parametrize("clock", [None, lambda u: u * (2 - u)])
def test_an_exact_velocity_where_the_clock_stands_still(clock):
    """At T the clocks have the derivative 0, and data of some width were divided by it."""
    path = vp_path() if clock is None else kacjax.diffusion_path(clock=clock)
    velocity, x = mixture(path), jnp.array([[0.3, -0.2]])
    found, before = (velocity(jnp.array([t]), x) for t in (1.0, 1 - 1e-4))
    np.testing.assert_allclose(found, before, atol=2e-3)
    expected = path.coefficients(1.0).f_dot * (WEIGHTS @ CENTERS)[None]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
