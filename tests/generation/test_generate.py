"""Generation against flows whose answer is known; chunks, devices, labels."""

import itertools
import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from kacjax import (
    decode,
    diffusion_path,
    encode,
    generate,
    generate_chunks,
    guided,
    initial_noise,
    interpolate,
    kac_path,
    log_density,
    trajectory,
)
from kacjax.generation import default_grid
from kacjax.models import MLP
from kacjax.training import NetworkVelocity
from tests.generation.flows import PATH, gaussian_velocity

KEY = jax.random.key(0)


def test_euler_is_euler():
    """Against the loop written out, on the path's default grid."""
    steps = 9
    x = initial_noise(PATH, KEY, (6, 1))
    times = np.linspace(1, 0, steps + 1) ** default_grid(PATH)[1]
    for t, after in itertools.pairwise(times):
        x = x + (after - t) * gaussian_velocity(jnp.full(6, t), x)
    generated = generate(gaussian_velocity, PATH, KEY, (6, 1), steps, solver="euler")
    np.testing.assert_allclose(generated, x, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("maker", [kac_path, diffusion_path])
def test_point_data_are_reached_through_the_linear_field(maker):
    """For one datum the linear part of the velocity, known exactly, leads there for any path."""
    path, target = maker(), jnp.array([0.7, -0.2])

    def velocity(t, x):
        return path.velocity_from_data(t, x, jnp.broadcast_to(target, x.shape))

    x = generate(velocity, path, KEY, (100, 2), 200, power=4.0)
    np.testing.assert_allclose(x, jnp.broadcast_to(target, x.shape), atol=2e-3)


def test_noise_of_a_sample_depends_on_its_number_alone():
    path = kac_path(signal="exponential")
    x0 = jax.random.normal(KEY, (7, 2, 3))
    noise = initial_noise(path, KEY, x0.shape, x0)
    np.testing.assert_array_equal(noise[:4], initial_noise(path, KEY, (4, 2, 3), x0[:4]))
    fourth = path.sample_prior(jax.random.fold_in(KEY, 4), (1, 2, 3), x0[4:5])
    np.testing.assert_allclose(noise[4], fourth[0], rtol=1e-6)


def test_one_compilation_per_shape():
    traces = []

    def velocity(t, x):
        traces.append(1)
        return -x

    for seed in range(3):
        generate(velocity, PATH, jax.random.key(seed), (4, 1), 5)
    once = len(traces)
    generate(velocity, PATH, jax.random.key(9), (4, 1), 5)
    assert len(traces) == once
    generate(velocity, PATH, jax.random.key(9), (5, 1), 5)
    again = len(traces)
    assert again > once
    # Chunks of one shape share one, the last one too.
    generate(velocity, PATH, KEY, (13, 1), 5, chunk_size=5)
    assert len(traces) == again
    # And so do all paths.
    for path in (kac_path(2.0, 1.0, T=0.5, clock="t2"), diffusion_path()):
        generate(velocity, path, KEY, (4, 1), 5)
    assert len(traces) == again


def test_under_jit_vmap_and_grad():
    run = lambda key: generate(gaussian_velocity, PATH, key, (3, 1), 8)  # noqa: E731
    keys = jax.random.split(KEY, 2)
    np.testing.assert_allclose(jax.vmap(run)(keys)[1], jax.jit(run)(keys[1]), rtol=1e-5)

    def end(scale):
        options = {"solver": "euler", "grid": "uniform"}
        return jnp.sum(generate(lambda t, x: scale * x, PATH, keys[0], (3, 1), 8, **options))

    x_T = jnp.sum(initial_noise(PATH, keys[0], (3, 1)))
    np.testing.assert_allclose(jax.grad(end)(1.0), -8 / 8 * (1 - 1 / 8) ** 7 * x_T, rtol=1e-4)
    with pytest.raises(ValueError, match="chunk_size must be None under jit"):
        jax.jit(lambda key: generate(gaussian_velocity, PATH, key, (3, 1), chunk_size=2))(KEY)


class Scaled(eqx.Module):
    """A velocity with a parameter."""

    scale: jax.Array

    def __call__(self, t, x):
        return self.scale * x


TRACED = {
    "velocity": lambda v: {"velocity": Scaled(v)},
    "function": lambda v: {"velocity": lambda t, x: v * x},
    "path": lambda v: {"path": kac_path(c=v)},
    "x0": lambda v: {"x0": v * jnp.ones((3, 1))},
    "power": lambda v: {"power": v},
}


@pytest.mark.parametrize("transform", [jax.jit, jax.grad])
@pytest.mark.parametrize("traced", TRACED)
def test_chunks_are_refused_whatever_is_traced(traced, transform):
    def run(v):
        options = {"velocity": gaussian_velocity, "path": PATH, **TRACED[traced](v)}
        return generate(key=KEY, shape=(3, 1), steps=2, chunk_size=2, **options).sum()

    with pytest.raises(ValueError, match="chunk_size must be None under jit, vmap and grad"):
        transform(run)(1.0)


def test_a_list_of_chunks_is_refused_at_once():
    with pytest.raises(ValueError, match="chunk_size must be None under jit"):
        jax.grad(lambda v: generate_chunks(Scaled(v), PATH, KEY, (3, 1), chunk_size=2))(1.0)


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
    options = {"x0": x0, "labels": labels, "return_nfe": True}
    whole, nfe = generate(
        labelled_velocity,
        path,
        KEY,
        x0.shape,
        steps,
        solver=solver,
        control="sample",
        **options,
    )
    for size in (4, 100):
        x, counts = generate(
            labelled_velocity,
            path,
            KEY,
            x0.shape,
            steps,
            solver=solver,
            chunk_size=size,
            **options,
        )
        assert isinstance(x, np.ndarray)
        np.testing.assert_allclose(x, whole, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(counts, nfe)
    parts = list(
        generate_chunks(
            labelled_velocity, path, KEY, x0.shape, 4, chunk_size=4, x0=x0, labels=labels
        )
    )
    assert [len(part) for part in parts] == [4, 4, 3]
    fixed = generate(labelled_velocity, path, KEY, x0.shape, 4, x0=x0, labels=labels)
    np.testing.assert_allclose(np.concatenate(parts), fixed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("options", [{"control": None}, {"control": "joint"}])
def test_chunks_one_by_one_are_those_of_generate(options):
    """Of tsit5, whose steps depend on the control."""
    options = {"steps": 1, "solver": "tsit5", "chunk_size": 2, **options}
    parts = generate_chunks(gaussian_velocity, PATH, KEY, (5, 1), **options)
    whole, nfe = generate(gaussian_velocity, PATH, KEY, (5, 1), return_nfe=True, **options)
    np.testing.assert_array_equal(np.concatenate(list(parts)), whole)
    assert nfe.shape == (5,)
    assert np.all(nfe > 6)


def network_velocity(classes):
    graphdef, parameters = nnx.split(MLP(1, width=4, depth=1, classes=classes, rngs=nnx.Rngs(0)))
    return NetworkVelocity(parameters, PATH, graphdef)


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
        ([0.0, 1.0], "labels must be integers, got float64"),
    ],
)
def test_labels_beyond_the_classes_are_refused(name, labels, message):
    with pytest.raises(ValueError, match=message):
        LABELLED[name](network_velocity(3), np.array(labels))


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


def test_progress_is_shown_on_request(capsys):
    for progress in (False, True):
        generate(gaussian_velocity, PATH, KEY, (9, 1), 2, chunk_size=3, progress=progress)
        assert ("3/3" in capsys.readouterr().err) == progress


DEVICES = """
import jax, numpy as np
from kacjax import generate
from tests.generation.flows import PATH, gaussian_velocity
assert len(jax.devices()) == 8
key, labels = jax.random.key(0), np.arange(2000) % 5
velocity = lambda t, x, label: gaussian_velocity(t, x) + label[:, None]
def run(**options):
    return generate(velocity, PATH, key, (2000, 2), 8, labels=labels, **options)
one = np.asarray(run())
mesh = jax.make_mesh((4, 2), ("data", "model"))
whole = run(mesh=mesh)
assert len(whole.sharding.device_set) == 8 and whole.shape == (2000, 2)
assert {shard.data.shape for shard in whole.addressable_shards} == {(250, 2)}
results = [whole, run(chunk_size=100), run(chunk_size=1000, mesh=mesh), run(chunk_size=99, mesh=mesh)]
for other in results:
    np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)
options = dict(solver="tsit5", return_nfe=True, chunk_size=500)
(x, nfe), (y, counts) = run(**options), run(mesh=mesh, **options)
np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
np.testing.assert_array_equal(nfe, counts)
"""


@pytest.mark.slow
def test_devices_and_chunk_sizes_change_nothing():
    """One device against eight simulated ones, chunks of 99, 100 and 1,000."""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        env=dict(__import__("os").environ) | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "rk45"}, "solver must be one of ab2, dopri5, dopri8, euler, .*; got 'rk45'"),
        ({"coordinates": "polar"}, "coordinates must be one of straight, time; got 'polar'"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"grid": "log"}, "grid must be one of power, uniform"),
        ({"solver": "tsit5", "rtol": 0.0}, "rtol must be positive"),
        ({"control": "batch"}, "control must be one of joint, sample; got 'batch'"),
        ({"chunk_size": 0}, "chunk_size must be an integer of at least 1, got 0"),
        ({"labels": np.zeros(3, int)}, "labels must hold one label per sample"),
        ({"x0": jnp.ones((3, 1))}, r"x0 must have the shape \(2, 1\), got \(3, 1\)"),
        ({"shape": (0, 1)}, r"shape\[0\] must be an integer of at least 1, got 0"),
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
