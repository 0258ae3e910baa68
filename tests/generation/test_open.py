"""What a user brings: a process, a signal, a clock, a function; and numbers that compile nothing."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

import kacjax
from kacjax import (
    decode,
    diffusion_path,
    encode,
    exact_velocity,
    generate,
    guided,
    interpolate,
    kac_path,
    log_density,
    trajectory,
)
from kacjax.generation import solve
from kacjax.generation.coordinates import make_coordinates
from tests.generation.flows import PATH, GaussianFlow, counting, gaussian_velocity
from tests.processes.compilations import count_compilations

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)


class Bounded(kacjax.Process):
    """Uniform noise on an interval that grows to `b`."""

    b: float = 1.0

    def from_normal(self, s, n):
        return -self.b * jnp.expm1(-s / self.b) * (2 * ndtr(n) - 1)

    def variance(self, s):
        return (self.b * jnp.expm1(-s / self.b)) ** 2 / 3


OWN = {
    "process": kacjax.ProbabilityPath(Bounded(0.8)),
    "signal": kac_path(signal=lambda u: 1 - u**2),
    "clock": diffusion_path(clock=lambda u: (u + u**2) / 2),
    "all": kacjax.ProbabilityPath(
        Bounded(), lambda u: (1 - u) ** 2, lambda u: jnp.sin(jnp.pi * u / 2), T=1.5
    ),
}
DATA = jnp.array([[1.0, 0.0], [-1.0, 0.5], [0.3, -0.8]])


@pytest.mark.long
@pytest.mark.parametrize("name", OWN)
def test_own_processes_and_schedules_generate_in_straight_coordinates(name):
    path = OWN[name]
    assert make_coordinates(path, None).straight
    assert path.prior_is_noise
    # One step is exact for the velocity of one prediction.
    predicted = lambda t, x: path.velocity_from_x0(t, x, jnp.broadcast_to(DATA[0], x.shape))  # noqa: E731
    x = generate(predicted, path, KEY, (5, 2), 1)
    np.testing.assert_allclose(x, jnp.broadcast_to(DATA[0], x.shape), atol=5e-5)
    flow = GaussianFlow(path)
    noise = encode(flow, path, 0.3 * DATA, 100)
    np.testing.assert_allclose(flow.data(noise), 0.3 * DATA, atol=3e-3)
    np.testing.assert_allclose(decode(flow, path, noise, 100), 0.3 * DATA, atol=3e-3)


@pytest.mark.long
@pytest.mark.parametrize("name", ["process", "all"])
def test_the_exact_velocity_of_bounded_noise_is_finite(name):
    """Also where no datum's noise reaches: the nearest datum decides; all samples arrive."""
    path = OWN[name]
    velocity = exact_velocity(path, DATA)
    x = generate(velocity, path, KEY, (300, 2), 40)
    assert np.all(np.isfinite(x))
    distance = np.linalg.norm(np.asarray(x)[:, None] - DATA[None], axis=-1).min(axis=1)
    assert np.median(distance) < 1e-2
    far = velocity(jnp.array([0.1]), jnp.array([[30.0, -20.0]]))
    assert np.all(np.isfinite(far))


class Quadratic(kacjax.Process):
    """A variance like s^2, which underflows in float32 on the clock t2."""

    def from_normal(self, s, n):
        return s * n

    def variance(self, s):
        return s**2


@pytest.mark.slow
def test_a_variance_that_underflows_near_the_data():
    path = kacjax.ProbabilityPath(Quadratic(), clock="t2")
    t = jnp.array([0.0, 1e-12, 3e-10, 1e-6, 0.5])
    gain = path.x0_gain(t)
    assert np.all(np.isfinite(gain))
    # beta(s) = 1 / s and g = t^2: f' - g' beta f = -1 - 2 (1 - t) / t.
    np.testing.assert_allclose(gain[1:], (-1 - 2 * (1 - t) / t)[1:], rtol=1e-4)
    derivative = jax.grad(lambda t: jnp.sum(path.x0_gain(t)))(t)
    assert np.all(np.isfinite(derivative[3:]))
    x = generate(exact_velocity(path, DATA[:1]), path, KEY, (3, 2), 5)
    np.testing.assert_allclose(x, jnp.broadcast_to(DATA[0], x.shape), atol=1e-4)


CALLS = {
    "solve": lambda v, p: solve(v, p, DATA, 1.0, 0.2, 2),
    "generate": lambda v, p: generate(v, p, KEY, (2, 2), 2),
    "trajectory": lambda v, p: trajectory(v, p, KEY, (2, 2), jnp.ones(1), 2),
    "encode": lambda v, p: encode(v, p, DATA, 2),
    "decode": lambda v, p: decode(v, p, DATA, 2),
    "interpolate": lambda v, p: interpolate(v, p, DATA, DATA, jnp.ones(1), 2),
    "log_density": lambda v, p: log_density(v, p, DATA, 2),
}


