"""What networks are made of: their base, embeddings, blocks that start as the identity."""

import inspect
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from kacjax._typing import Key
from kacjax._validation import as_floats, check_count, check_labels, check_positive

Times = Float[Array, " batch"]
Labels = Int[Array, " batch"] | None
Map = Float[Array, "batch height width channels"]
Vectors = Float[Array, "batch channels"]

# Times below this fraction of T look alike: too few are drawn to learn a difference.
_SMALLEST = 1e-3
# Sinusoids of the logarithm; few, because the velocity changes smoothly with it.
_LOG_SINUSOIDS = 4
# Sinusoids of the root of the time, for networks that are differentiated in it.
_SLOW_SINUSOIDS = 8


class Network(nnx.Module):
    """A network that knows its constructor keywords, and the number of its `classes` or None."""

    def remember(self, constructor: Callable[..., Any], values: Mapping[str, Any]) -> None:
        """Keeps the constructor's keywords, all but `rngs`, as static structure."""
        names = [n for n in inspect.signature(constructor).parameters if n not in ("self", "rngs")]
        self._config = json.dumps({n: values[n] for n in names}, default=lambda x: x.item())
        self.classes: int | None = values["classes"]

    @property
    def config(self) -> dict[str, Any]:
        """Constructor keywords without `rngs`, as JSON holds them; see `kacjax.export.register`."""
        return json.loads(self._config)


def check_points(t: Any, x: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Times and points as arrays of the type of `x`, of float32 at least, if they fit `shape`."""
    t, x = jnp.asarray(t), as_floats("x", x)
    if x.shape[1:] != shape:
        expected = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(f"x must have shape ({expected}), got {x.shape}.")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape {x.shape[:1]}, a time for each point, got {t.shape}.")
    return t.astype(x.dtype), x


def blank(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `make` makes with zeros for its variables: fast, as none is drawn.

    Example:
        >>> network = kacjax.models.blank(lambda: kacjax.models.MLP(dim=2, rngs=nnx.Rngs(0)))
        >>> float(jnp.abs(network.first.kernel[...]).max())
        0.0
    """
    graphdef, variables = nnx.split(nnx.eval_shape(make))
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), variables)
    return nnx.merge(graphdef, zeros)


def time_features(t: Times, T: float, dim: int) -> Vectors:
    r"""`dim` sinusoids of $1000 \, t / T$, and nine features of $\log(t / T)$.

    Without these, times near the data, where the velocity changes scale, would look alike.
    """
    half = dim // 2
    frequencies = jnp.asarray(np.exp(-math.log(10_000) * np.arange(half) / half), t.dtype)
    relative = jnp.maximum(t / T, _SMALLEST)
    return jnp.concatenate([_waves(1000 * relative, frequencies), _log_features(relative)], axis=-1)


def slow_time_features(t: Times, T: float, near: bool) -> Vectors:
    r"""Low sinusoids of $\sqrt{t / T}$, and if `near` those of $\log(t / T)$.

    Flow maps are trained by derivatives in the time, which quick sinusoids would drown.
    """
    relative = jnp.maximum(t / T, _SMALLEST)
    slow = _waves(jnp.sqrt(relative), np.pi * np.arange(1, _SLOW_SINUSOIDS + 1))
    return jnp.concatenate([slow, *[_log_features(relative)] * near], axis=-1)


def _log_features(relative: Times) -> Vectors:
    log = jnp.log(relative) / -math.log(_SMALLEST)
    return jnp.concatenate(
        [_waves(log, np.pi * np.arange(1, _LOG_SINUSOIDS + 1)), log[:, None]], axis=-1
    )


