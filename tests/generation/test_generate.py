"""Generation against flows whose answer is known; chunks, devices, labels."""

import itertools
import os
import subprocess
import sys

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
    generate,
    guided,
    initial_noise,
    interpolate,
    kac_path,
    log_density,
    trajectory,
)
from kacjax.generation import solve
from tests.generation.flows import PATH, GaussianFlow, gaussian_velocity

pytestmark = pytest.mark.optimised

KEY = jax.random.key(0)


@pytest.mark.long
@pytest.mark.parametrize("power", [2.0, 3.0])
def test_euler_is_euler(power):
    """Against the loop written out; where the control is time, steps are its own."""
    steps = 9
    x = initial_noise(PATH, KEY, (6, 1))
    times = np.linspace(1, 0, steps + 1) ** power
    for t, after in itertools.pairwise(times):
        x = x + (after - t) * gaussian_velocity(jnp.full(6, t), x)
    options = {"solver": "euler", "grid_power": power}
    generated = generate(gaussian_velocity, PATH, KEY, (6, 1), steps, **options)
    np.testing.assert_allclose(generated, x, rtol=2e-3, atol=1e-5)
    # The same times, given one by one.
    given = generate(gaussian_velocity, PATH, KEY, (6, 1), times, solver="euler")
    np.testing.assert_allclose(given, x, rtol=1e-4, atol=1e-6)


def test_times_given_in_the_coordinate_of_time():
    """By Euler's method with the four steps of an array, or a list."""
    velocity = lambda t, x: x + t[:, None]  # noqa: E731
    times = [2.0, 1.5, 1.0, 0.25]
    path, x = kac_path(T=2.0), jnp.array([[1.0], [-2.0]])
    options = {"solver": "euler", "coordinates": "time"}
    found = solve(velocity, path, x, 2.0, 0.25, times, **options)
    np.testing.assert_array_equal(
        found, solve(velocity, path, x, 2.0, 0.25, np.array(times), **options)
    )
    for t, after in itertools.pairwise(times):
        x = x + (after - t) * (x + t)
    np.testing.assert_allclose(found, x, rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("maker", [kac_path, diffusion_path])
def test_point_data_are_reached_through_the_linear_field(maker):
    """For one datum the linear part of the velocity, known exactly, leads there for any path."""
    path, target = maker(), jnp.array([0.7, -0.2])

    def velocity(t, x):
        return path.velocity_from_x0(t, x, jnp.broadcast_to(target, x.shape))

    x = generate(velocity, path, KEY, (100, 2), 200, grid_power=4.0, coordinates="time")
    np.testing.assert_allclose(x, jnp.broadcast_to(target, x.shape), atol=2e-3)


@pytest.mark.long
def test_noise_of_a_sample_depends_on_its_number_alone():
    path = kac_path(signal="exponential")
    x0 = jax.random.normal(KEY, (7, 2, 3))
    noise = initial_noise(path, KEY, x0.shape, x0)
    np.testing.assert_array_equal(noise[:4], initial_noise(path, KEY, (4, 2, 3), x0[:4]))
    fourth = path.sample_prior(jax.random.fold_in(KEY, 4), (1, 2, 3), x0[4:5])
    np.testing.assert_allclose(noise[4], fourth[0], rtol=1e-6)


@pytest.mark.long
def test_under_jit_and_vmap():
    run = lambda key: generate(gaussian_velocity, PATH, key, (3, 1), 8)  # noqa: E731
    keys = jax.random.split(KEY, 2)
    expected = run(keys[1])
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], expected, rtol=1e-5)
    np.testing.assert_allclose(jax.jit(run)(keys[1]), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="chunk_size must be None under jit"):
        jax.jit(lambda key: generate(gaussian_velocity, PATH, key, (3, 1), chunk_size=2))(KEY)


class Scaled(eqx.Module):
    """A velocity with a parameter."""

    scale: jax.Array

    def __call__(self, t, x):
        return self.scale * x


@pytest.mark.parametrize("solver", ["euler", pytest.param("rk4", marks=pytest.mark.slow)])
def test_gradients_backward_and_forward(solver):
    """Of a velocity's parameter, through a pytree and through a closure, against the formula."""
    x_T = jnp.sum(initial_noise(PATH, KEY, (3, 1)))

    def end(scale, make=Scaled):
        options = {"solver": solver, "grid_power": 1.0}
        return jnp.sum(generate(make(scale), PATH, KEY, (3, 1), 8, **options))

    closure = lambda scale: end(scale, lambda v: lambda t, x: v * x)  # noqa: E731
    # Euler: (1 - s / 8)^8 x_T, up to the mesh; the last step goes to 0.
    expected = -((1 - 1 / 8) ** 7 if solver == "euler" else np.exp(-1)) * x_T
    for differentiate in (jax.grad(end), jax.grad(closure)):
        np.testing.assert_allclose(differentiate(1.0), expected, rtol=5e-3)
    if solver == "euler":
        found = jax.jit(jax.grad(end))(1.0)
        np.testing.assert_allclose(found, jax.grad(end)(1.0), rtol=1e-5)


