"""Straight coordinates: the change of variables, and what it does for the solvers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacjax
from kacjax import decode, encode, generate, initial_noise, kac_path, log_density, trajectory
from kacjax.generation.coordinates import make_coordinates
from kacjax.generation.encode import _density_slope

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)
PATHS = {
    "kac": kac_path(),
    "kac t2 cosine": kac_path(25.0, 2.0, T=2.0, signal="cosine", clock="t2"),
    "kac constant": kac_path(4.0, 1.0, signal="constant"),
    "diffusion": kacjax.diffusion_path(0.7),
    "flow matching": kacjax.flow_matching_path(),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
ending_in_noise = pytest.mark.parametrize("name", [n for n, p in PATHS.items() if p.prior_is_noise])


def towards(path, datum):
    """The velocity of a network that always predicts the same datum."""
    return lambda t, x: path.velocity_from_x0(t, x, jnp.broadcast_to(datum, x.shape))


def rho_at(path, t):
    """The control, written out."""
    c = path.coefficients(t)
    return c.sigma / (c.f + c.sigma)


@pytest.mark.long
@every_path
@pytest.mark.parametrize("precision", [32, 64])
def test_times_and_controls_are_found_again(path, precision):
    with jax.enable_x64(precision == 64):
        dtype = jnp.result_type(float)
        coordinates = make_coordinates(path, None)
        t = jnp.asarray(path.T * np.geomspace(1e-7, 1, 60), dtype)
        tau = coordinates.solver_time(t)
        assert tau.dtype == dtype
        np.testing.assert_allclose(coordinates.time(tau), t, rtol=8 * float(jnp.finfo(dtype).eps))
        np.testing.assert_allclose(coordinates.rho(tau), rho_at(path, t), rtol=1e-5)
        levels = jnp.asarray(np.geomspace(1e-5, 1, 30), dtype) * coordinates.rho(jnp.ones(()))
        found = coordinates.rho(coordinates.at_rho(levels))
        np.testing.assert_allclose(found, levels, rtol=2e-3)


@every_path
def test_the_control_rises_from_the_data_to_the_noise(path):
    coordinates = make_coordinates(path, None)
    rho = coordinates.rho(jnp.linspace(0, 1, 200))
    assert np.all(np.diff(rho) > 0)
    assert rho[0] == 0
    assert (rho[-1] == 1) == path.prior_is_noise


@settings(deadline=None, max_examples=10)
@given(
    a=st.floats(0.1, 100),
    c=st.floats(0.1, 20),
    T=st.floats(0.1, 5),
    clock=st.sampled_from(["t", "t2"]),
    signal=st.sampled_from(["linear", "cosine", "constant"]),
    part=st.floats(1e-3, 1),
)
def test_any_kac_path_has_them(a, c, T, clock, signal, part):
    path = kac_path(a, c, T, signal, clock)
    coordinates = make_coordinates(path, None)
    tau = coordinates.solver_time(jnp.asarray(part * T, jnp.float32))
    rho = coordinates.rho(tau)
    np.testing.assert_allclose(coordinates.rho(coordinates.at_rho(rho)), rho, rtol=5e-3)
    x = jnp.asarray([[0.3, -2.0]])
    c = path.coefficients(part * T)
    u = coordinates.scaled(tau, x, -1)
    np.testing.assert_allclose(u, x / (c.f + c.sigma), rtol=1e-5)
    np.testing.assert_allclose(coordinates.scaled(tau, u, 1), x, rtol=1e-6)


@every_path
def test_the_slope_is_the_chain_rule(path, x64):
    """Against automatic differentiation of u(tau) and rho(tau) along a solution."""
    coordinates = make_coordinates(path, None)
    x, v = jnp.array([[0.4, -1.0]]), jnp.array([[2.0, 0.7]])

    @jax.jit
    def both(t):
        tau, ones = coordinates.solver_time(t), (jnp.ones_like(t),)

        def u(tau):
            return coordinates.scaled(tau, x + (coordinates.time(tau) - t) * v, -1)

        u, u_prime = jax.jvp(u, (tau,), ones)
        _, rho_prime = jax.jvp(coordinates.rho, (tau,), ones)
        slope = coordinates.slope(tau, u, None, lambda t, x: v)
        return slope, u_prime / rho_prime

    for part in (1e-4, 0.03, 0.5, 0.9):
        slope, expected = both(jnp.asarray(part * path.T))
        np.testing.assert_allclose(slope, expected, rtol=1e-8)


@pytest.mark.long
@every_path
def test_the_divergence_is_the_trace_of_the_slope(path, x64):
    coordinates = make_coordinates(path, None)
    u, tau = jnp.array([[0.4, -1.0], [0.1, 0.2]]), jnp.asarray(0.6)
    velocity = lambda t, x: jnp.sin(x @ jnp.array([[1.0, 2.0], [-0.5, 3.0]])) * t[:, None]  # noqa: E731
    state = (u, jnp.zeros(2))
    slope, divergence = _density_slope(velocity, coordinates, tau, state, (None, None))
    np.testing.assert_allclose(slope, coordinates.slope(tau, u, None, velocity), rtol=1e-12)
    one = lambda u: coordinates.slope(tau, u[None], None, velocity)[0]  # noqa: E731
    np.testing.assert_allclose(divergence, [jnp.trace(jax.jacfwd(one)(row)) for row in u], 1e-10)


@pytest.mark.long
def test_flow_matching_is_straight_as_it_is():
    coordinates = make_coordinates(PATHS["flow matching"], None)
    t, x = jnp.linspace(0.01, 0.99, 9), jax.random.normal(KEY, (9, 2))
    np.testing.assert_allclose(coordinates.rho(jnp.sqrt(t)), t, rtol=1e-6)
    velocity = lambda t, x: jnp.sin(3 * x) + t[:, None]  # noqa: E731
    slope = coordinates.slope(jnp.asarray(0.4), x, None, velocity)
    np.testing.assert_allclose(slope, velocity(jnp.full(9, 0.16), x), rtol=1e-5)


@every_path
@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_steps_are_those_of_the_control(path, power):
    r"""rho_k = rho(T) (1 - k / n)^p, up to the mesh; from a later time, roots that are even."""
    coordinates = make_coordinates(path, None)
    taus = coordinates.grid(path.T, 0.0, 8, power)
    assert taus[0] == 1
    assert taus[-1] == 0
    levels = coordinates.rho(jnp.ones(())) * jnp.linspace(1, 0, 9) ** power
    np.testing.assert_allclose(coordinates.rho(taus[1:-1]), levels[1:-1], rtol=5e-3)
    taus = coordinates.grid(path.T, 0.3 * path.T, 8, power)
    np.testing.assert_allclose(taus[-1] ** 2, 0.3, rtol=1e-6)
    roots = coordinates.rho(taus) ** (1 / power)
    np.testing.assert_allclose(np.diff(roots), (roots[-1] - roots[0]) / 8, rtol=5e-3)


@pytest.mark.long
@ending_in_noise
def test_one_step_reaches_what_is_predicted(name):
    """As in time it does for flow matching only."""
    path, datum = PATHS[name], jnp.array([0.5, -0.3])
    x = generate(towards(path, datum), path, KEY, (20, 2), 1)
    np.testing.assert_allclose(x, jnp.broadcast_to(datum, x.shape), atol=2e-6)
    in_time = generate(
        towards(path, datum), path, KEY, (20, 2), 1, solver="euler", coordinates="time"
    )
    missed = float(np.max(np.abs(np.asarray(in_time) - np.asarray(datum))))
    assert (missed < 1e-5) == (name == "flow matching")


@pytest.mark.long
def test_euler_is_ddim(x64):
    r"""$x' = f' \hat x_0 + \sigma' (x - f \hat x_0) / \sigma$ at every step, written out."""
    path = kacjax.diffusion_path()
    predict = lambda x: jnp.tanh(2 * x)  # noqa: E731
    velocity = lambda t, x: path.velocity_from_x0(t, x, predict(x))  # noqa: E731
    times = jnp.array([1.0, 0.7, 0.3, 0.1, 0.01, 0.0])
    found = generate(velocity, path, KEY, (6, 2), times, solver="euler")
    x = initial_noise(path, KEY, (6, 2))
    for t, after in itertools.pairwise(times):
        data = predict(x)
        x = (1 - after) * data + jnp.sqrt(after / t) * (x - (1 - t) * data)
    np.testing.assert_allclose(found, x, atol=1e-9)


