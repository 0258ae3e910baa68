"""Paths: their three settings, their targets, their prior."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import kacjax
from kacjax import (
    KacProcess,
    ProbabilityPath,
    diffusion_path,
    edm_path,
    flow_matching_path,
    kac_path,
    vp_path,
)
from kacjax.schedules import CLOCKS, SIGNALS

pytestmark = pytest.mark.optimised

PATHS = {
    "kac": kac_path(9.0, 3.0, clock="t2"),
    "diffusion": diffusion_path(0.8, T=2.0, signal="cosine"),
    "flow-matching": flow_matching_path(),
    "vp": vp_path(),
    "linear-beta": vp_path("linear-beta"),
    "edm": edm_path(),
}


def test_flow_matching_is_exactly_noise_minus_data():
    path, key = flow_matching_path(), jax.random.key(0)
    t = jnp.linspace(0, 1, 64)
    x0 = jax.random.normal(jax.random.key(1), (64, 5))
    noise = jax.random.normal(key, (64, 5))
    point = path.sample(key, t, x0)
    np.testing.assert_allclose(point.velocity, noise - x0, rtol=1e-6, atol=5e-7)
    expected = (1 - t[:, None]) * x0 + t[:, None] * noise
    np.testing.assert_allclose(point.x_t, expected, rtol=1e-6, atol=5e-7)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("time", [0.0, 1e-11, 1.0])
def test_conditional_velocity_has_finite_gradients_at_any_time(time, clock):
    """At `t = 0` too, where the clock t^2 leaves a light cone of 1e-24, whose square is 0."""

    def velocity(t, a, c, x):
        path = kac_path(a, c, clock=clock)
        return path.conditional_velocity(t[None], x[None], 0 * x[None]).sum()

    for x in (0.0, 1e-26, 0.3):
        here = [jnp.asarray(v, jnp.float32) for v in (time, 9.0, 3.0, [x])]
        for gradient in jax.grad(velocity, (0, 1, 2, 3))(*here):
            assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    "maker", [lambda **k: kac_path(5.0, 2.0, **k), lambda **k: diffusion_path(**k)]
)
def test_target_is_the_derivative_of_the_path(maker, signal, clock, x64):
    """At fixed noise, d x_t / dt by autodiff is the velocity that the path returns."""
    path = maker(T=1.5, signal=signal, clock=clock)
    key, t = jax.random.key(0), jnp.linspace(0.1, 1.4, 40)
    x0 = jax.random.normal(jax.random.key(1), (40, 3))
    derivative = jax.jvp(lambda t: path.sample(key, t, x0).x_t, (t,), (jnp.ones_like(t),))[1]
    point = path.sample(key, t, x0)
    np.testing.assert_allclose(point.velocity, derivative, rtol=1e-9, atol=1e-12)
    inside = (
        jnp.abs(point.x_t - path.coefficients(t, 2).f * x0)
        < 0.999999 * 2 * path.coefficients(t, 2).g
    )
    conditional = path.conditional_velocity(t, point.x_t, x0)
    keep = inside if isinstance(path.process, KacProcess) else jnp.ones_like(inside)
    np.testing.assert_allclose(conditional[keep], point.velocity[keep], rtol=1e-6)


@pytest.mark.parametrize("name", PATHS)
def test_velocity_from_x0_is_right_on_average(name):
    """E[velocity | x0] from the true datum, over 100,000 draws of noise: error below 5 sigma."""
    path = PATHS[name]
    t = jnp.full(100_000, 0.3)
    x0 = jnp.broadcast_to(jnp.array([[0.7, -0.2]]), (100_000, 2))
    point = path.sample(jax.random.key(0), t, x0)
    error = path.velocity_from_x0(t, point.x_t, x0) - point.velocity
    bound = 5 * jnp.std(error, axis=0) / 100_000**0.5 + 1e-5
    assert np.all(np.abs(jnp.mean(error, axis=0)) < bound)
    y = point.x_t - path.coefficients(t, 2).f * x0
    # The remainder is uncorrelated with the noise: the predictor is the best linear one.
    correlation = jnp.mean(error * y, axis=0) / (jnp.std(error, axis=0) * jnp.std(y, axis=0) + 1e-5)
    assert np.all(np.abs(correlation) < 0.02)


@pytest.mark.parametrize("name", PATHS)
def test_x0_gain_is_the_derivative(name):
    path, t = PATHS[name], jnp.array([0.01, 0.5, 0.9])
    x = jnp.ones((3, 1))
    slope = jax.grad(lambda x0: jnp.sum(path.velocity_from_x0(t, x, x0)))(x)
    np.testing.assert_allclose(path.x0_gain(t), slope[:, 0], rtol=1e-5)
    assert np.all(path.x0_gain(t) < 0)


@pytest.mark.long
@pytest.mark.parametrize("name", PATHS)
def test_under_jit_vmap_and_grad(name):
    path, key = PATHS[name], jax.random.key(0)
    t, x0 = jnp.array([0.2, 0.7]), jnp.ones((2, 3))
    eager = path.sample(key, t, x0)
    for a, b in zip(
        eager, jax.jit(lambda p, k, t, x: p.sample(k, t, x))(path, key, t, x0), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    keys = jax.random.split(key, 4)
    assert jax.vmap(lambda k: path.sample(k, t, x0).velocity)(keys).shape == (4, 2, 3)
    grads = jax.grad(lambda t: jnp.sum(path.sample(key, t, x0).x_t))(t)
    assert np.all(np.isfinite(grads))
    assert path.sample_prior(key, (4, 3)).shape == (4, 3)


def test_targets_are_finite_at_both_ends():
    for path in PATHS.values():
        t = jnp.array([0.0, path.T])
        point = path.sample(jax.random.key(0), t, jnp.ones((2, 4)))
        assert all(bool(np.all(np.isfinite(part))) for part in point)
        np.testing.assert_allclose(point.x_t[0], 1.0, atol=1e-5)


@pytest.mark.long
def test_kac_velocity_is_bounded_and_diffusion_is_not():
    x0, t = jnp.zeros((4096, 2)), jnp.full(4096, 1e-6)
    kac = kac_path(9.0, 3.0).sample(jax.random.key(0), t, x0).velocity
    diffusion = diffusion_path().sample(jax.random.key(0), t, x0).velocity
    assert np.max(np.abs(kac)) <= 3
    assert np.max(np.abs(diffusion)) > 1000


@pytest.mark.parametrize("signal", ["exponential", "constant"])
def test_prior_of_a_signal_that_does_not_vanish_needs_data(signal):
    path, key = kac_path(signal=signal), jax.random.key(0)
    with pytest.raises(ValueError, match=r"does not vanish at T.*pass x0"):
        path.sample_prior(key, (5, 2))
    x0 = jnp.ones((5, 2))
    expected = (
        path.coefficients(1.0).f * x0 + path.process.sample(key, 1.0, (5, 2))
        if signal != "constant"
        else None
    )
    prior = path.sample_prior(key, (5, 2), x0)
    assert prior.shape == (5, 2)
    if expected is not None:
        np.testing.assert_allclose(prior, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="x0 must have the shape"):
        path.sample_prior(key, (5, 2), jnp.ones((4, 2)))


@pytest.mark.long
def test_coefficients_have_the_rank_of_the_points():
    t = jnp.array([0.2, 0.7, 0.9])
    for name, path in PATHS.items():
        flat, broad = path.coefficients(t), path.coefficients(t, 4)
        for a, b in zip(flat, broad, strict=True):
            assert b.shape == (3, 1, 1, 1)
            np.testing.assert_array_equal(a, b[:, 0, 0, 0])
        one = path.coefficients(0.2)
        np.testing.assert_allclose([leaf[0] for leaf in flat], one, rtol=1e-6, err_msg=name)
    # Of a process for each component, of the last axes.
    c = diffusion_path(jnp.array([1.0, 2.0])).coefficients(t, 2)
    assert c.f.shape == (3, 1)
    assert c.sigma.shape == (3, 2)


@pytest.mark.parametrize("name", PATHS)
def test_times_below_the_smallest_count_as_that(name):
    path = PATHS[name]
    for a, b in zip(path.coefficients(0.0), path.coefficients(1e-12 * path.T), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.isfinite(a)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", PATHS)
def test_low_precision_is_computed_in_float32(name, dtype):
    """Of times and of points: as if they had been float32 before."""
    path, key = PATHS[name], jax.random.key(0)
    t, x0 = jnp.array([0.25, 0.5], dtype), jnp.array([[1.0], [-0.5]], dtype)
    wide = path.sample(key, t.astype(jnp.float32), x0.astype(jnp.float32))
    narrow = path.sample(key, t, x0)
    for a, b in zip(narrow[2:], wide[2:], strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_array_equal(a, b)
    x = wide.x_t.astype(dtype)
    for method in (path.conditional_velocity, path.velocity_from_x0):
        found = method(t, x, x0)
        assert found.dtype == jnp.float32
        wider = (part.astype(jnp.float32) for part in (t, x, x0))
        np.testing.assert_array_equal(found, method(*wider))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kac_path(T=-1.0), "T must be positive and finite, got -1.0"),
        (lambda: kac_path(T="1"), "T must be a number or an array of numbers, got '1'"),
        (lambda: kac_path(a=float("nan")), "a must be positive and finite, got nan"),
        (lambda: kac_path(a="9"), "a must be a number"),
        (lambda: diffusion_path(sigma=0.0), "sigma must be positive and finite, got 0.0"),
        (lambda: kac_path(signal="sine"), "signal must be one of constant, cosine"),
        (lambda: kac_path(clock="t3"), "clock must be one of t, t2; got 't3'"),
        (lambda: ProbabilityPath("kac"), "process must be a kacjax.Process, got 'kac'"),
        (
            lambda: kac_path().sample(jax.random.key(0), jnp.ones(3), jnp.ones((2, 2))),
            "one time per datum",
        ),
        (
            lambda: kac_path().sample(jax.random.key(0), -jnp.ones(2), jnp.ones((2, 2))),
            "t must not be negative",
        ),
        (
            lambda: kac_path().sample(jax.random.key(0), jnp.array([0.5, 5.0]), jnp.ones((2, 2))),
            "t must not exceed T = 1.0, got 5.0",
        ),
        (
            lambda: kac_path().sample(jax.random.key(0), jnp.ones(2), jnp.ones((2, 2), int)),
            "x0 must hold floats, got int",
        ),
        (
            lambda: kac_path().sample(jax.random.key(0), jnp.ones(2), np.ones((2, 2)) * 1j),
            "x0 must hold floats, got complex",
        ),
        (
            lambda: kac_path().sample(jnp.ones(2), jax.random.key(0), jnp.ones((2, 2))),
            "t must|key must",
        ),
        (
            lambda: kac_path().velocity_from_x0(jnp.ones(2), jnp.ones((2, 2)), jnp.ones((2, 3))),
            r"x and x0 must have one shape \(batch, \*event\), got \(2, 2\), \(2, 3\)",
        ),
        (lambda: kac_path().sample_prior(jax.random.key(0), 5), "shape must be a tuple"),
    ],
)
def test_bad_arguments(call, message, without_hook):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_are_taken(without_hook):
    point = kac_path().sample(jax.random.key(0), [0.5, 0.7], [[1.0], [2.0]])
    assert point.x_t.shape == (2, 1)


@pytest.mark.long
def test_path_is_a_pytree_whose_parameters_are_traced():
    def variance(path: ProbabilityPath):
        return path.process.variance(path.coefficients(path.T).g)

    gradient = jax.grad(variance)(kac_path(9.0, 3.0))
    np.testing.assert_allclose(
        gradient.process.c, 2 * KacProcess(9.0, 3.0).variance(1.0) / 3, rtol=1e-5
    )


class Power(eqx.Module):
    """A signal that holds a number."""

    exponent: float = 2.0

    def __call__(self, u):
        return (1 - u) ** self.exponent


def test_a_signal_that_holds_a_number_generates_from_noise():
    """Its number is traced where noise is drawn, and what it is at T known all the same."""
    path, key = ProbabilityPath(KacProcess(), Power()), jax.random.key(0)
    noise = kacjax.initial_noise(path, key, (3, 2))
    np.testing.assert_array_equal(noise, kacjax.initial_noise(kac_path(), key, (3, 2)))
    still = lambda t, x: jnp.zeros_like(x)  # noqa: E731
    x = kacjax.generate(still, path, key, (3, 2), 2, coordinates="time")
    np.testing.assert_allclose(x, noise, rtol=1e-6)
    with pytest.raises(ValueError, match=r"numbers are traced.*approximate_prior=True"):
        eqx.filter_jit(lambda path: path.sample_prior(key, (3, 2)))(
            ProbabilityPath(KacProcess(), Power(jnp.asarray(2.0)))
        )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"signal": lambda u: 0.5 * (1 - u)}, "signal must be 1 at 0, .* with 0.5 there"),
        ({"clock": lambda u: 0.5 + u}, "clock must be 0 at 0, .* with 0.5 there"),
    ],
)
def test_schedules_begin_at_the_data(parts, message):
    with pytest.raises(ValueError, match=message):
        ProbabilityPath(KacProcess(), **parts)
