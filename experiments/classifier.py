"""Training of a small classifier of images."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array

from experiments.judging.classifier import Classifier, ImageClassifier
from experiments.log import Progress
from kacjax.data import ImageArrays, to_float


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a classifier is trained.

    Attributes:
        channels: Width of the network at each resolution.
        epochs: Passes over the data.
        flip: Whether a mirrored image is of the same class.
        shift: Largest random shift along each axis, in pixels.
        stride: Of the network's first convolution.
        batch_size: Images in a step.
        learning_rate: Peak of the one-cycle schedule.
        weight_decay: Of AdamW.
    """

    channels: tuple[int, ...]
    epochs: int
    flip: bool
    shift: int
    stride: int = 1
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2


class Trained(NamedTuple):
    """A classifier and its training.

    Attributes:
        classifier: The classifier.
        seconds: Time of training, compilation included.
        loss: Mean loss of the last epoch.
    """

    classifier: ImageClassifier
    seconds: float
    loss: float


def train_classifier(
    images: ImageArrays, recipe: Recipe, seed: int = 0, progress: bool = True
) -> Trained:
    """Trains on labeled images by AdamW with one cycle of the learning rate.

    Raises:
        ValueError: If the images have no labels.
    """
    if images.labels is None:
        raise ValueError("images must have labels.")
    start = time.perf_counter()
    shape = images.images.shape[1:]
    with _promotion():
        model = Classifier(
            shape,
            len(images.classes),
            rngs=nnx.Rngs(seed),
            channels=recipe.channels,
            stride=recipe.stride,
        )
        graphdef, parameters, statistics = nnx.split(model, nnx.Param, ...)
        per_epoch = -(-len(images.images) // recipe.batch_size)
        steps = recipe.epochs * per_epoch
        optimizer = optax.adamw(
            optax.cosine_onecycle_schedule(steps, recipe.learning_rate),
            weight_decay=recipe.weight_decay,
        )
        state = (parameters, statistics, optimizer.init(parameters))
        data = (jnp.asarray(images.images), jnp.asarray(images.labels))
        # One call a step: inside a scan, XLA's convolutions on a CPU use one thread and are slow.
        step = jax.jit(functools.partial(_step, graphdef, optimizer, recipe, jax.random.key(seed)))
        losses = []
        random, num, size = np.random.default_rng(seed), len(images.images), recipe.batch_size
        epochs = [random.permutation(num) for _ in range(-(-steps * size // num))]
        batches = np.concatenate(epochs)[: steps * size].reshape(steps, size)
        bar, begin = Progress(steps, 0, shown=progress), time.perf_counter()
        for number, rows in enumerate(batches):
            state, loss = step(data, state, number, rows)
            losses.append(loss)
            bar.update(number + 1, None, (number + 1) / (time.perf_counter() - begin))
        bar.close()
    trained = nnx.merge(graphdef, state[0], state[1])
    return Trained(
        ImageClassifier(trained, images.classes),
        time.perf_counter() - start,
        float(np.mean(losses[-per_epoch:])),
    )


def accuracy(classifier: ImageClassifier, images: ImageArrays, chunk_size: int = 500) -> float:
    """Share of the images whose most probable class is their own."""
    hits = 0
    assert images.labels is not None
    for start in range(0, len(images.images), chunk_size):
        rows = slice(start, start + chunk_size)
        _, probabilities = classifier(images.images[rows])
        hits += int(np.sum(np.asarray(probabilities).argmax(axis=1) == images.labels[rows]))
    return hits / len(images.images)


def _step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    key: Array,
    data: tuple[Array, Array],
    state: tuple[Any, Any, Any],
    number: Array,
    rows: Array,
) -> tuple[tuple[Any, Any, Any], Array]:
    parameters, statistics, inner = state
    x, labels = to_float(data[0][rows]), data[1][rows]
    shift_key, flip_key = jax.random.split(jax.random.fold_in(key, number))
    if recipe.flip:
        mirrored = jax.random.bernoulli(flip_key, shape=(len(x), 1, 1, 1))
        x = jnp.where(mirrored, x[:, :, ::-1], x)
    x = _shift(shift_key, x, recipe.shift)

    def loss_of(parameters):
        model = nnx.merge(graphdef, parameters, statistics, copy=True)
        losses = optax.softmax_cross_entropy_with_integer_labels(model(x).logits, labels)
        return jnp.mean(losses), nnx.split(model, nnx.Param, ...)[2]

    (loss, statistics), gradient = jax.value_and_grad(loss_of, has_aux=True)(parameters)
    updates, inner = optimizer.update(gradient, inner, parameters)
    return (optax.apply_updates(parameters, updates), statistics, inner), loss


def _shift(key: Array, x: Array, most: int) -> Array:
    """Moves each image by up to `most` pixels along both axes; its rim is repeated."""
    offsets = jax.random.randint(key, (len(x), 2), 0, 2 * most + 1)
    padded = jnp.pad(x, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")

    def crop(image, offset):
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), x.shape[1:])

    return jax.vmap(crop)(padded, offsets)


def _promotion():
    """Optax and Flax count on the standard promotion, whatever the caller has set."""
    return jax.numpy_dtype_promotion("standard")