@pytest.mark.long
@pytest.mark.parametrize("name", CALLS)
def test_a_velocity_that_knows_its_path_refuses_another(name):
    network = lambda t, x: 0.1 * x  # noqa: E731
    velocity = kacjax.Velocity(network, kac_path(9.0, 3.0))
    for path in (kac_path(9.0, 2.0), kac_path(9.0, 3.0, clock="t2"), diffusion_path()):
        for known in (velocity, guided(velocity, 2.0, 0), exact_velocity(kac_path(), DATA)):
            with pytest.raises(
                ValueError, match=r"(?s)^path must be that of the velocity, .*; got"
            ):
                CALLS[name](known, path)
    # The same numbers are the same path.
    if name != "interpolate":
        CALLS[name](velocity, kac_path(jnp.asarray(9), np.float32(3)))


@pytest.mark.slow
def test_functions_modules_and_partials_are_velocities():
    path, x = PATH, jnp.ones((2, 1))

    class Own:
        def __call__(self, t, x):
            return gaussian_velocity(t, x)

    class Module(eqx.Module):
        scale: float = 1.0

        def __call__(self, t, x):
            return self.scale * gaussian_velocity(t, x)

    expected = decode(gaussian_velocity, path, x, 3)
    for velocity in (Own(), Module(), Own().__call__, jax.jit(gaussian_velocity)):
        np.testing.assert_allclose(decode(velocity, path, x, 3), expected, rtol=1e-6)


@pytest.mark.long
def test_one_compilation_for_all_paths_of_a_kind():
    """And all seeds, powers and tolerances; another shape, kind or number of steps is another."""
    velocity, traces = counting(lambda t, x: -x)
    run = lambda path, seed=0, shape=(4, 1), **options: generate(  # noqa: E731
        velocity, path, jax.random.key(seed), shape, **{"steps": 5, **options}
    )
    run(kac_path(2.0, 1.0))
    once = len(traces)
    assert once > 0
    run(kac_path(3.0, 1.5))  # Of the operations outside of programs, too.
    with count_compilations() as compiled:
        for seed, path in enumerate((kac_path(9.0, 3.0), kac_path(25, 2), kac_path(1.0, T=0.5))):
            run(path, seed, grid_power=2.0 + seed)
    assert len(traces) == once
    assert not compiled
    run(diffusion_path())
    twice = len(traces)
    assert twice > once
    for sigma in (0.3, jnp.asarray(0.5), 2):
        run(diffusion_path(sigma))
    assert len(traces) == twice
    run(diffusion_path(), shape=(5, 1))
    thrice = len(traces)
    assert thrice > twice
    # Chunks of one shape share one, the last one too.
    run(diffusion_path(), shape=(13, 1), chunk_size=5)
    assert len(traces) == thrice
    run(diffusion_path(), solver="tsit5", rtol=1e-3)
    before = len(traces)
    run(diffusion_path(), solver="tsit5", rtol=1e-4, atol=1e-5)
    assert len(traces) == before


class Scaled(eqx.Module):
    """A velocity with a parameter that is a number of Python's."""

    scale: float

    def __call__(self, t, x):
        SCALED.append(1)
        return self.scale * x


SCALED = []


@pytest.mark.long
@pytest.mark.parametrize(
    "call",
    [
        lambda v: encode(v, PATH, DATA, 2, t_min=0.1 * v.scale),
        lambda v: decode(v, PATH, DATA, 2),
        lambda v: solve(v, PATH, DATA, 1.0, 0.2, np.array([1.0, 0.2 + 0.1 * v.scale, 0.2])),
        lambda v: log_density(v, PATH, DATA, 2),
        lambda v: trajectory(v, PATH, KEY, (2, 2), [1.0, 0.2 * v.scale], 2),
        lambda v: interpolate(v, PATH, DATA, DATA, [0.2 * v.scale], 2),
    ],
    ids=["encode", "decode", "solve", "log_density", "trajectory", "interpolate"],
)
def test_numbers_compile_nothing_anew(call):
    call(Scaled(0.5))
    once, SCALED[:] = len(SCALED), []
    assert once > 0
    results = [call(Scaled(scale)) for scale in (0.6, 0.7)]
    assert not SCALED
    assert not np.allclose(*results)


def test_the_exact_velocity_compiles_once_for_all_numbers():
    """Of the path, the width, the data's deviation."""
    t, x = jnp.array([0.5]), jnp.zeros((1, 2))
    exact_velocity(kac_path(4.0, 1.0), DATA, width=0.2)(t, x)
    exact_velocity(diffusion_path(0.4), DATA, std=0.2)(t, x)
    with count_compilations() as compiled:
        for number in (0.1, 0.3, 0.7):
            exact_velocity(kac_path(9.0 * number, 3.0), DATA, width=number)(t, x)
            exact_velocity(diffusion_path(number), DATA, std=number)(t, x)
    assert not compiled