@pytest.mark.long
def test_two_steps_of_ab2_written_out(x64):
    """With steps of different lengths: the slope is extrapolated to the middle of the second."""
    path = kacjax.diffusion_path()
    velocity = lambda t, x: path.velocity_from_x0(t, x, jnp.tanh(2 * x))  # noqa: E731
    times = jnp.array([1.0, 0.7, 0.3])
    (found,) = trajectory(velocity, path, KEY, (6, 2), times[2:], [1.0, 0.7, 0.3, 0.0])
    r = np.sqrt(times) / (1 - times + np.sqrt(times))
    scale = 1 - times + np.sqrt(times)
    x = initial_noise(path, KEY, (6, 2))

    def slope(x, t):  # noise minus data
        data = jnp.tanh(2 * x)
        return (x - (1 - t) * data) / jnp.sqrt(t) - data

    first = slope(x, times[0])
    u = x / scale[0] + (r[1] - r[0]) * first
    second = slope(u * scale[1], times[1])
    h = r[2] - r[1]
    u = u + h * second + h**2 / (2 * (r[1] - r[0])) * (second - first)
    np.testing.assert_allclose(found, u * scale[2], atol=1e-9)


@pytest.mark.slow
@ending_in_noise
def test_the_coordinates_do_not_change_the_solution(name, x64):
    """Generated, on the way, back to the noise, and its log-density: all with small tolerance."""
    path = PATHS[name]
    velocity = lambda t, x: path.velocity_from_x0(t, x, 0.5 * jnp.tanh(3 * x))  # noqa: E731
    # Both coordinates at once where the way begins at t = 0.05: diffusion is infinitely fast before.
    options = {"solver": "dopri8", "rtol": 1e-8, "atol": 1e-8}
    t_min, noise = 0.05 * path.T, initial_noise(path, KEY, (7, 2))
    times = path.T * jnp.array([1.0, 0.6, 0.2])
    found = {}
    for coordinates in ("straight", "time"):
        options["coordinates"] = coordinates
        x = decode(velocity, path, noise, t_min=t_min, **options)
        back = encode(velocity, path, x, t_min=t_min, **options)
        density = log_density(velocity, path, x, t_min=t_min, **options)
        way = trajectory(velocity, path, KEY, (7, 2), times, **options)
        np.testing.assert_allclose(back, noise, atol=1e-5)
        found[coordinates] = x, density, way
    for straight, in_time in zip(found["straight"], found["time"], strict=True):
        np.testing.assert_allclose(straight, in_time, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [kacjax.diffusion_path, pytest.param(lambda a: kac_path(a, 2.0), marks=pytest.mark.slow)],
)
def test_samples_carry_derivatives_in_the_process(make, x64):
    """Of a trajectory, in sigma or in a, against a central difference."""

    @jax.jit
    def mean(parameter):
        path = make(parameter)
        velocity, half = towards(path, 0.3), jnp.array([0.4])
        return jnp.mean(trajectory(velocity, path, KEY, (5, 1), half, 2, solver="euler") ** 2)

    derivative = jax.jit(jax.grad(mean))(4.0)
    np.testing.assert_allclose(derivative, (mean(4.001) - mean(3.999)) / 0.002, rtol=1e-5)
    assert abs(derivative) > 1e-3


