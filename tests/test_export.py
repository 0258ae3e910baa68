"""Files of velocities and dictionaries of paths: exact round trips, and what is refused."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

import kacjax
from kacjax.export import load_notes, path_from_dict, path_to_dict
from kacjax.models import MLP
from kacjax.schedules import LinearSignal
from kacjax.training import NetworkVelocity

PATHS = {
    "kac": kacjax.kac_path(a=2.5, c=0.1, T=3.0, signal="cosine", clock="t2"),
    "kac by component": kacjax.kac_path(a=jnp.array([1.0, 0.1]), c=jnp.asarray(0.3)),
    "diffusion": kacjax.diffusion_path(sigma=1 / 3, signal="exponential"),
    "flow-matching": kacjax.flow_matching_path(),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_survive_json(name):
    path = PATHS[name]
    again = path_from_dict(json.loads(json.dumps(path_to_dict(path))))
    assert jax.tree.structure(again) == jax.tree.structure(path)
    for x, y in zip(jax.tree.leaves(path), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)


def test_only_known_paths_are_written():
    class Mine(kacjax.WienerProcess):
        """A process that files do not know."""

    path = kacjax.flow_matching_path()
    with pytest.raises(ValueError, match=r"process must be one of kac, wiener.*Mine"):
        path_to_dict(dataclasses.replace(path, process=Mine()))
    with pytest.raises(ValueError, match=r"must have the T of its path, 1\.0"):
        path_to_dict(dataclasses.replace(path, signal=LinearSignal(2.0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": -1.0}, "T must be positive"),
        ({"signal": "sine"}, "signal must be one of"),
        ({"process": {"name": "wave"}}, "process must be one of"),
        ({"process": {"name": "kac", "speed": 1.0}}, "do not describe a path.*speed"),
        ({"process": 3}, "do not describe a path"),
    ],
)
def test_wrong_descriptions_of_paths(change, message):
    with pytest.raises(ValueError, match=message):
        path_from_dict({**path_to_dict(PATHS["kac"]), **change})


def velocity(parameterisation="data", seed=0, path=None):
    """A small network with random numbers in every parameter, of all exponents."""
    graphdef, parameters = nnx.split(MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, fourier=3))
    bits = np.random.default_rng(seed)

    def fill(leaf):
        words = bits.integers(0, 2**32, leaf.shape, dtype=np.uint32).view(np.float32)
        return jnp.asarray(np.where(np.isfinite(words), words, 1))

    return NetworkVelocity(
        jax.tree.map(fill, parameters), path or PATHS["kac"], graphdef, parameterisation
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "velocity.safetensors"
    kacjax.save_velocity(file, velocity(), {"data": "moons"})
    return file


@pytest.mark.parametrize("parameterisation", ["data", "velocity"])
@pytest.mark.parametrize("name", ["kac", "flow-matching"])
def test_round_trip_is_exact(parameterisation, name, tmp_path):
    saved = velocity(parameterisation, path=PATHS[name])
    kacjax.save_velocity(tmp_path / "v.safetensors", saved)
    kacjax.save_velocity(tmp_path / "v.safetensors", saved)
    loaded = kacjax.load_velocity(tmp_path / "v.safetensors")
    assert jax.tree.structure(loaded) == jax.tree.structure(saved)
    for x, y in zip(jax.tree.leaves(saved), jax.tree.leaves(loaded), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.tobytes() == y.tobytes()
    assert [path.name for path in tmp_path.iterdir()] == ["v.safetensors"]


def test_three_lines_generate(tmp_path):
    model = MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    graphdef, parameters = nnx.split(model)
    path = kacjax.kac_path()
    kacjax.save_velocity(tmp_path / "v", NetworkVelocity(parameters, path, graphdef))
    loaded = kacjax.load_velocity(tmp_path / "v")
    options = {"coordinates": "time"}
    x = kacjax.generate(loaded, loaded.path, jax.random.key(0), (5, 2), 3, **options)
    # The untrained network is 0: samples are the noise they came from.
    np.testing.assert_array_equal(x, kacjax.initial_noise(path, jax.random.key(0), (5, 2)))


def test_notes(file):
    assert load_notes(file) == {"data": "moons"}


def test_every_flipped_byte_is_noticed(file, tmp_path):
    content, damaged = file.read_bytes(), tmp_path / "damaged"
    positions = {*range(0, len(content), 97), *range(64), len(content) - 1}
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 4
        damaged.write_bytes(flipped)
        with pytest.raises(ValueError, match=str(damaged)):
            kacjax.load_velocity(damaged)


@pytest.mark.parametrize("keep", [0, 7, 500, -1])
def test_truncated(keep, file, tmp_path):
    damaged = tmp_path / "damaged"
    damaged.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ValueError, match=f"{damaged} is damaged or no safetensors file"):
        kacjax.load_velocity(damaged)


def test_foreign_files(file, tmp_path):
    with pytest.raises(OSError, match="none"):
        kacjax.load_velocity(tmp_path / "none")
    (tmp_path / "text").write_text("years of work")
    with pytest.raises(ValueError, match="text is damaged or no safetensors file"):
        kacjax.load_velocity(tmp_path / "text")
    save_file({"x": np.ones(3)}, tmp_path / "other")
    with pytest.raises(ValueError, match="other is a safetensors file, but none of kacjax"):
        kacjax.load_velocity(tmp_path / "other")
    shutil.copy(file, tmp_path / "mixed")
    save_file(load_file(file), tmp_path / "mixed", {"kacjax": "0 {}"})
    with pytest.raises(ValueError, match="mixed is damaged"):
        kacjax.load_velocity(tmp_path / "mixed")


def test_foreign_networks_are_not_written(tmp_path):
    class Mine(nnx.Module):
        config: dict = {}  # noqa: RUF012

        def __call__(self, t, x):
            return x

    graphdef, parameters = nnx.split(Mine())
    with pytest.raises(ValueError, match=r"network among .*MLP.* got Mine"):
        kacjax.save_velocity(tmp_path / "v", NetworkVelocity(parameters, PATHS["kac"], graphdef))
    assert list(tmp_path.iterdir()) == []