@pytest.mark.long
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_low_precision_is_computed_in_float32(dtype):
    x, flow = (0.1 * DATA).astype(dtype), GaussianFlow(PATH)
    wide = x.astype(jnp.float32)
    options = {"steps": 20}
    for call in (encode, decode, log_density):
        found, expected = call(flow, PATH, x, **options), call(flow, PATH, wide, **options)
        assert found.dtype == jnp.float32
        np.testing.assert_array_equal(found, expected)
    found = interpolate(flow, PATH, x, x, [0.5], **options)
    np.testing.assert_allclose(found[0], wide, atol=5e-3)
    velocity = exact_velocity(PATH, DATA.astype(dtype))
    t = jnp.array([0.5, 0.1, 0.9])
    assert velocity(t.astype(dtype), x).dtype == jnp.float32
    np.testing.assert_allclose(
        velocity(t, x), exact_velocity(PATH, DATA.astype(dtype).astype(jnp.float32))(t, wide)
    )
    path = kac_path(signal="exponential")
    prior = path.sample_prior(KEY, x.shape, x)
    assert prior.dtype == jnp.float32
    noise = kacjax.initial_noise(path, KEY, x.shape, x)
    assert noise.dtype == jnp.float32
    still = lambda t, x: jnp.zeros_like(x)  # noqa: E731
    assert generate(still, path, KEY, x.shape, 2, x0=x).dtype == jnp.float32
    point = path.sample(KEY, t.astype(dtype), x)
    assert point.x_t.dtype == point.velocity.dtype == jnp.float32


@pytest.mark.slow
def test_a_network_of_low_precision():
    """Its output is taken into the precision of the points."""
    narrow = lambda t, x: gaussian_velocity(t, x).astype(jnp.bfloat16)  # noqa: E731
    x = generate(narrow, PATH, KEY, (4, 2), 10)
    assert x.dtype == jnp.float32
    np.testing.assert_allclose(x, generate(gaussian_velocity, PATH, KEY, (4, 2), 10), atol=0.02)


LABELS = lambda t, x, label: x * label[:, None].astype(x.dtype)  # noqa: E731


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: generate(LABELS, PATH, KEY, (2, 1), 1, labels=1), "labels must be integers of sh"),
        (
            lambda: generate(gaussian_velocity, PATH, KEY, (), 1),
            r"shape must be \(num, \*event\), of sizes of at least 1, got \(\)",
        ),
        (lambda: generate(gaussian_velocity, PATH, KEY, 5, 1), "shape must be a tuple"),
        (
            lambda: generate(gaussian_velocity, PATH, (2, 1), KEY, 1),
            "key must be one jax.random.key",
        ),
        (lambda: generate(gaussian_velocity, PATH, 0, (2, 1), 1), "key must be one jax.random.key"),
        (lambda: generate(gaussian_velocity, KEY, PATH, (2, 1), 1), "path must be"),
        (lambda: encode(gaussian_velocity, PATH, 1.0, 1), "x must hold floats of shape"),
        (lambda: encode(gaussian_velocity, PATH, [["a"]], 1), "x must hold floats"),
        (lambda: encode(gaussian_velocity, PATH, np.ones((2, 1)) * 1j, 1), "x must hold floats"),
        (
            lambda: encode(gaussian_velocity, PATH, jnp.ones((2, 1)), t_min="0"),
            "t0 must be a number",
        ),
        (lambda: encode(gaussian_velocity, PATH, jnp.ones((2, 1)), t_min=-1), "t0 must not be neg"),
        (
            lambda: generate(gaussian_velocity, PATH, KEY, (2, 1), 2.5),
            "steps must be a vector of times",
        ),
        (lambda: generate(3, PATH, KEY, (2, 1), 1), "velocity must be"),
        (
            lambda: generate(
                gaussian_velocity,
                kac_path(signal="constant"),
                KEY,
                (2, 1),
                x0=[[1.0], [2]],
                steps=0,
            ),
            "steps must be an integer of at least 1, got 0",
        ),
    ],
)
def test_odd_input_is_refused_at_the_door(call, message, without_hook):
    with pytest.raises((ValueError, TypeError), match=message) as info:
        call()
    assert len(str(info.value).splitlines()) == 1


@pytest.mark.slow
def test_odd_input_that_is_taken(without_hook):
    """Lists for points, times and labels, arrays of NumPy of 64 bits, without a warning."""
    import warnings

    x = np.ones((2, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = decode(gaussian_velocity, PATH, jnp.asarray(x, jnp.float32), 2)
        for points in (x, [[1.0], [1.0]], x.astype(np.float16)):
            np.testing.assert_allclose(decode(gaussian_velocity, PATH, points, 2), expected)
        generate(LABELS, PATH, KEY, (2, 1), 1, labels=[0, 1])
        generate(LABELS, PATH, KEY, [2, 1], 1, labels=np.array([0, 1], np.uint8))
        path = kac_path(signal="constant")
        generate(gaussian_velocity, path, KEY, (2, 1), 1, x0=[[1.0], [2.0]])
        generate(gaussian_velocity, path, KEY, (2, 1), 1, x0=x)


@pytest.mark.long
def test_a_misspelt_option_is_answered_by_the_right_one():
    for call in (encode, decode, log_density):
        with pytest.raises(TypeError, match="no option 'solvr'; the nearest is 'solver'"):
            call(gaussian_velocity, PATH, jnp.ones((2, 1)), 2, solvr="heun")