@pytest.mark.slow
def test_gradients_of_many_steps_are_differences(x64):
    """In the noise's size too, through the default solver."""

    def end(sigma, scale):
        path = diffusion_path(sigma)
        return jnp.sum(generate(lambda t, x: scale * jnp.sin(x), path, KEY, (3, 1), 6) ** 2)

    slopes = jax.grad(end, (0, 1))(0.8, 1.3)
    h = 1e-5
    differences = (
        (end(0.8 + h, 1.3) - end(0.8 - h, 1.3)) / (2 * h),
        (end(0.8, 1.3 + h) - end(0.8, 1.3 - h)) / (2 * h),
    )
    np.testing.assert_allclose(slopes, differences, rtol=1e-6)


TRACED = {
    "velocity": lambda v: {"velocity": Scaled(v)},
    "function": lambda v: {"velocity": lambda t, x: v * x},
    "path": lambda v: {"path": kac_path(c=v)},
    "x0": lambda v: {"x0": v * jnp.ones((3, 1))},
    "grid_power": lambda v: {"grid_power": v},
}


@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
@pytest.mark.parametrize("traced", TRACED)
def test_chunks_are_refused_whatever_is_traced(traced, transform):
    def run(v):
        path = kac_path(signal="exponential") if traced == "x0" else PATH
        options = {"velocity": gaussian_velocity, "path": path, **TRACED[traced](v)}
        return generate(key=KEY, shape=(3, 1), steps=2, chunk_size=2, **options).sum()

    with pytest.raises(ValueError, match="chunk_size must be None under jit, vmap"):
        transform(run)(1.0)


def labelled_velocity(t, x, label):
    """Drifts apart by label, so that a label given to another sample is seen."""
    return gaussian_velocity(t, x) + label.astype(x.dtype)[:, None, None]


@pytest.mark.parametrize(
    ("solver", "steps"), [("euler", 4), pytest.param("tsit5", 1, marks=pytest.mark.slow)]
)
def test_chunks_change_nothing(solver, steps):
    """Neither samples nor counts: noise, labels and data of the prior stay with their sample."""
    path = kac_path(signal="exponential")
    x0 = np.asarray(jax.random.normal(KEY, (11, 2, 3)))
    labels = np.arange(11) % 4
    options = {"x0": x0, "labels": labels, "return_nfe": True, "solver": solver}

    def run(**others):
        return generate(labelled_velocity, path, KEY, x0.shape, steps, **options, **others)

    whole, nfe = run(per_sample_steps=True)
    for size in (4, 100):
        x, counts = run(chunk_size=size)
        assert isinstance(x, np.ndarray)
        np.testing.assert_allclose(x, whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(counts, nfe)


@pytest.mark.slow
def test_chunks_of_adaptive_steps_choose_them_for_each_sample():
    """Unless the opposite is asked for: then for each chunk, the last one filled up."""
    options = {"steps": 1, "solver": "tsit5", "return_nfe": True}
    flow = GaussianFlow(PATH)
    x, nfe = generate(flow, PATH, KEY, (5, 1), chunk_size=2, **options)
    whole, counts = generate(flow, PATH, KEY, (5, 1), per_sample_steps=True, **options)
    np.testing.assert_allclose(x, whole, rtol=1e-5)
    np.testing.assert_array_equal(np.broadcast_to(nfe, 5), counts)
    y, _ = generate(flow, PATH, KEY, (5, 1), chunk_size=2, per_sample_steps=False, **options)
    np.testing.assert_allclose(y, whole, atol=0.02)


def network_velocity(classes):
    network = kacjax.models.MLP(1, width=4, depth=1, classes=classes, rngs=nnx.Rngs(0))
    return kacjax.Velocity(network, PATH)


X = jnp.ones((2, 1))
LABELLED = {
    "generate": lambda velocity, labels: generate(
        velocity, PATH, KEY, (2, 1), 1, labels=labels, chunk_size=1
    ),
    "trajectory": lambda velocity, labels: trajectory(
        velocity, PATH, KEY, (2, 1), jnp.ones(1), 1, labels=labels
    ),
    "encode": lambda velocity, labels: encode(velocity, PATH, X, 1, labels=labels),
    "decode": lambda velocity, labels: decode(velocity, PATH, X, 1, labels=labels),
    "interpolate": lambda velocity, labels: interpolate(
        velocity, PATH, X, X, jnp.ones(1), 1, labels=labels
    ),
    "log_density": lambda velocity, labels: log_density(
        velocity, PATH, X, 1, solver="euler", labels=labels
    ),
}


@pytest.mark.parametrize("name", LABELLED)
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 4], r"labels must lie in 0\.\.3 \(3: no class\), got values from 0 to 4"),
        ([-1, 0], r"labels must lie in 0\.\.3 \(3: no class\), got values from -1 to 0"),
        ([0.0, 1.0], r"labels must be integers of shape \(2,\), got float64"),
        ([0, 1, 2], r"labels must be integers of shape \(2,\), got int64 of shape \(3,\)"),
    ],
)
def test_labels_beyond_the_classes_are_refused(name, labels, message):
    with pytest.raises(ValueError, match=message):
        LABELLED[name](network_velocity(3), np.array(labels))


