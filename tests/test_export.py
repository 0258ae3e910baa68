"""Files of velocities and dictionaries of paths: exact round trips, and what is refused."""

import dataclasses
import json
import pathlib
import shutil

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from safetensors.numpy import load_file, save_file

import kacjax
from kacjax.export import load_notes, path_from_dict, path_to_dict, register
from kacjax.export.velocity import _digest, _read
from kacjax.models import MLP, UNet, blank
from kacjax.predictions import EDMPrediction
from kacjax.schedules import LinearClock
from kacjax.velocity import NNXNetwork, Velocity, wrap_network


@register
class Ramp(eqx.Module):
    """A part of a process."""

    knots: jax.Array
    names: tuple[str, ...] = eqx.field(static=True)


@register
class Uniform(kacjax.Process):
    """A process of a user: uniform on (-speed s, speed s)."""

    speed: float
    ramp: Ramp
    counts: jax.Array
    parts: list
    note: str | None = eqx.field(static=True, default=None)

    def from_normal(self, s, n):
        return self.speed * s * (2 * jax.scipy.special.ndtr(n) - 1)

    def variance(self, s):
        return (self.speed * s) ** 2 / 3


@register
class Power(eqx.Module):
    """A clock of a user."""

    exponent: float

    def __call__(self, u):
        return u**self.exponent


UNIFORM = Uniform(
    0.7, Ramp(jnp.arange(3.0), ("a", "b")), jnp.array([[1, 2]], jnp.uint8), [1, jnp.ones(2)]
)

PATHS = {
    "kac": kacjax.kac_path(a=2.5, c=0.1, T=3.0, signal="cosine", clock="t2"),
    "kac by component": kacjax.kac_path(a=jnp.array([1.0, 0.1]), c=jnp.asarray(0.3)),
    "diffusion": kacjax.diffusion_path(sigma=1 / 3, T=0.1, signal="exponential"),
    "constant": kacjax.diffusion_path(signal="constant"),
    "flow-matching": kacjax.flow_matching_path(),
    "vp": kacjax.vp_path(),
    "linear-beta": kacjax.vp_path("linear-beta", 0.2, 15.0),
    "edm": kacjax.edm_path(40.0),
    "own": kacjax.ProbabilityPath(UNIFORM, clock=Power(1.7), T=0.3),
}


def same(one, two):
    """Equal structure, and equal bits in all that is an array."""
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            assert x.dtype == y.dtype
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype != object:  # An activation function.
            assert (x.dtype, x.shape) == (y.dtype, y.shape)
            assert x.tobytes() == y.tobytes()


@pytest.mark.parametrize("name", PATHS)
def test_paths_survive_json(name):
    path = PATHS[name]
    again = path_from_dict(json.loads(json.dumps(path_to_dict(path))))
    assert jax.tree.structure(again) == jax.tree.structure(path)
    for x, y in zip(jax.tree.leaves(path), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(x, y)
        if np.ndim(x):
            assert x.dtype == y.dtype
    if name != "kac by component":
        assert repr(again) == repr(path)


def test_lists_that_are_written_by_hand_are_arrays():
    values = {"class": "ProbabilityPath", "process": {"class": "KacProcess", "a": [1, 2.5]}}
    path = path_from_dict({**values, "clock": "t2"})
    same(path, kacjax.kac_path(a=jnp.array([1.0, 2.5]), clock="t2"))


def test_floats_of_64_bits_survive(x64):
    path = kacjax.kac_path(a=jnp.array([1 / 3, 0.1]), c=0.1)
    same(path_from_dict(json.loads(json.dumps(path_to_dict(path)))), path)
    assert path.process.a.dtype == jnp.float64


def test_only_registered_parts_are_written():
    class Mine(kacjax.WienerProcess):
        """A process that files do not know."""

    path = kacjax.flow_matching_path()
    message = r"path\.process is a Mine, .*@kacjax\.export\.register"
    with pytest.raises(ValueError, match=message):
        path_to_dict(dataclasses.replace(path, process=Mine()))
    with pytest.raises(ValueError, match=r"path\.clock is a function.*register"):
        path_to_dict(dataclasses.replace(path, clock=lambda u: u))
    for counts in (jax.random.key(0), jnp.ones(2, jnp.complex64)):
        process = dataclasses.replace(UNIFORM, counts=counts)
        with pytest.raises(ValueError, match=r"path\.process\.counts is a .*Array"):
            path_to_dict(dataclasses.replace(path, process=process))


def test_register():
    with pytest.raises(ValueError, match=r"must have a name of its own, but .*Power.*locals"):

        @register
        class Power(eqx.Module):
            """Another."""

    # As a cell of a notebook that is run again does it.
    again = type("Power", (eqx.Module,), {"__module__": __name__, "__qualname__": "Power"})
    try:
        assert register(again) is again
    finally:
        register(globals()["Power"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"T": -1.0}, "T must be positive"),
        ({"T": [1.0]}, "values must describe a path"),
        ({"process": {"class": "KacProcess", "a": ["x"]}}, "x"),
        ({"process": {"class": "KacProcess", "a": [1.0, -1.0]}}, "a must be positive"),
        ({"T": "1"}, "values must describe a path"),
        ({"T": None}, "values must describe a path"),
        ({"signal": "sine"}, "signal must be one of"),
        ({"signal": 3}, "signal"),
        ({"process": {"class": "wave"}}, "class must be one of .*KacProcess.*wave"),
        ({"process": {"class": ["wave"]}}, "class must be one of"),
        ({"process": {"class": "KacProcess", "speed": 1.0}}, "values must describe a path.*speed"),
        (
            {"process": {"class": "KacProcess", "a": {"array": "x", "dtype": "int3"}}},
            "values must describe",
        ),
        ({"process": 3}, "process"),
        ({"class": "LinearClock"}, "values must describe a path"),
        ({"class": None}, "class must be one of"),
    ],
)
def test_wrong_descriptions_of_paths(change, message):
    with pytest.raises(ValueError, match=message):
        path_from_dict({**path_to_dict(PATHS["kac"]), **change})


