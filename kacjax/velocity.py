"""Velocities: a network with the path that says what it predicts, and guidance of one."""

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jaxtyping import Array

from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_count, is_concrete, is_number, null_like, widen
from kacjax.paths import Points, ProbabilityPath, Times
from kacjax.predictions import Prediction, make_prediction


class Velocity(eqx.Module):
    """A velocity `velocity(t, x, label=None, *, key=None)` made of a network and a path: a pytree.

    Attributes:
        network: Called as `network(t, x)` with times `(batch,)` and points `(batch, *event)`, with
            the keyword `label` where there are labels, and `key` for dropout if it takes one: what
            `wrap_network` takes.
        path: The path.
        prediction: What the network outputs: the `velocity` itself, a prediction of the data `x0`,
            EDM's mixture `edm`, the data and the noise's velocity `bounded`, or a
            `kacjax.predictions.Prediction`.
        classes: Number of classes; if missing, that of the network's `config`, if it has one.

    Raises:
        ValueError: If `prediction` is unknown or `classes` not a positive integer.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=16)
        >>> velocity = kacjax.Velocity(network, kacjax.kac_path())
        >>> velocity(jnp.array([0.5]), jnp.ones((1, 2))).shape
        (1, 2)
    """

    network: Any
    path: ProbabilityPath
    prediction: str | Prediction = eqx.field(static=True)
    classes: int | None = eqx.field(static=True)

    def __init__(
        self,
        network: Any,
        path: ProbabilityPath,
        prediction: str | Prediction = "x0",
        classes: int | None = None,
    ):
        own_time = getattr(make_prediction(prediction), "own_time", False)
        network = wrap_network(network)
        config = _config(network)
        known, T = config.get("classes", classes), config.get("T")
        if classes is not None:
            check_count("classes", classes)
            if known != classes:  # Its null label would be a real class, or none at all.
                raise ValueError(f"classes must be {known}, as of the network, got {classes}.")
        same = own_time or T is None or not is_concrete(path.T) or np.allclose(path.T, T, 1e-6, 0)
        if not same:
            raise ValueError(f"path must have the T of the network, {T}, got {path.T}.")
        self.network, self.path, self.prediction, self.classes = network, path, prediction, known

    def __call__(
        self,
        t: Times,
        x: Points,
        label: Any = None,
        *,
        until: Times | None = None,
        key: Key | None = None,
    ) -> Points:
        """The velocity, of the type of `x`; a `key` switches dropout on, if there is any.

        With a second time `until` it is the average one that a flow map has.
        """
        if not jnp.issubdtype(x.dtype, jnp.floating):
            raise ValueError(f"x must hold floats, got {x.dtype}.")
        output = self.output(t, x, label, until=until, key=key)
        prediction = make_prediction(self.prediction)
        return prediction.velocity(self.path, t, x.astype(output.dtype), output).astype(x.dtype)

    def output(
        self, t: Times, x: Points, label: Any = None, *, until: Any = None, key: Any = None
    ) -> Array:
        """What the network says there, before it is read as a velocity; float32 at least."""
        prediction = make_prediction(self.prediction)
        T = _config(self.network).get("T")
        time, points = prediction.inputs(self.path, t, x, T)
        if until is not None:
            until, _ = prediction.inputs(self.path, until, x, T)
        return _call(self.network, time, points, label, key, until).astype(widen(x).dtype)


def _config(network: Any) -> Mapping[str, Any]:
    """What a network says of itself: its number of classes and its time, if it is ours."""
    config = getattr(network, "config", {})
    return config if isinstance(config, Mapping) else {}


class NNXNetwork(eqx.Module):
    """A Flax NNX module as a callable pytree, of which only `params` are trained."""

    params: Any
    rest: Any
    graphdef: Any = eqx.field(static=True)

    @property
    def config(self) -> dict[str, Any]:
        """The `config` of the module, empty where it has none."""
        return getattr(nnx.merge(self.graphdef, self.params, self.rest), "config", {})

    def __call__(
        self, t: Array, x: Array, label: Any = None, *, until: Any = None, key: Any = None
    ) -> Any:
        """Calls the module; a call that changes a variable is a `ValueError`."""
        # A copy: a call that changes a variable must not change this one.
        module = nnx.merge(self.graphdef, self.params, self.rest, copy=True)
        output = _call(module, t, x, label, key, until)
        after = dict(jax.tree.leaves_with_path(nnx.state(module)))
        for name, before in jax.tree.leaves_with_path(self.rest):
            if after[name] is not before:
                raise ValueError(
                    f"a call of the network changes its variable {jax.tree_util.keystr(name)}: call "
                    "model.eval() first, and let dropout take its key with the call, key=."
                )
        return output


