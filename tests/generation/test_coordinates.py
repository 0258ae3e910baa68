"""Straight coordinates: the change of variables, its inverse, and what it does for the solvers."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kacjax
from kacjax import decode, encode, generate, initial_noise, kac_path, log_density, trajectory
from kacjax.generation.coordinates import (
    FrameTable,
    StraightField,
    bend,
    frame_at,
    is_straightened,
    place,
    straighten,
    time_at,
)
from kacjax.generation.fields import VelocityField

KEY = jax.random.key(0)
PATHS = {
    "kac": kac_path(),
    "kac t2 cosine": kac_path(25.0, 2.0, T=2.0, signal="cosine", clock="t2"),
    "kac constant": kac_path(4.0, 1.0, signal="constant"),
    "diffusion": kacjax.diffusion_path(0.7),
    "flow matching": kacjax.flow_matching_path(),
}
every_path = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


def towards(path, datum):
    """The velocity of a network that always predicts the same datum."""
    return lambda t, x: path.velocity_from_data(t, x, jnp.broadcast_to(datum, x.shape))


@every_path
@pytest.mark.parametrize("precision", [32, 64])
def test_times_are_found_again(path, precision):
    """To 16 units in the last place, relative for early times, absolute for late ones."""
    with jax.enable_x64(precision == 64):
        dtype = jnp.result_type(float)
        tolerance = 16 * float(jnp.finfo(dtype).eps)
        t = jnp.asarray(path.T * np.append(np.geomspace(1e-7, 1, 60) ** 1.5, 0.99), dtype)
        t = t[place(path, t) > 1e-9]
        found = time_at(path, place(path, t))
        assert found.dtype == dtype
        np.testing.assert_allclose(found, t, rtol=2 * tolerance, atol=0)
        late = t > 0.5 * path.T
        np.testing.assert_allclose(found[late], t[late], rtol=0, atol=tolerance * path.T)


@every_path
def test_places_rise_from_the_data_to_the_noise(path):
    t = path.T * jnp.linspace(0, 1, 200)
    places = place(path, t)
    assert np.all(np.diff(places) > 0)
    assert places[0] == 0
    assert (places[-1] == 1) == path.signal.vanishes


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
    t = jnp.asarray(part * T, jnp.float32)
    np.testing.assert_allclose(time_at(path, place(path, t)), t, rtol=1e-4)
    x = jnp.asarray([0.3, -2.0])
    np.testing.assert_allclose(bend(path, t, straighten(path, t, x)), x, rtol=1e-6)


@every_path
def test_the_slope_is_the_chain_rule(path, x64):
    """Against automatic differentiation of u(t) and rho(t) along a solution; a density likewise."""
    x, v, change = jnp.array([[0.4, -1.0]]), jnp.array([[2.0, 0.7]]), jnp.array([3.0])
    field = StraightField(lambda t, state, args: (v, change), eqx.Partial(frame_at, path))

    @jax.jit
    def both(t):
        ones = (jnp.ones_like(t),)
        u, u_prime = jax.jvp(lambda s: straighten(path, s, x + (s - t) * v), (t,), ones)
        rho, rho_prime = jax.jvp(lambda s: place(path, s), (t,), ones)
        return field(rho[None], (u, change), None), (u_prime / rho_prime, change / rho_prime)

    for part in (1e-4, 0.03, 0.5, 0.9):
        for found, expected in zip(*both(jnp.asarray(part * path.T)), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-8)


@every_path
def test_a_table_holds_the_frames_of_its_places(path):
    """Also for places that a solver has rounded."""
    places = place(path, jnp.asarray(path.T)) * jnp.array([1.0, 0.4, 0.1, 1e-3])
    table = FrameTable(places, frame_at(path, places))
    for i, rounded in enumerate(places * (1 + 1e-6)):
        expected = frame_at(path, places[i])
        np.testing.assert_allclose(table(rounded), expected, rtol=1e-5)


def test_flow_matching_is_straight_as_it_is():
    path = PATHS["flow matching"]
    t, x = jnp.linspace(0.01, 0.99, 9), jax.random.normal(KEY, (9, 2))
    np.testing.assert_allclose(place(path, t), t, rtol=1e-6)
    velocity = lambda t, x: jnp.sin(3 * x) + t[:, None]  # noqa: E731
    slope = StraightField(VelocityField(velocity), eqx.Partial(frame_at, path))(
        t[:1].repeat(9), x, None
    )
    np.testing.assert_allclose(slope, velocity(t[:1].repeat(9), x), rtol=1e-5)


@every_path
def test_one_step_reaches_what_is_predicted(path):
    """As in time it does for flow matching only."""
    if not path.signal.vanishes:
        return
    datum = jnp.array([0.5, -0.3])
    x = generate(towards(path, datum), path, KEY, (20, 2), 1)
    np.testing.assert_allclose(x, jnp.broadcast_to(datum, x.shape), atol=2e-6)
    in_time = generate(
        towards(path, datum), path, KEY, (20, 2), 1, solver="euler", coordinates="time"
    )
    missed = float(np.max(np.abs(np.asarray(in_time) - np.asarray(datum))))
    assert (missed < 1e-5) == (path == PATHS["flow matching"])


def test_euler_is_ddim(x64):
    r"""$x' = f' \hat x_0 + \sigma' (x - f \hat x_0) / \sigma$ at every step, written out."""
    path, steps = kacjax.diffusion_path(), 5
    predict = lambda x: jnp.tanh(2 * x)  # noqa: E731
    velocity = lambda t, x: path.velocity_from_data(t, x, predict(x))  # noqa: E731
    found = generate(velocity, path, KEY, (6, 2), steps, solver="euler", power=2.0)
    x = initial_noise(path, KEY, (6, 2))
    times = time_at(path, jnp.linspace(1, 0, steps + 1) ** 2)
    for t, after in itertools.pairwise(times):
        data = predict(x)
        x = (1 - after) * data + jnp.sqrt(after / t) * (x - (1 - t) * data)
    np.testing.assert_allclose(found, x, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", PATHS)
def test_the_coordinates_do_not_change_the_solution(name, x64):
    """Generated, on the way, back to the noise, and its log-density: all with small tolerance."""
    path = PATHS[name]
    if not path.signal.vanishes:
        return
    velocity = lambda t, x: path.velocity_from_data(t, x, 0.5 * jnp.tanh(3 * x))  # noqa: E731
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


def test_a_process_for_each_component_is_solved_in_time():
    path = kac_path(a=jnp.array([4.0, 25.0]), c=jnp.array([2.0, 3.0]))
    assert not is_straightened(path)
    assert is_straightened(PATHS["kac"])
    velocity = lambda t, x: -x  # noqa: E731
    x = generate(velocity, path, KEY, (3, 2), 4)
    np.testing.assert_array_equal(x, generate(velocity, path, KEY, (3, 2), 4, coordinates="time"))
    with pytest.raises(ValueError, match="coordinates must be 'time' where components"):
        generate(velocity, path, KEY, (3, 2), 4, coordinates="straight")


class _TwoDeviations(kacjax.processes.Process):
    """A process of a user's, with another deviation in each of two components."""

    deviations: tuple = (0.5, 2.0)

    def transport(self, s, n):
        return jnp.asarray(self.deviations) * jnp.sqrt(s) * n

    def variance(self, s):
        return jnp.asarray(self.deviations) ** 2 * s


def test_numbers_do_not_make_a_process_one_of_one_component():
    path = kac_path()
    path = kacjax.ProbabilityPath(_TwoDeviations(), path.signal, path.clock, path.T)
    assert not is_straightened(path)
