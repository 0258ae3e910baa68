"""What `fit` minimizes: the loss as an object, and others beside it."""

import abc
import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax.couplings import make_coupling
from kacjax.losses.loss import Draw, Weight, as_data, draw_points, drop_labels, weighted_errors
from kacjax.losses.times import sample_times
from kacjax.paths import Points, ProbabilityPath, Times
from kacjax.predictions import BoundedPrediction, make_prediction, speed_of


class Objective(eqx.Module):
    """What `fit` minimizes, the mean of `errors`; a user's own is a subclass, or has both methods.

    Its arrays are arguments of the compiled program, so that a teacher in it costs no compilation.

    Example:
        >>> class ToData(kacjax.losses.Objective):
        ...     def draw(self, velocity, average, key, x0, labels, path):
        ...         t = kacjax.losses.sample_times(key, path, len(x0))
        ...         return path.sample(key, t, x0)
        ...     def errors(self, velocity, draw, key, path):
        ...         x0 = draw.x_t - draw.t[:, None] * velocity(draw.t, draw.x_t)
        ...         return jnp.sum((x0 - draw.x0) ** 2, axis=-1)
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
        >>> arguments = network, kacjax.flow_matching_path(), np.zeros((20, 2)), jax.random.key(0)
        >>> kacjax.fit(*arguments, 3, 8, objective=ToData(), progress=False).losses.shape
        (3,)
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
    """`flow_matching_loss` as an objective, with its arguments; the default of `fit`.

    Example:
        >>> objective = kacjax.losses.FlowMatching(weight="velocity", time_power=1.0)
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
        >>> arguments = network, kacjax.kac_path(), np.zeros((20, 2)), jax.random.key(0), 3, 8
        >>> kacjax.fit(*arguments, objective=objective, progress=False).losses.shape
        (3,)
    """

    weight: Weight = eqx.field(static=True, default="balanced")
    time_power: float = eqx.field(static=True, default=2.0)
    label_dropout: float = eqx.field(static=True, default=0.0)
    times: Any = None
    coupling: Any = "independent"
    null_label: Any = None

    def __check_init__(self) -> None:
        make_coupling(self.coupling)

    def draw(
        self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: ProbabilityPath
    ) -> Draw:
        """Points of the path with their velocities."""
        null = velocity.classes if self.null_label is None else self.null_label
        options = self.weight, self.time_power, self.label_dropout, null
        options += self.times, self.coupling
        return draw_points(path, key, x0, velocity.prediction, labels, *options)

    def errors(self, velocity: Any, draw: Any, key: Key | None, path: ProbabilityPath) -> Array:
        """The weighted squared errors."""
        return weighted_errors(velocity, draw, key)


class LabelDropout(Objective):
    """Another objective, which `fit` shows `null_label` instead of a share of the labels.

    Example:
        >>> flow = kacjax.losses.FlowMatching()
        >>> objective = kacjax.losses.objectives.LabelDropout(flow, 0.5, 3)
        >>> velocity = kacjax.Velocity(lambda t, x, label: x, kacjax.kac_path(), classes=3)
        >>> data = jax.random.key(0), jnp.zeros((90, 2)), jnp.zeros(90, int)
        >>> sorted(set(objective.draw(velocity, velocity, *data, velocity.path).labels.tolist()))
        [0, 3]
    """

    objective: Any
    label_dropout: float = eqx.field(static=True)
    null_label: Any

    def draw(
        self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: ProbabilityPath
    ) -> Any:
        """That of the objective, with fewer labels."""
        null = velocity.classes if self.null_label is None else self.null_label
        # Not a small number: the objective may split the key, which is what folding does.
        own = jax.random.fold_in(key, 2**32 - 1)
        labels = drop_labels(own, labels, self.label_dropout, null, len(x0))
        return self.objective.draw(velocity, average, key, x0, labels, path)

    def errors(self, velocity: Any, draw: Any, key: Key | None, path: ProbabilityPath) -> Array:
        """Those of the objective."""
        return self.objective.errors(velocity, draw, key, path)


def choose_objective(objective: Any, label_dropout: float, null_label: Any, **flow: Any) -> Any:
    """The loss of the flow with these arguments, or the objective given, to which they mean nothing."""
    if objective is None:
        return FlowMatching(label_dropout=label_dropout, null_label=null_label, **flow)
    for field in dataclasses.fields(FlowMatching):
        own = flow.get(field.name, field.default)
        if not (own is field.default or (isinstance(own, str | float) and own == field.default)):
            only = f"{field.default!r} with an objective of its own"
            raise ValueError(f"{field.name} must be {only}, got {own!r:.80}.")
    return LabelDropout(objective, label_dropout, null_label) if label_dropout else objective


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

    def draw(
        self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: ProbabilityPath
    ) -> Draw:
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

    def errors(self, velocity: Any, draw: Any, key: Key | None, path: ProbabilityPath) -> Array:
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