@pytest.mark.long
def test_a_process_for_each_component_is_solved_in_time():
    path = kac_path(a=jnp.array([4.0, 25.0]), c=jnp.array([2.0, 3.0]))
    assert not make_coordinates(path, None).straight
    assert make_coordinates(PATHS["kac"], None).straight
    velocity = lambda t, x: -x  # noqa: E731
    x = generate(velocity, path, KEY, (3, 2), 4)
    np.testing.assert_array_equal(x, generate(velocity, path, KEY, (3, 2), 4, coordinates="time"))
    way = trajectory(velocity, path, KEY, (3, 2), [1.0, 0.6, 0.0], 4)
    np.testing.assert_allclose(way[-1], x, rtol=1e-6)
    with pytest.raises(ValueError, match="coordinates must be 'time' where components"):
        generate(velocity, path, KEY, (3, 2), 4, coordinates="straight")


class _TwoDeviations(kacjax.Process):
    """A process of a user's, with another deviation in each of two components."""

    deviations: tuple = (0.5, 2.0)

    def from_normal(self, s, n):
        return jnp.asarray(self.deviations) * jnp.sqrt(s) * n

    def variance(self, s):
        return jnp.asarray(self.deviations) ** 2 * s


@pytest.mark.long
def test_numbers_do_not_make_a_process_one_of_one_component():
    assert not make_coordinates(kacjax.ProbabilityPath(_TwoDeviations()), None).straight
