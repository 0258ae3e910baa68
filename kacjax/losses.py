r"""The conditional flow matching loss, one for every path.

$$ L(\theta) = \mathbb E \, w(t) \, \bigl| v_\theta(t, x_t) - u(t, x_t \mid x_0) \bigr|^2 / d $$

The minimizer is the marginal velocity $\mathbb E[u \mid x_t]$ for every positive weight $w$ and density
of times: these decide only where the network spends its capacity.

Source: Y. Lipman et al., *Flow Matching for Generative Modeling*, arXiv 2210.02747.
"""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_labels, check_positive, choose, null_like, widen
from kacjax.couplings import couple, make_coupling
from kacjax.paths import Points, ProbabilityPath, Times
from kacjax.predictions import BoundedPrediction, make_prediction, speed_of

Weight: TypeAlias = str | Callable[[Times], Array]
"""The weight of each time: `balanced`, `velocity`, or a function of times of shape `(batch,)`."""


class Draw(NamedTuple):
    """What is random in a loss: points of the path, with targets, labels and weights."""

    t: Times
    x_t: Points
    target: Points
    labels: Any
    weight: Float[Array, "batch ..."]


def flow_matching_loss(
    velocity: Callable[..., Array],
    path: ProbabilityPath,
    key: Key,
    x0: Any,
    *,
    labels: Any = None,
    weight: Weight = "balanced",
    time_power: float = 2.0,
    times: Any = None,
    coupling: Any = "independent",
    label_dropout: float = 0.0,
    null_label: Any = None,
    dropout_key: Key | None = None,
) -> Float[Array, ""]:
    r"""The loss on one batch, a mean over data and components; what `fit` minimizes.

    Args:
        velocity: A `kacjax.Velocity`, or any `velocity(t, x)`, with labels `velocity(t, x, labels)`.
        path: Path from data to noise.
        key: Random key of times, noise and label dropout.
        x0: Data `(batch, *event)`: floats, or bytes (uint8), which stand for `[-1, 1]`.
        labels: The class of each datum, integers of shape `(batch,)`; or conditions, floats of shape
            `(batch, ...)` or a pytree of arrays that have the batch first.
        weight: `balanced` is the weight of `velocity.prediction`, see `kacjax.predictions`, or 1;
            `velocity` is 1; or a function of the times that returns one weight for each.
        time_power: Times are $T u^p$ with uniform $u$ and this $p$; see `sample_times`.
        times: How times are drawn instead: `times(key, path, batch)`, as `LogNormalTimes`.
        coupling: Which datum meets which noise: `independent`, `ot` or a callable, see
            `kacjax.couplings`.
        label_dropout: Probability that a label is replaced by `null_label`, to learn guidance.
        null_label: The label that stands for no class; a number for all of a condition, or one
            condition.
        dropout_key: Passed to the velocity as `key`, which switches the network's dropout on.

    Returns:
        The loss, in float32 at least, whatever the types of data and network.

    Raises:
        ValueError: If `x0` is empty or holds integers other than bytes, shapes do not fit, a name
            is unknown, or `label_dropout` comes without labels or `null_label`.

    Example:
        >>> path, velocity = kacjax.kac_path(), lambda t, x: -x
        >>> kacjax.flow_matching_loss(velocity, path, jax.random.key(0), jnp.ones((4, 2))).shape
        ()
    """
    prediction = getattr(velocity, "prediction", None)
    options = (labels, weight, time_power, label_dropout, null_label, times, coupling)
    draw = draw_points(path, key, x0, prediction, *options)
    return jnp.mean(weighted_errors(velocity, draw, dropout_key))


def draw_points(
    path,
    key,
    x0,
    prediction,
    labels,
    weight,
    time_power,
    label_dropout,
    null_label,
    times=None,
    coupling="independent",
) -> Draw:
    """The random part of the loss, for a whole batch; see `flow_matching_loss`."""
    x0 = as_data(x0)
    batch, broadcast = x0.shape[:1], (-1,) + (1,) * (x0.ndim - 1)
    time_key, noise_key, label_key = jax.random.split(key, 3)
    known = labels = check_labels(labels, batch[0])
    if label_dropout:
        if labels is None or null_label is None:
            missing = "labels" if labels is None else "null_label, which stands for no class"
            raise ValueError(f"label_dropout={label_dropout} needs {missing}; got None.")
        dropped = jax.random.bernoulli(label_key, label_dropout, batch)

        def drop(null: Array, own: Array) -> Array:
            return jnp.where(dropped.reshape(batch + (1,) * (own.ndim - 1)), null, own)

        labels = jax.tree.map(drop, null_like(labels, null_label), labels)
    if times is None:
        times = partial(sample_times, power=time_power)
    t = jnp.asarray(times(time_key, path, batch[0]))
    if t.shape != batch:
        raise ValueError(f"times must return shape {batch}, got {t.shape}.")
    t, coupling = t.astype(x0.dtype), make_coupling(coupling)
    if coupling is None:
        point = path.sample(noise_key, t, x0)
    else:  # Of the same normal variables, which other data meet; by the labels before dropout.
        point = path.sample_from_normal(t, x0, couple(coupling, noise_key, x0, known))
    if callable(weight):
        weights = jnp.asarray(weight(t), t.dtype)
        if weights.shape != batch:
            raise ValueError(f"weight must return shape {batch}, got {weights.shape}.")
        weights = weights.reshape(broadcast)
    elif choose("weight", weight, {"balanced": True, "velocity": False}):
        # A weight for each component, where the process has parameters for each.
        weights = make_prediction(prediction or "velocity").weight(path, t.reshape(broadcast))
    else:
        weights = jnp.ones_like(t).reshape(broadcast)
    return Draw(t, point.x_t, point.velocity, labels, weights)


