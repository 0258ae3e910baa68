"""A small network and small data that the tests of training share."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from kacjax import Trainer, train_step
from kacjax.models import MLP
from kacjax.training import NetworkVelocity, init_state, make_optimiser

# Its noise compiles fastest.
PATH = kacjax.flow_matching_path()
DATA = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)


class Affine(nnx.Module):
    """A network that compiles in no time: a shift for each class, the last for none, and dropout.

    `Affine.traced` counts how often any of them was traced.
    """

    traced = 0

    def __init__(self, classes: int = 3):
        self.classes = classes
        self.weight = nnx.Param(jnp.full((2, 2), 0.1))
        self.shifts = nnx.Param(jnp.zeros((classes + 1, 2)))

    @property
    def config(self):
        """The keywords of the constructor."""
        return {"classes": self.classes}

    def __call__(self, t, x, label=None, *, key=None):
        """An affine map of the point, with half of its components dropped if there is a key."""
        Affine.traced += 1
        label = jnp.full(t.shape, self.classes, jnp.int32) if label is None else label
        y = x @ self.weight[...] * t[:, None] + self.shifts[...][label]
        return y if key is None else jnp.where(jax.random.bernoulli(key, 0.5, y.shape), 2 * y, 0)


def mlp() -> MLP:
    """The smallest perceptron."""
    return MLP(2, rngs=nnx.Rngs(0), width=16, depth=1)


def small_step(model=None, parameterisation="data", optimiser=None, **options):
    """A state and a jitted step."""
    graphdef, parameters = nnx.split(model or Affine())
    velocity = NetworkVelocity(parameters, PATH, graphdef, parameterisation)
    optimiser = optimiser or make_optimiser(1e-2, 50, 5, 1.0)
    state = init_state(parameters, optimiser, jax.random.key(1))
    step = partial(train_step, velocity=velocity, optimiser=optimiser, **options)
    return state, jax.jit(step)


def small_trainer(model=None, **options) -> Trainer:
    """A trainer of twenty steps."""
    options = {"steps": 20, "batch_size": 16, "warmup": 4, "learning_rate": 1e-2, **options}
    return Trainer(model or Affine(), options.pop("path", PATH), **options)