def shuffled(network, seed=0):
    """A network with random numbers in every array, of all exponents."""
    bits = np.random.default_rng(seed)

    def fill(leaf):
        if not eqx.is_inexact_array(leaf):
            return leaf
        number = np.uint16 if leaf.dtype.itemsize == 2 else np.uint32
        words = bits.integers(0, np.iinfo(number).max, leaf.shape, dtype=number).view(leaf.dtype)
        return jnp.asarray(
            np.where(np.isfinite(words.astype(np.float32)), words, np.ones((), leaf.dtype))
        )

    return jax.tree.map(fill, network)


def mlp(**options):
    return MLP(2, rngs=nnx.Rngs(0), **{"width": 8, "depth": 1, "fourier": 3, **options})


def velocity(prediction="x0", path=None, network=None, **options):
    path = path or PATHS["kac"]
    network = shuffled(wrap_network(network or mlp(T=float(path.T))))
    return Velocity(network, path, prediction, **options)


@register
class Net(nnx.Module):
    """A network of a user in Flax NNX, with variables that are not trained."""

    def __init__(self, width, *, rngs, labels=()):
        self.config = {"width": width, "labels": list(labels)}
        self.frequencies = nnx.Variable(jnp.linspace(1, 2, width))
        self.layer = nnx.Linear(2, width, rngs=rngs)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, 2, rngs=rngs)

    def __call__(self, t, x):
        h = self.norm(self.layer(x)) * self.frequencies[...][None]
        return self.last(self.dropout(h)) + t[:, None]


@register
class Dense(eqx.Module):
    """A network of a user in Equinox."""

    layers: eqx.nn.MLP
    dropout: eqx.nn.Dropout
    width: int = eqx.field(static=True)

    def __init__(self, width, *, key):
        self.width = width
        self.layers = eqx.nn.MLP(2, 2, width, 1, activation=jnp.tanh, key=key)
        self.dropout = eqx.nn.Dropout(0.5)

    @property
    def config(self):
        return {"width": self.width}

    def __call__(self, t, x):
        return self.dropout(jax.vmap(self.layers)(x)) + t[:, None]


@register
class Bound(linen.Module):
    """A network of a user in Flax Linen."""

    width: int

    @property
    def config(self):
        return {"width": self.width}

    @linen.compact
    def __call__(self, t, x):
        scale = self.variable("constants", "scale", lambda: jnp.full((), 3.0))
        return linen.Dense(2)(jnp.tanh(linen.Dense(self.width)(x))) * scale.value + t[:, None]


def nnx_net():
    net = Net(3, rngs=nnx.Rngs(1))
    net.eval()
    return net


def linen_net():
    module, x = Bound(5), jnp.ones((4, 2))
    return module.bind(module.init(jax.random.key(0), x[:, 0], x))


def unet():
    options = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "T": 3.0, "classes": 2}
    return UNet((8, 8, 1), rngs=nnx.Rngs(0), **options)


NETWORKS = {
    "MLP": lambda: mlp(T=3.0),
    "MLP with classes": lambda: mlp(T=3.0, classes=3),
    "UNet": lambda: blank(unet),
    "NNX": nnx_net,
    "Equinox": lambda: Dense(4, key=jax.random.key(3)),
    "Equinox in inference": lambda: eqx.nn.inference_mode(Dense(4, key=jax.random.key(3))),
    "Linen": linen_net,
}


