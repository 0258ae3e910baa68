"""Small networks and small data that the tests of training share."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from kacjax import Trainer
from kacjax.models import MLP
from kacjax.training.data import DeviceData
from kacjax.training.step import train_step

# Its noise compiles fastest.
PATH = kacjax.flow_matching_path()
DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


class Affine(nnx.Module):
    """A network that compiles in no time: a shift for each class, the last for none, and dropout.

    `Affine.traced` counts how often any of them was traced.
    """

    traced = 0

    def __init__(self, classes: int = 3, dtype=jnp.float32):
        self.classes = classes
        self.weight = nnx.Param(jnp.full((2, 2), 0.1, dtype))
        self.shifts = nnx.Param(jnp.zeros((classes + 1, 2), dtype))

    @property
    def config(self):
        """The keywords of the constructor."""
        return {"classes": self.classes}

    def __call__(self, t, x, label=None, *, key=None):
        """An affine map of the point, with half of its components dropped if there is a key."""
        Affine.traced += 1
        label = jnp.full(t.shape, self.classes, jnp.int32) if label is None else label
        dtype = self.weight[...].dtype
        y = x.astype(dtype) @ self.weight[...] * t[:, None].astype(dtype) + self.shifts[...][label]
        return y if key is None else jnp.where(jax.random.bernoulli(key, 0.5, y.shape), 2 * y, 0)


class NoLabels(Affine):
    """A network of points alone, without dropout."""

    @property
    def config(self):
        """Nothing."""
        return {}

    def __call__(self, t, x):
        """The affine map."""
        return super().__call__(t, x)


def mlp() -> MLP:
    """The smallest perceptron."""
    return MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)


def small_trainer(network=None, **options) -> Trainer:
    """A trainer of twenty steps."""
    optimizer = kacjax.training.default_optimizer(20, learning_rate=1e-2, warmup=4)
    options = {"steps": 20, "batch_size": 16, "optimizer": optimizer, **options}
    return Trainer(network or Affine(), options.pop("path", PATH), **options)


def small_step(network=None, **options):
    """A state and a jitted step `(state, batch, key) -> (state, metrics)` of 64 data."""
    trainer = small_trainer(network, batch_size=64, **options)
    _, path, plan = trainer._parts

    def step(state, batch, key):
        batch = tuple(batch) if isinstance(batch, tuple | DeviceData) else (batch, None)
        state, _, metrics = train_step(plan, state, jnp.asarray(True), path, batch, key)
        return state, metrics

    return trainer.init(jax.random.key(1)), jax.jit(step)