def _waves(phase: Times, frequencies: Any) -> Vectors:
    angles = phase[:, None] * jnp.asarray(frequencies, phase.dtype)[None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class ConditionEmbedding(nnx.Module):
    r"""$\mathrm{silu}(W_2 \, \mathrm{silu}(W_1 \, \mathrm{features}(t)) + E_y)$ of time and class `y`.

    With a second time its features are added within, by a matrix that is zero at first.
    `E` has one row more than there are classes, the null label's: it stands for no class.
    """

    def __init__(
        self,
        sinusoids: int,
        width: int,
        T: float,
        classes: int | None,
        second_time: bool = False,
        *,
        rngs: nnx.Rngs,
    ):
        check_positive("T", T)
        if classes is not None:
            check_count("classes", classes)
        self.T = float(T)
        self.sinusoids: int = sinusoids
        self.classes: int | None = classes
        slow, near = 2 * _SLOW_SINUSOIDS, 2 * _LOG_SINUSOIDS + 1
        self.first: nnx.Linear = nnx.Linear(
            near + (slow if second_time else sinusoids), width, rngs=rngs
        )
        self.second: nnx.Linear = nnx.Linear(width, width, rngs=rngs)
        self.labels: nnx.Embed | None = (
            None if classes is None else nnx.Embed(classes + 1, width, rngs=rngs)
        )
        zeros = nnx.initializers.zeros_init()
        second = nnx.Linear(slow, width, kernel_init=zeros, rngs=rngs) if second_time else None
        self.until = second

    def __call__(self, t: Times, label: Labels = None, until: Times | None = None) -> Vectors:
        """Labels out of range are an error, and NaN where they are traced; `until` is `t` if missing."""
        if self.until is not None:
            second = t if until is None else jnp.asarray(until, t.dtype)
            h = self.first(slow_time_features(t, self.T, near=True))
            h = h + self.until(slow_time_features(second, self.T, near=False))
        elif until is None:
            h = self.first(time_features(t, self.T, self.sinusoids))
        else:
            raise ValueError("until must be None for a network without second_time.")
        h = self.second(jax.nn.silu(h))
        if self.labels is None or self.classes is None:
            if label is not None:
                raise ValueError("label must be None for a network without classes.")
            return jax.nn.silu(h)
        if label is None:
            return jax.nn.silu(h + self.labels(jnp.full(t.shape, self.classes, jnp.int32)))
        given = label if isinstance(label, Tracer) else np.asarray(label)
        index: Any = check_labels(given, t.size, self.classes)
        # Without the mask a negative index would count from the end, and be another class.
        known = (index >= 0) & (index <= self.classes)
        return jax.nn.silu(h + jnp.where(known[:, None], self.labels(index), jnp.nan))


class FourierFeatures(nnx.Module):
    r"""The input beside $\sin(Bx)$ and $\cos(Bx)$ with fixed random frequencies `B`.

    Directions are random and lengths log-uniform, so that no grid of points is special.

    Source: Tancik et al., *Fourier Features Let Networks Learn High Frequency Functions*,
    arXiv 2006.10739.
    """

    def __init__(self, dim: int, count: int, lowest: float, highest: float, *, rngs: nnx.Rngs):
        directions = nnx.initializers.normal(1.0)(rngs.params(), (dim, count), jnp.float32)
        directions = directions / jnp.linalg.norm(directions, axis=0, keepdims=True)
        lengths = np.geomspace(lowest, highest, count) if count else np.zeros(0)
        scaled = directions * jnp.asarray(lengths, directions.dtype)[None]
        self.frequencies: nnx.Variable[Array] = nnx.Variable(scaled)

    def __call__(self, x: Float[Array, "batch dim"]) -> Vectors:  # noqa: D102
        angles = x @ jax.lax.stop_gradient(self.frequencies[...]).astype(x.dtype)
        return jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)


def convolution(inputs: int, outputs: int, *, zero: bool = False, **options: Any) -> nnx.Conv:
    """A convolution of 3x3 pixels; with `zero`, its output starts at zero."""
    initial = nnx.initializers.zeros_init() if zero else nnx.initializers.lecun_normal()
    return nnx.Conv(inputs, outputs, (3, 3), kernel_init=initial, **options)