def round_trip(saved, file):
    kacjax.save_velocity(file, saved)
    kacjax.save_velocity(file, saved)
    loaded = kacjax.load_velocity(file)
    same(loaded, saved)
    assert repr(loaded.path) == repr(saved.path)
    if not isinstance(saved.network, NNXNetwork):  # Flax orders its metadata as it likes.
        assert repr(loaded) == repr(saved)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    return loaded


@pytest.mark.parametrize("network", NETWORKS)
def test_round_trip_of_networks(network, tmp_path):
    saved = velocity(network=NETWORKS[network]())
    loaded = round_trip(saved, tmp_path / "v.safetensors")
    if network in ("MLP", "Linen", "Equinox in inference"):
        t, x = jnp.array([0.5]), jnp.ones((1, 2))
        np.testing.assert_array_equal(loaded(t, x), saved(t, x))


def test_a_normalized_network_computes_what_it_did(tmp_path):
    saved = Velocity(nnx_net(), kacjax.kac_path())
    mean = lambda v: v.network.rest["norm"]["mean"].get_value()  # noqa: E731
    saved = eqx.tree_at(mean, saved, jnp.arange(3.0))
    loaded = round_trip(saved, tmp_path / "v")
    t, x = jnp.array([0.5]), jnp.ones((1, 2))
    np.testing.assert_array_equal(loaded(t, x), saved(t, x))


@pytest.mark.parametrize("prediction", ["x0", "velocity", "edm", EDMPrediction(0.7)])
@pytest.mark.parametrize("name", ["kac", "flow-matching", "own"])
def test_round_trip_of_settings(prediction, name, tmp_path):
    saved = velocity(prediction, PATHS[name], nnx_net(), classes=7)
    loaded = round_trip(saved, tmp_path / "v.safetensors")
    assert (loaded.prediction, loaded.classes) == (prediction, 7)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_round_trip_of_low_precision(dtype, tmp_path):
    floats = lambda x: x.astype(dtype) if eqx.is_inexact_array(x) else x  # noqa: E731
    saved = velocity(network=jax.tree.map(floats, wrap_network(mlp(T=3.0))))
    round_trip(saved, tmp_path / "v")


def test_what_is_trained_stays_so(tmp_path):
    """Another choice of the trained variables than `nnx.Param` is kept."""
    network = wrap_network(nnx_net(), lambda path, _: path[0] == "frequencies")
    loaded = round_trip(Velocity(network, kacjax.kac_path()), tmp_path / "v")
    assert len(jax.tree.leaves(loaded.network.params)) == 1


@pytest.mark.long
def test_64_bits(tmp_path):
    with jax.enable_x64(True):
        double = lambda x: x.astype(jnp.float64) if eqx.is_inexact_array(x) else x  # noqa: E731
        network = jax.tree.map(double, shuffled(wrap_network(mlp())))
        round_trip(Velocity(network, kacjax.kac_path(a=0.1)), tmp_path / "v")
    with pytest.raises(ValueError, match="v holds float64: set jax_enable_x64"):
        kacjax.load_velocity(tmp_path / "v")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("export") / "velocity.safetensors"
    kacjax.save_velocity(file, velocity(), {"data": "moons"})
    return file


@pytest.mark.long
def test_three_lines_generate(tmp_path):
    path = kacjax.kac_path()
    network = MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    saved = Velocity(network, path)
    kacjax.save_velocity(tmp_path / "v", saved)
    loaded = kacjax.load_velocity(tmp_path / "v")
    x = kacjax.generate(loaded, loaded.path, jax.random.key(0), (5, 2), 3)
    np.testing.assert_array_equal(
        x, kacjax.generate(saved, path, jax.random.key(0), (5, 2), 3), strict=True
    )


def test_notes_and_folders(file, tmp_path):
    assert load_notes(file) == load_notes(file.parent) == {"data": "moons"}
    same(kacjax.load_velocity(file.parent), velocity())
    same(kacjax.load_velocity(str(file.parent)), velocity())
    for load in (kacjax.load_velocity, load_notes):
        with pytest.raises(ValueError, match=r"folder that holds velocity\.safetensors, got"):
            load(tmp_path)