class LinenNetwork(eqx.Module):
    """A Flax Linen module with its variables as a callable pytree; only `params` is trained."""

    variables: Any
    module: linen.Module = eqx.field(static=True)

    def __call__(
        self, t: Array, x: Array, label: Any = None, *, until: Any = None, key: Any = None
    ) -> Any:
        """Applies the module; a key also serves the random stream `dropout`."""
        rngs = None if key is None else {"dropout": key}
        return _call(self.module.bind(self.variables, rngs=rngs), t, x, label, key, until)


def wrap_network(network: Any, params: Any = nnx.Param) -> Any:
    """A network as a callable pytree.

    Args:
        network: A Flax NNX module, a Linen module that is bound, `module.bind(variables)`, or any
            other callable pytree, such as an Equinox module, which stays what it is.
        params: The variables of an NNX module that are trained: a filter such as `nnx.LoRAParam`.

    Raises:
        ValueError: If `network` cannot be called, or is a Linen module without variables.

    Example:
        >>> type(kacjax.velocity.wrap_network(nnx.Linear(2, 2, rngs=nnx.Rngs(0)))).__name__
        'NNXNetwork'
    """
    if isinstance(network, nnx.Module):
        graphdef, trained, rest = nnx.split(network, params, ...)
        return NNXNetwork(trained, rest, graphdef)
    if isinstance(network, linen.Module):
        if network.scope is None:
            raise ValueError("network is a Linen module without variables: module.bind(variables).")
        module, variables = network.unbind()
        return LinenNetwork(variables, module)
    if not callable(network):
        raise ValueError(f"network must be callable as network(t, x), got {network!r:.100}.")
    return network


def trainable(network: Any) -> Any:
    """Which leaves of a network are trained, as a pytree of bools: all floats, but of Flax `params`.

    It may be a `Velocity`, of which the path stays as it is, or hold wrapped networks among others.

    Example:
        >>> network = kacjax.velocity.wrap_network(nnx.BatchNorm(2, rngs=nnx.Rngs(0)))
        >>> sum(jax.tree.leaves(kacjax.velocity.trainable(network)))  # scale and bias
        2
    """
    special = NNXNetwork, LinenNetwork, ProbabilityPath

    def mark(part: Any) -> Any:
        floats = jax.tree.map(eqx.is_inexact_array, part)
        frozen = jax.tree.map(lambda _: False, floats)
        if isinstance(part, NNXNetwork):
            return NNXNetwork(floats.params, frozen.rest, part.graphdef)
        if isinstance(part, LinenNetwork):
            params = {name: tree for name, tree in floats.variables.items() if name == "params"}
            return LinenNetwork({**frozen.variables, **params}, part.module)
        return frozen if isinstance(part, ProbabilityPath) else floats

    return jax.tree.map(mark, network, is_leaf=lambda part: isinstance(part, special))


class Changed(eqx.Module):
    """A velocity made of another one, of the same path and classes."""

    velocity: Callable[..., Array]

    @property
    def classes(self) -> int | None:
        """The number of classes of the other velocity, if that is known."""
        return getattr(self.velocity, "classes", None)

    @property
    def path(self) -> ProbabilityPath | None:
        """The path of the other velocity, if that is known."""
        return getattr(self.velocity, "path", None)

    @property
    def prediction(self) -> Any:
        """What the other velocity's network predicts, if that is known."""
        return getattr(self.velocity, "prediction", None)