def group_count(channels: int) -> int:
    """The most groups, up to 32, of at least 4 channels: a channel alone would lose its mean."""
    fitting = (g for g in (2, 4, 8, 16, 32) if channels % g == 0 and channels // g >= 4)
    return max(fitting, default=1)


class GroupNorm(nnx.Module):
    r"""Group normalization and a modulation, $(\gamma \, \mathrm{norm}(x) + \beta) (1 + s) + b$.

    As `nnx.GroupNorm` in float32, but all factors are combined before they meet the pixels, which
    saves a tenth of a training step's memory traffic.
    """

    def __init__(self, channels: int):
        self.groups: int = group_count(channels)
        self.scale: nnx.Param[Array] = nnx.Param(jnp.ones(channels, jnp.float32))
        self.bias: nnx.Param[Array] = nnx.Param(jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Map, scale: Vectors | None = None, shift: Vectors | None = None) -> Map:  # noqa: D102
        y, (batch, _, _, channels) = x.astype(jnp.float32), x.shape

        def group_mean(moment: Vectors) -> Vectors:
            groups = moment.reshape(batch, self.groups, -1).mean(axis=-1)
            return groups.repeat(channels // self.groups, axis=-1)

        mean = group_mean(y.mean(axis=(1, 2)))
        square = group_mean(jnp.square(y).mean(axis=(1, 2)))
        # Rounding can take the difference of the moments below zero.
        gain = jax.lax.rsqrt(jnp.maximum(square - jnp.square(mean), 0) + 1e-5) * self.scale[None]
        offset = self.bias[None] - mean * gain
        if scale is not None and shift is not None:
            gain, offset = gain * (1 + scale), offset * (1 + scale) + shift
        return (y * gain[:, None, None] + offset[:, None, None]).astype(x.dtype)


class SelfAttention(nnx.Module):
    r"""$x + W \, \mathrm{softmax}(q k^\top / \sqrt{d}) \, v$ with $(q, k, v) = V \mathrm{norm}(x)$."""

    def __init__(self, channels: int, heads: int, **options: Any):
        self.heads = heads
        self.norm: GroupNorm = GroupNorm(channels)
        self.inputs: nnx.Linear = nnx.Linear(channels, 3 * channels, **options)
        zeros = nnx.initializers.zeros
        self.output: nnx.Linear = nnx.Linear(channels, channels, kernel_init=zeros, **options)

    def __call__(self, x: Map) -> Map:  # noqa: D102
        batch, height, width, channels = x.shape
        shape = batch, height * width, 3, self.heads, channels // self.heads
        qkv = self.inputs(self.norm(x)).reshape(shape)
        # The function itself mixes types, which strict promotion forbids.
        with jax.numpy_dtype_promotion("standard"):
            mixed = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2])
        return x + self.output(mixed.reshape(x.shape))


class ResidualBlock(nnx.Module):
    r"""Two convolutions of normalized maps, the second scaled and shifted by the time, added.

    $$ x + C_2 \, \mathrm{drop} \, \mathrm{silu}\bigl(\mathrm{norm}(h) (1 + s) + b\bigr), \qquad
       h = C_1 \, \mathrm{silu}(\mathrm{norm}(x)), \quad (s, b) = W \, \mathrm{time} $$

    Where channels change, `x` passes a linear map. With `heads`, self-attention follows.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, rate: float, heads: int, **options: Any
    ):
        self.first_norm: GroupNorm = GroupNorm(inputs)
        self.second_norm: GroupNorm = GroupNorm(outputs)
        self.first: nnx.Conv = convolution(inputs, outputs, **options)
        self.modulation: nnx.Linear = nnx.Linear(embedding, 2 * outputs, rngs=options["rngs"])
        self.dropout: nnx.Dropout = nnx.Dropout(rate)
        self.second: nnx.Conv = convolution(outputs, outputs, zero=True, **options)
        self.skip: nnx.Linear | None = (
            None if inputs == outputs else nnx.Linear(inputs, outputs, **options)
        )
        self.attention: SelfAttention | None = (
            SelfAttention(outputs, heads, **options) if heads else None
        )

    def __call__(  # noqa: D102
        self, x: Map, time: Float[Array, "batch embedding"], key: Key | None = None
    ) -> Float[Array, "batch height width outputs"]:
        h = self.first(jax.nn.silu(self.first_norm(x)))
        scale, shift = jnp.split(self.modulation(time), 2, axis=-1)
        h = jax.nn.silu(self.second_norm(h, scale, shift))
        h = self.second(self.dropout(h, deterministic=key is None, rngs=key))
        h = h + (x if self.skip is None else self.skip(x))
        return h if self.attention is None else self.attention(h)


class Resample(nnx.Module):
    r"""$R x + C \, R \, \mathrm{silu}(\mathrm{norm}(x))$, `R` the mean of 2x2 pixels or their repetition.

    Source: Brock et al., *Large Scale GAN Training*, arXiv 1809.11096, with one convolution less.
    """

    def __init__(self, channels: int, *, up: bool, **options: Any):
        self.up = up
        self.norm: GroupNorm = GroupNorm(channels)
        self.conv: nnx.Conv = convolution(channels, channels, zero=True, **options)

    def __call__(self, x: Map) -> Float[Array, "batch rows columns channels"]:  # noqa: D102
        return self._resize(x) + self.conv(self._resize(jax.nn.silu(self.norm(x))))

    def _resize(self, x: Map) -> Float[Array, "batch rows columns channels"]:
        if self.up:
            return x.repeat(2, axis=1).repeat(2, axis=2)
        batch, height, width, channels = x.shape
        return x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