def weighted_errors(velocity: Any, draw: Draw, dropout_key: Key | None = None) -> Array:
    """The weighted squared error at each point, a mean over its components."""
    given = () if draw.labels is None else (draw.labels,)
    optional = {} if dropout_key is None else {"key": dropout_key}
    predicted = velocity(draw.t, draw.x_t, *given, **optional)
    shape = draw.x_t.shape
    if jnp.shape(predicted) != shape:
        raise ValueError(f"velocity must return shape {shape}, got {jnp.shape(predicted)}.")
    errors = draw.weight * jnp.square(predicted.astype(draw.target.dtype) - draw.target)
    return jnp.mean(errors.reshape(shape[0], -1), axis=-1)


def sample_times(key: Key, path: ProbabilityPath, batch: int, power: float = 1.0) -> Times:
    r"""Times in `(0, T]` that are spread evenly: $t_i = T u_i^p$, $u_i = U + i / \varphi \bmod 1$.

    Each has the law of $T U^p$ with uniform $U$; together they leave gaps of at most $1.9 / n$ in $u$,
    so that the loss has less variance than with independent times.

    Source: L. Kuipers, H. Niederreiter, *Uniform Distribution of Sequences* (1974), section 2.3;
    one shift for a batch as in D. Kingma et al., *Variational Diffusion Models*, arXiv 2107.00630.

    Example:
        >>> kacjax.losses.sample_times(jax.random.key(0), kacjax.kac_path(), 5, power=2.0).shape
        (5,)
    """
    check_positive("time_power", power)
    u = _spread(key, batch)
    return jnp.asarray(path.T, u.dtype) * jnp.power(u, power)


def _spread(key: Key, batch: int) -> Float[Array, " batch"]:
    """Numbers in `(0, 1]`, see `sample_times`."""
    dtype = jnp.result_type(float)
    # Fractions of 2^32, where adding wraps around, of 24 bits; the factor is 2^32 / golden ratio.
    steps = jnp.arange(batch, dtype=jnp.uint32) * np.uint32(2654435769)
    return ((jax.random.bits(key, dtype=jnp.uint32) + steps >> 8).astype(dtype) + 1) / 2**24


class LogNormalTimes(eqx.Module):
    r"""EDM's times, $t = \min(e^{\mu + s N}, T)$, spread as evenly as those of `sample_times`.

    On `edm_path` the time is the noise's deviation; EDM's $\mu = -1.2$, $s = 1.2$ are the defaults.

    Attributes:
        mean: Mean $\mu$ of the logarithm of the time.
        std: Its deviation $s$, positive.

    Source: T. Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*,
    arXiv 2206.00364, table 1.

    Example:
        >>> kacjax.losses.LogNormalTimes()(jax.random.key(0), kacjax.edm_path(), 5).shape
        (5,)
    """

    mean: ArrayLike = -1.2
    std: ArrayLike = 1.2

    def __check_init__(self):
        check_positive("std", self.std)

    def __call__(self, key: Key, path: ProbabilityPath, batch: int) -> Times:
        """Times of this law, at most `T`."""
        u = _spread(key, batch)
        t = jnp.exp(self.mean + self.std * ndtri(u))
        return jnp.minimum(t, jnp.asarray(path.T, u.dtype))


class Objective(eqx.Module):
    """What `fit` minimizes, the mean of `errors`; a user's own is a subclass, or has both methods.

    Its arrays are arguments of the compiled program, so that a teacher in it costs no compilation.
    """

    @abc.abstractmethod
    def draw(
        self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: ProbabilityPath
    ) -> Any:
        """All that is random, and targets, for a whole batch: no gradient goes through it.

        Args:
            velocity: The `kacjax.Velocity` that is trained.
            average: That of the averaged parameters.
            key: Random key.
            x0: Data `(batch, *event)`, floats or bytes; see `as_data`.
            labels: Their classes, or None.
            path: The path.

        Returns:
            A pytree whose arrays have the batch first, with the times as its attribute `t`.
        """

    @abc.abstractmethod
    def errors(
        self, velocity: Any, draw: Any, key: Key | None, path: ProbabilityPath
    ) -> Float[Array, " batch"]:
        """The error of each datum of a draw, or of a part of it; `key` is that of dropout."""


