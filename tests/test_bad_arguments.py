"""Bad arguments of public functions: an error that names the argument and its value, in one line."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import kacjax

KEY = jax.random.key(0)
PATH = kacjax.kac_path()
DATA = np.zeros((20, 2), np.float32)
X = jnp.zeros((3, 2))


def field(t, x):
    return -x


def mlp(**options):
    return kacjax.models.MLP(2, rngs=nnx.Rngs(0), **{"width": 4, "depth": 1, **options})


def fit(**options):
    arguments = {"network": mlp(), "path": PATH, "data": DATA, "key": KEY, "steps": 1}
    return kacjax.fit(**{**arguments, "batch_size": 4, "progress": False, **options})


def generate(**options):
    arguments = {"velocity": field, "path": PATH, "key": KEY, "shape": (3, 2), "steps": 2}
    return kacjax.generate(**{**arguments, **options})


CASES = {
    "rate of zero": (lambda: kacjax.KacProcess(a=0.0), "a must be positive", "0.0"),
    "rate of text": (lambda: kacjax.KacProcess(a="9"), "a must", "9"),
    "rate not a number": (lambda: kacjax.KacProcess(a=np.nan), "a must be positive", "nan"),
    "speed below zero": (lambda: kacjax.KacProcess(c=-1.0), "c must be positive", "-1"),
    "infinite speed": (lambda: kacjax.kac_path(c=np.inf), "c must be positive", "inf"),
    "deviation of zero": (lambda: kacjax.WienerProcess(sigma=0.0), "sigma must be", "0.0"),
    "no final time": (lambda: kacjax.kac_path(T=0.0), "T must be positive", "0.0"),
    "unknown signal": (lambda: kacjax.kac_path(signal="linaer"), "signal", "linaer", "linear"),
    "unknown clock": (lambda: kacjax.kac_path(clock="t3"), "clock", "t3", "t2"),
    "signal that is no function": (lambda: kacjax.kac_path(signal=3), "signal", "3"),
    "sigma of text": (lambda: kacjax.flow_matching_path(sigma="1"), "sigma", "1"),
    "velocity: shapes": (lambda: PATH.process.velocity(jnp.ones(3), jnp.ones(4)), "(3,)", "(4,)"),
    "density of a list": (lambda: PATH.process.density(0.1, ["a"]), "y"),
    "sample: old key": (lambda: PATH.process.sample(3, 0.1, (2,)), "key", "jax.random.key"),
    "sample: swapped": (lambda: PATH.process.sample(0.1, KEY, (2,)), "key"),
    "sample: shape": (lambda: PATH.process.sample(KEY, 0.1, (-1,)), "shape", "-1"),
    "path.sample: integers": (
        lambda: PATH.sample(KEY, jnp.ones(3), jnp.zeros((3, 2), jnp.int32)),
        "x0",
        "int32",
    ),
    "path.sample: complex": (
        lambda: PATH.sample(KEY, jnp.ones(3), jnp.zeros((3, 2), jnp.complex64)),
        "x0",
        "complex",
    ),
    "path.sample: times": (lambda: PATH.sample(KEY, jnp.ones(2), X), "t", "(2,)"),
    "generate: no steps": (lambda: generate(steps=0), "steps", "at least 1"),
    "generate: half a step": (lambda: generate(steps=2.5), "steps must be", "vector of times"),
    "generate: rising times": (lambda: generate(steps=np.array([0.0, 1.0])), "steps", "[0, 1"),
    "generate: unknown solver": (lambda: generate(solver="rk5"), "solver", "rk5", "heun"),
    "generate: no solver": (lambda: generate(solver=3), "solver", "3"),
    "generate: coordinates": (lambda: generate(coordinates="polar"), "coordinates", "polar"),
    "generate: power": (lambda: generate(grid_power=0.0), "grid_power", "0.0"),
    "generate: tolerance": (lambda: generate(rtol=-1.0), "rtol", "-1.0"),
    "generate: tolerance nan": (lambda: generate(atol=np.nan), "atol", "nan"),
    "generate: empty shape": (lambda: generate(shape=()), "shape", "()"),
    "generate: no samples": (lambda: generate(shape=(0, 2)), "shape", "0"),
    "generate: chunk": (lambda: generate(chunk_size=0), "chunk_size", "0"),
    "generate: key": (lambda: generate(key=0), "key", "0"),
    "generate: labels": (lambda: generate(labels=jnp.zeros(2, jnp.int32)), "labels", "(2,)"),
    "generate: bool labels": (lambda: generate(labels=jnp.zeros(3, bool)), "labels", "bool"),
    "generate: prior": (
        lambda: generate(path=kacjax.kac_path(signal="constant")),
        "x0",
        "signal",
    ),
    "generate: x0": (lambda: generate(x0=np.zeros((2, 2), np.float32)), "x0", "(2, 2)"),
    "trajectory: rising": (
        lambda: kacjax.trajectory(field, PATH, KEY, (3, 2), [0.0, 1.0]),
        "saved",
        "[0, 1",
    ),
    "trajectory: beyond": (
        lambda: kacjax.trajectory(field, PATH, KEY, (3, 2), [2.0, 0.0]),
        "saved",
        "2",
    ),
    "encode: integers": (lambda: kacjax.encode(field, PATH, X.astype(int)), "x", "int32"),
    "encode: time": (lambda: kacjax.encode(field, PATH, X, t_min=-0.1), "t0", "-0.1"),
    "decode: time": (lambda: kacjax.decode(field, PATH, X, t_min=3.0), "t0 and t1", "3"),
    "interpolate: shapes": (
        lambda: kacjax.interpolate(field, PATH, X, X[:2], [0.5]),
        "x_a and x_b",
        "(2, 2)",
    ),
    "interpolate: weights": (
        lambda: kacjax.interpolate(field, PATH, X, X, 0.5),
        "weights",
        "()",
    ),
    "guided: scale": (lambda: kacjax.guided(field, np.nan, 3), "scale", "nan"),
    "guided: label": (lambda: kacjax.guided(field, 2.0, -1), "null_label", "-1"),
    "guided: interval": (lambda: kacjax.guided(field, 2.0, 3, (1.0, 0.0)), "interval"),
    "fit: steps": (lambda: fit(steps=0), "steps", "0"),
    "fit: batch": (lambda: fit(batch_size=-1), "batch_size", "-1"),
    "fit: name of an optimizer": (lambda: fit(optimizer="adam"), "optimizer", "'adam'"),
    "fit: prediction": (lambda: fit(prediction="noise"), "prediction", "noise", "x0"),
    "fit: coupling": (lambda: fit(coupling="optimal"), "coupling", "'optimal'", "independent"),
    "fit: times": (lambda: fit(times=lambda key, path, batch: 1.0), "times", "(4,)", "()"),
    "fit: coupling and objective": (
        lambda: fit(coupling="ot", objective=kacjax.few_step.FlowMapLoss()),
        "coupling",
        "objective",
    ),
    "path: schedule": (lambda: kacjax.vp_path("linear"), "schedule", "'linear'", "linear-beta"),
    "path: rate": (lambda: kacjax.vp_path("linear-beta", -0.1), "beta_min", "-0.1"),
    "path: largest": (lambda: kacjax.edm_path(0.0), "sigma_max", "0.0"),
    "path: prior": (
        lambda: kacjax.ProbabilityPath(kacjax.WienerProcess(), approximate_prior=1),
        "approximate_prior",
        "1",
    ),
    "steps of EDM": (
        lambda: kacjax.schedules.karras_times(9, 3.0, 2.0),
        "sigma_min",
        "sigma_max=2.0",
        "3.0",
    ),
    "prediction of EDM": (lambda: kacjax.predictions.EDMPrediction(0.0), "sigma_data", "0.0"),
    "times of EDM": (lambda: kacjax.losses.LogNormalTimes(std=0.0), "std", "0.0"),
    "coupling: size": (lambda: kacjax.couplings.OptimalTransport(0), "size", "0"),
    "coupling: epsilon": (lambda: kacjax.couplings.Sinkhorn(0.0), "epsilon", "0.0"),
    "fit: weight": (lambda: fit(weight="flat"), "weight", "flat", "balanced"),
    "fit: ema": (lambda: fit(ema_decay=1.0), "ema_decay", "1.0"),
    "fit: integers": (lambda: fit(data=np.zeros((9, 2), np.int64)), "data", "int64", "uint8"),
    "fit: not finite": (lambda: fit(data=np.full((9, 2), np.nan, np.float32)), "data", "finite"),
    "fit: empty": (lambda: fit(data=np.zeros((0, 2), np.float32)), "data", "empty"),
    "fit: other dimension": (lambda: fit(data=np.zeros((9, 3), np.float32)), "(num, *(3,))"),
    "fit: a number": (lambda: fit(data=3), "data", "3"),
    "fit: labels": (lambda: fit(labels=np.zeros(3, int)), "labels"),
    "fit: dropout": (lambda: fit(label_dropout=0.1), "label_dropout", "classes"),
    "fit: flip": (lambda: fit(flip=True), "flip", "(20, 2)"),
    "fit: nonfinite": (lambda: fit(on_nonfinite="ignore"), "on_nonfinite", "ignore"),
    "fit: trained": (lambda: fit(trainable=nnx.BatchStat), "parameters to train"),
    "fit: key": (lambda: fit(key=0), "key", "0"),
    "optimizer: rate": (
        lambda: kacjax.training.default_optimizer(10, learning_rate=0.0),
        "learning_rate",
        "0.0",
    ),
    "optimizer: schedule": (
        lambda: kacjax.training.default_optimizer(10, schedule="step"),
        "schedule",
        "step",
    ),
    "MLP: width": (lambda: mlp(width=0), "width", "0"),
    "MLP: input": (lambda: mlp()(jnp.ones(3), jnp.ones((3, 5))), "x must have shape", "(3, 5)"),
    "UNet: sides": (
        lambda: kacjax.models.UNet((30, 30, 1), rngs=nnx.Rngs(0)),
        "shape",
        "30",
    ),
    "mesh": (lambda: kacjax.sharding.make_mesh(data=7), "data * fsdp", "7"),
    "metrics: dimensions": (
        lambda: kacjax.metrics.energy_distance(X, jnp.zeros((3, 3))),
        "one dimension, got 2 and 3",
    ),
    "metrics: not finite": (lambda: kacjax.metrics.mmd(X * np.nan, X), "finite"),
    "metrics: empty": (lambda: kacjax.metrics.two_sample_accuracy(X[:0], X[:0]), "(0, 2)"),
    "load_images: sides": (
        lambda: kacjax.data.load_images(".", (4, 4, 4)),
        "size must be an integer",
        "(4, 4, 4)",
    ),
    "bootstrap of a distance": (
        lambda: kacjax.metrics.bootstrap(kacjax.metrics.energy_distance, DATA, DATA, key=KEY),
        "metric",
        "energy_distance",
        "subsampling",
    ),
    "target": (lambda: kacjax.data.target("mons"), "mons", "moons"),
    "save": (lambda: kacjax.save_velocity("x.safetensors", field), "velocity", "function"),
    "save: no folder": (
        lambda: kacjax.save_velocity("no/x.safetensors", kacjax.Velocity(mlp(), PATH)),
        "no/x",
    ),
    "load": (lambda: kacjax.load_velocity("/dev/null"), "/dev/null"),
    "register": (lambda: kacjax.export.path_to_dict(kacjax.kac_path(clock=jnp.sin)), "register"),
}


def test_there_are_enough_of_them():
    assert len(CASES) >= 60


@pytest.mark.usefixtures("without_hook")
@pytest.mark.parametrize("case", CASES)
def test_bad_arguments_are_named(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call, *words = CASES[case]
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    text = str(caught.value)
    assert len(text) < 600
    for word in words:
        assert word in text, text
    assert list(tmp_path.iterdir()) == []