@pytest.mark.long
def test_labels_of_other_velocities():
    """The null label is one of a network's; through guidance too; functions may know any number."""
    labels = np.array([0, 3])
    x = generate(network_velocity(3), PATH, KEY, (2, 1), 1, labels=labels)
    assert np.all(np.isfinite(x))
    with pytest.raises(ValueError, match="got values from 0 to 3"):
        generate(guided(network_velocity(2), 2.0, 2), PATH, KEY, (2, 1), 1, labels=labels)
    with pytest.raises(ValueError, match=r"null_label must lie in 0\.\.2, got 3"):
        guided(network_velocity(2), 2.0, 3)
    function = lambda t, x, label: x * label[:, None].astype(x.dtype)  # noqa: E731
    generate(function, PATH, KEY, (2, 1), 1, labels=labels * 100)
    with pytest.raises(ValueError, match="labels must not be negative, got values from -3 to 0"):
        generate(function, PATH, KEY, (2, 1), 1, labels=-labels)


@pytest.mark.long
def test_progress_is_shown_on_request(capsys):
    for progress in (False, True):
        generate(gaussian_velocity, PATH, KEY, (9, 1), 2, chunk_size=3, progress=progress)
        assert ("3/3" in capsys.readouterr().err) == progress


@pytest.mark.long
def test_a_mesh_of_one_device():
    """What needs no more devices; the last samples are filled up on others."""
    mesh = jax.make_mesh((1,), ("data",))
    options = {"steps": 3, "return_nfe": True}
    x, nfe = generate(gaussian_velocity, PATH, KEY, (5, 1), mesh=mesh, **options)
    y, count = generate(gaussian_velocity, PATH, KEY, (5, 1), **options)
    np.testing.assert_allclose(x, y, rtol=1e-6)
    assert int(nfe) == int(count) == 3


DEVICES = """
import jax, numpy as np
from kacjax import generate
from tests.generation.flows import PATH, gaussian_velocity
assert len(jax.devices()) == 8
key, labels = jax.random.key(0), np.arange(2000) % 5
velocity = lambda t, x, label: gaussian_velocity(t, x) + label[:, None]
def run(num=2000, **options):
    return generate(velocity, PATH, key, (num, 2), 8, labels=labels[:num], **options)
one = np.asarray(run())
mesh = jax.make_mesh((4, 2), ("data", "model"))
whole = run(mesh=mesh)
assert len(whole.sharding.device_set) == 8 and whole.shape == (2000, 2)
assert {shard.data.shape for shard in whole.addressable_shards} == {(250, 2)}
results = [whole, run(chunk_size=100), run(chunk_size=1000, mesh=mesh), run(chunk_size=99, mesh=mesh)]
for other in results:
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
np.testing.assert_allclose(run(1999, mesh=mesh), one[:1999], rtol=1e-5, atol=1e-6)
options = dict(solver="tsit5", return_nfe=True, chunk_size=500)
(x, nfe), (y, counts) = run(**options), run(mesh=mesh, **options)
np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
np.testing.assert_array_equal(nfe, counts)
"""


@pytest.mark.slow
def test_devices_and_chunk_sizes_change_nothing():
    """One device against eight simulated ones, chunks of 99, 100 and 1,000, 1,999 samples."""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk45"}, "must be one of ab2, dopri5, dopri8, euler, .*; got 'rk45'"),
        ({"coordinates": "polar"}, "coordinates must be one of straight, time; got 'polar'"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"steps": np.array([1.0])}, "steps must be an integer, or times from t0 to t1"),
        ({"steps": np.array([0.9, 0.0])}, "steps must be an integer, or times from t0 to t1"),
        ({"steps": np.array([1.0, 0.5])}, "steps must be an integer, or times from t0 to t1"),
        ({"steps": np.array([0.0, 1.0])}, r"steps must fall within \[0, 1.0\]"),
        ({"steps": np.array([1.0, -0.1])}, r"steps must fall within \[0, 1.0\]"),
        ({"grid_power": 0.0}, "grid_power must be positive and finite, got 0.0"),
        ({"solver": "tsit5", "rtol": 0.0}, "rtol must be positive"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
        ({"labels": np.zeros(3, int)}, r"labels must be integers of shape \(2,\)"),
        (
            {"x0": jnp.ones((3, 1))},
            r"x0 must hold floats of shape \(2, 1\), got float32 of \(3, 1\)",
        ),
        (
            {"shape": (0, 1)},
            r"shape must be \(num, \*event\), of sizes of at least 1, got \(0, 1\)",
        ),
        ({"path": kac_path(signal="constant")}, "does not vanish at T"),
        ({"velocity": lambda t, x: x[:, 0]}, "velocity must return shape"),
    ],
)
def test_bad_arguments(options, message):
    options = {
        "velocity": gaussian_velocity,
        "path": PATH,
        "key": KEY,
        "shape": (2, 1),
        **options,
    }
    with pytest.raises(ValueError, match=message):
        generate(**options)