class FlowMatching(Objective):
    """`flow_matching_loss` as an objective, with its arguments; the default of `fit`."""

    weight: Weight = eqx.field(static=True, default="balanced")
    time_power: float = eqx.field(static=True, default=2.0)
    label_dropout: float = eqx.field(static=True, default=0.0)
    times: Any = None
    coupling: Any = "independent"
    null_label: Any = None

    def __check_init__(self):
        make_coupling(self.coupling)

    def draw(self, velocity, average, key, x0, labels, path) -> Draw:
        """Points of the path with their velocities."""
        null = velocity.classes if self.null_label is None else self.null_label
        options = self.weight, self.time_power, self.label_dropout, null
        options += self.times, self.coupling
        return draw_points(path, key, x0, velocity.prediction, labels, *options)

    def errors(self, velocity, draw, key, path) -> Array:
        """The weighted squared errors."""
        return weighted_errors(velocity, draw, key)


class SignMatching(Objective):
    r"""Cross-entropy for `prediction="bounded"`: the sign of the noise's motion is learned as a class.

    Given the noise `y`, a Kac path moves up with probability $p = (1 + v(s, y) / c) / 2$, so that
    $\sigma(2 z) = (1 + \tanh z) / 2$ is to be its mean at each point:

    $$ \mathbb E \; f'^2 |\hat x_0 - x_0|^2 + (g' c)^2 \, H\bigl(p, \sigma(2 z)\bigr). $$

    Attributes:
        drawn: Whether the sign itself is drawn, or `p` stands for it, which has less variance.
        time_power: Exponent of the times' distribution, see `flow_matching_loss`.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, outputs=2)
        >>> arguments = network, kacjax.kac_path(), np.zeros((20, 2)), jax.random.key(0), 3, 8
        >>> options = {"objective": kacjax.losses.SignMatching(), "prediction": "bounded"}
        >>> kacjax.fit(*arguments, **options, progress=False).losses.shape
        (3,)
    """

    drawn: bool = eqx.field(static=True, default=False)
    time_power: float = eqx.field(static=True, default=2.0)

    class Draw(NamedTuple):
        """Points with their data, and the probabilities of a motion upwards."""

        t: Times
        x_t: Points
        x0: Points
        up: Points
        labels: Any

    def draw(self, velocity, average, key, x0, labels, path) -> Draw:
        """Points of the path, and which way their noise moves."""
        x0 = as_data(x0)
        time_key, noise_key, sign_key = jax.random.split(key, 3)
        t = sample_times(time_key, path, len(x0), self.time_power).astype(x0.dtype)
        c = path.coefficients(t, x0.ndim)
        noise, motion = path.process.sample_with_velocity(noise_key, c.g, x0.shape)
        up = jnp.clip((1 + motion / speed_of(path)) / 2, 0, 1).astype(x0.dtype)
        if self.drawn:
            up = jax.random.bernoulli(sign_key, up).astype(x0.dtype)
        return self.Draw(t, c.f * x0 + noise, x0, up, labels)

    def errors(self, velocity, draw, key, path) -> Array:
        """The error of the data and the cross-entropy of the sign, in units of the velocity."""
        t, x, known, up, labels = draw
        prediction = make_prediction(velocity.prediction)
        if not isinstance(prediction, BoundedPrediction):
            raise ValueError(
                f"velocity must have prediction='bounded', got {velocity.prediction!r}."
            )
        x0, z = prediction.split(x, velocity.output(t, x, labels, key=key))
        c = path.coefficients(t, x.ndim)
        entropy = jnp.logaddexp(0, 2 * z) - 2 * up * z
        errors = jnp.square(c.f_dot * (x0 - known))
        errors = errors + jnp.square(c.g_dot * speed_of(path)) * entropy
        return jnp.mean(errors.reshape(len(errors), -1), axis=-1)


def as_data(x0: Any) -> Float[Array, "batch *event"]:
    """Data as floats of at least 32 bits; bytes stand for numbers in `[-1, 1]`."""
    x0 = jnp.asarray(x0)
    if x0.ndim < 1 or x0.size == 0:
        raise ValueError(f"x0 must hold at least one datum, got shape {x0.shape}.")
    if x0.dtype == jnp.uint8:
        # The difference is exact, and only the product is rounded.
        return (2 * x0.astype(jnp.float32) - 255) * jnp.float32(1 / 255)
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(f"x0 must be floats, or bytes as uint8, got {x0.dtype}.")
    return widen(x0)