def test_what_cannot_be_written(tmp_path):
    saved = velocity()
    for target in (tmp_path, tmp_path / "missing" / "v"):
        message = f"file must be the name of a file in a folder that exists, got {target}"
        with pytest.raises(ValueError, match=message):
            kacjax.save_velocity(target, saved)
    with pytest.raises(ValueError, match=r"velocity must be a kacjax\.Velocity, as of fit, got"):
        kacjax.save_velocity(tmp_path / "v", lambda t, x: x)
    with pytest.raises(ValueError, match="what JSON can hold"):
        kacjax.save_velocity(tmp_path / "v", saved, {"file": tmp_path})
    assert list(tmp_path.iterdir()) == []


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
    with pytest.raises(ValueError, match=r"file must be a file, .*got /dev/null"):
        kacjax.load_velocity(pathlib.Path("/dev/null"))
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
    forge(tmp_path / "kind", {"format": "other-1"}, {})
    with pytest.raises(ValueError, match="kind has the format other-1, wanted is kacjax-velocity"):
        kacjax.load_velocity(tmp_path / "kind")


def forge(file, header, arrays):
    """A file whose digest fits, whatever its header."""
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(arrays, file, {"kacjax": f"{_digest(text, arrays)} {text}"})


def _network(**config):
    return lambda header: header["network"]["config"].update(config)


FORGED = {
    "width": (_network(width=10**9), "holds another state"),
    "dim": (_network(dim=10**9), "holds another state"),
    "depth": (_network(depth=10**9), "config is that of a larger network"),
    "fourier": (_network(fourier=10**7), "holds another state"),
    "classes": (_network(classes=10**9), "holds another state"),
    "string": (_network(width="8"), "describes no velocity"),
    "keyword": (_network(heads=3), "describes no velocity.*heads"),
    "config": (lambda header: header["network"].update(config=3), "describes no velocity"),
    "class": (
        lambda header: header["network"].update({"class": "os"}),
        "class must be one of.*'os'",
    ),
    "other class": (
        lambda header: header["network"].update({"class": "LinearClock"}),
        "describes no velo",
    ),
    "network": (lambda header: header.pop("network"), "describes no velocity"),
    "path": (lambda header: header.update(path=[]), "describes no velocity"),
    "T": (lambda header: header["path"].update(T=[1.0]), "describes no velocity"),
    "prediction": (lambda header: header.update(prediction="noise"), "prediction must be"),
    "class count": (lambda header: header.update(classes="many"), "describes no velocity"),
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_headers_are_refused_before_anything_large_is_made(name, file, tmp_path):
    header, arrays = _read(file)
    change, message = FORGED[name]
    change(header)
    forge(tmp_path / "forged", header, arrays)
    with pytest.raises(ValueError, match=f"forged.*{message}|{message}.*forged"):
        kacjax.load_velocity(tmp_path / "forged")


@pytest.mark.parametrize("text", ["[" * 100_000, "3", "{", '{"format": ["kacjax-velocity-2"]}'])
def test_headers_that_are_none(text, tmp_path):
    forge(tmp_path / "forged", text, {})
    for load in (kacjax.load_velocity, load_notes):
        with pytest.raises(ValueError, match=r"forged (has|must have) "):
            load(tmp_path / "forged")


def test_notes_of_another_type(tmp_path):
    forge(tmp_path / "forged", {"format": "kacjax-velocity-2", "notes": 3}, {})
    with pytest.raises(ValueError, match=r"forged must have notes .* got 3"):
        load_notes(tmp_path / "forged")


def test_networks_that_could_not_be_read_are_not_written(tmp_path):
    class Mine(nnx.Module):
        """Not registered."""

        def __call__(self, t, x):
            return x

    refused = {
        r"velocity\.network is a Mine, which .*@kacjax\.export\.register": Mine(),
        r"network is a function, .*register": lambda t, x: x,
        "describes no velocity.*argument after": Nameless(),
        "Forgetful.config must be all": Forgetful(3, 2.0, rngs=nnx.Rngs(0)),
        "what would be written describes no velocity: .*argument": Unready(),
        "Dense.config must be all that .*another": eqx.tree_at(
            lambda n: n.dropout.p, Dense(3, key=jax.random.key(0)), 0.1
        ),
    }
    for message, network in refused.items():
        with pytest.raises(ValueError, match=message):
            kacjax.save_velocity(tmp_path / "v", Velocity(network, PATHS["kac"]))
    assert list(tmp_path.iterdir()) == []


@register
class Nameless(nnx.Module):
    """Without a config."""

    def __call__(self, t, x):
        return x


@register
class Unready(nnx.Module):
    """Does not take what it is made with."""

    config = {"width": 3}  # noqa: RUF012

    def __call__(self, t, x):
        return x


@register
class Forgetful(nnx.Module):
    """A config that leaves out what decides."""

    config = {"width": 3}  # noqa: RUF012

    def __init__(self, width, scale=1.0, *, rngs):
        self.scale = scale

    def __call__(self, t, x):
        return x


def test_clocks_are_registered():
    assert path_to_dict(kacjax.kac_path())["clock"] == {"class": type(LinearClock()).__name__}