class Guided(Changed):
    """A velocity with classifier-free guidance; made by `guided`, which says what the fields are."""

    scale: ArrayLike
    interval: tuple[ArrayLike, ArrayLike] | None
    null_label: Any

    def __call__(self, t: Times, x: Points, label: Any) -> Points:
        """The guided velocity, of the shape and type of `x`."""

        def both() -> tuple[Array, Array]:
            one, other = (t, x, null_like(label, self.null_label)), (t, x, label)
            pairs = jax.tree.map(lambda *parts: jnp.concatenate(parts), one, other)
            without, with_label = jnp.split(self.velocity(*pairs).astype(x.dtype), 2)
            mixed = without + jnp.asarray(self.scale, x.dtype) * (with_label - without)
            return mixed, with_label

        if self.interval is None:  # Then there is one network in the program, not two.
            return both()[0]
        inside = (self.interval[0] <= t) & (t <= self.interval[1])
        rows = inside.reshape(inside.shape + (1,) * (x.ndim - 1))
        plain = lambda: self.velocity(t, x, label).astype(x.dtype)  # noqa: E731
        return jax.lax.cond(jnp.any(inside), lambda: jnp.where(rows, *both()), plain)


def guided(
    velocity: Callable[..., Array],
    scale: ArrayLike,
    null_label: Any,
    interval: tuple[ArrayLike, ArrayLike] | None = None,
) -> Guided:
    r"""A velocity `(t, x, label)` with classifier-free guidance, for `generate(..., labels=...)`.

    $$ v_{\text{null}} + \gamma \, (v_{\text{label}} - v_{\text{null}}) $$

    at the times of an interval, and $v_{\text{label}}$ at all others. Both velocities come from one
    evaluation of a doubled batch, which `generate` counts as one.

    Args:
        velocity: A class-conditional velocity `velocity(t, x, label)`.
        scale: Strength $\gamma$; 1 is none.
        null_label: The label that stands for no class; a number for all of a condition, or one
            condition.
        interval: First and last time, in `[0, T]`, at which there is guidance; by default all.

    Raises:
        ValueError: If the interval is empty, `scale` is no number, or `null_label` is none of a
            velocity whose classes are known.

    Source: J. Ho, T. Salimans, *Classifier-Free Diffusion Guidance*, arXiv 2207.12598; the interval:
    T. Kynkäänniemi et al., arXiv 2404.07724.

    Example:
        >>> field = lambda t, x, label: jnp.where(label == 1, 2.0, 1.0)[:, None] * jnp.ones_like(x)
        >>> strong = kacjax.guided(field, 3.0, null_label=0)
        >>> strong(jnp.array([0.5]), jnp.zeros((1, 1)), jnp.array([1]))  # 1 + 3 (2 - 1)
        Array([[4.]], dtype=float32)
    """
    if np.shape(scale) != ():
        raise ValueError(f"scale must be a number, got shape {np.shape(scale)}.")
    if is_concrete(scale) and not np.isfinite(scale):
        raise ValueError(f"scale must be finite, got {scale}.")
    whole = is_number(null_label) and not isinstance(null_label, float)
    null_label = check_count("null_label", null_label, 0) if whole else null_label
    low, high = (0.0, math.inf) if interval is None else interval
    if is_concrete(low) and is_concrete(high) and not low <= high:
        raise ValueError(f"interval must run from a lower to a higher time, got {interval}.")
    classes = getattr(velocity, "classes", None)
    if classes is not None and not (isinstance(null_label, int) and 0 <= null_label <= classes):
        raise ValueError(f"null_label must lie in 0..{classes}, got {null_label}.")
    # As arrays of floats, so that another number is no other program.
    numbers = (float(part) if isinstance(part, int) else part for part in (scale, low, high))
    scale, low, high = map(jnp.asarray, numbers)
    return Guided(velocity, scale, None if interval is None else (low, high), null_label)


def _call(
    network: Callable[..., Array], t: Array, x: Array, label: Any, key: Any, until: Any = None
) -> Array:
    """Calls a network with what it takes of label, key and second time."""
    takes = inspect.signature(network).parameters
    everything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in takes.values())
    asked = {"label": label, "until": until, "key": key}
    asked = {name: value for name, value in asked.items() if value is not None}
    given = {name: value for name, value in asked.items() if everything or name in takes}
    for name in asked.keys() - given.keys() - {"key"}:
        about = {"label": "there are labels", "until": "there is a second time"}[name]
        called = getattr(network, "__name__", type(network).__name__)
        raise ValueError(f"{about}, but {called} takes no argument {name!r}.")
    return network(t, x, **given)
