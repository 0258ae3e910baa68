r"""The conditional flow matching loss, one for every path.

$$ L(\theta) = \mathbb E \, w(t) \, \bigl| v_\theta(t, x_t) - u(t, x_t \mid x_0) \bigr|^2 / d $$

The minimizer is the marginal velocity $\mathbb E[u \mid x_t]$ for every positive weight $w$ and density
of times: these decide only where the network spends its capacity.

Source: Y. Lipman et al., *Flow Matching for Generative Modeling*, arXiv 2210.02747.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import check_labels, choose, null_like, refuse_gradient, widen
from kacjax.couplings import couple, make_coupling
from kacjax.data.images import to_float
from kacjax.losses.times import sample_times
from kacjax.paths import Atoms, Points, ProbabilityPath, Times
from kacjax.predictions import make_prediction

Weight: TypeAlias = str | Callable[[Times], Array]
"""The weight of each time: `balanced`, `velocity`, or a function of times of shape `(batch,)`."""


_COUPLED_ATOMS = (
    "coupling must be 'independent' for a gradient in the numbers of a path whose noise has atoms: "
    "what it lacks is known only where data and noise are independent."
)


class Draw(NamedTuple):
    """What is random in a loss: points of the path, with targets, labels and weights."""

    t: Times
    x_t: Points
    target: Points
    labels: Any
    weight: Float[Array, "batch ..."]
    atoms: Atoms | None = None


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

    Its first derivatives in the numbers of the path, of process, signal and clock, are unbiased for
    those of the expected loss, also where atoms change their mass; see `Process.atom_terms`.

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
    draw = draw_points(path, key, x0, prediction, *options, atoms=True)
    return jnp.mean(weighted_errors(velocity, draw, dropout_key))


def draw_points(
    path: ProbabilityPath,
    key: Key,
    x0: Any,
    prediction: Any,
    labels: Any,
    weight: Any,
    time_power: Any,
    label_dropout: float,
    null_label: Any,
    times: Any = None,
    coupling: Any = "independent",
    atoms: bool = False,
) -> Draw:
    """The random part of the loss, for a whole batch; see `flow_matching_loss`.

    With `atoms` gradients in the path's numbers go through it.
    """
    x0 = as_data(x0)
    batch, broadcast = x0.shape[:1], (-1,) + (1,) * (x0.ndim - 1)
    time_key, noise_key, label_key = jax.random.split(key, 3)
    known = labels = check_labels(labels, batch[0])
    if label_dropout:
        labels = drop_labels(label_key, labels, label_dropout, null_label, batch[0])
    if times is None:
        times = partial(sample_times, power=time_power)
    t = jnp.asarray(times(time_key, path, batch[0]))
    if t.shape != batch:
        raise ValueError(f"times must return shape {batch}, got {t.shape}.")
    t, coupling, terms = t.astype(x0.dtype), make_coupling(coupling), None
    if coupling is not None:  # The same normal variables meet other data, by labels before dropout.
        point = path.sample_from_normal(t, x0, couple(coupling, noise_key, x0, known))
        if atoms and path.process.has_atoms:
            point = refuse_gradient(point, path, _COUPLED_ATOMS)
    elif atoms:
        point, terms = path.sample_with_atoms(noise_key, t, x0)
    else:
        point = path.sample(noise_key, t, x0)
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
    return Draw(t, point.x_t, point.velocity, labels, weights, terms)


def drop_labels(key: Key, labels: Any, label_dropout: float, null_label: Any, num: int) -> Any:
    """Labels of which a random share is replaced by the one that stands for no class."""
    if labels is None or null_label is None:
        missing = "labels" if labels is None else "null_label, which stands for no class"
        raise ValueError(f"label_dropout={label_dropout} needs {missing}; got None.")
    dropped = jax.random.bernoulli(key, label_dropout, (num,))

    def drop(null: Array, own: Array) -> Array:
        return jnp.where(dropped.reshape((num,) + (1,) * (own.ndim - 1)), null, own)

    return jax.tree.map(drop, null_like(labels, null_label), labels)


def weighted_errors(velocity: Any, draw: Draw, dropout_key: Key | None = None) -> Array:
    """The weighted squared error at each point, a mean over its components."""
    given = () if draw.labels is None else (draw.labels,)
    optional = {} if dropout_key is None else {"key": dropout_key}
    predicted = velocity(draw.t, draw.x_t, *given, **optional)
    shape = draw.x_t.shape
    if jnp.shape(predicted) != shape:
        raise ValueError(f"velocity must return shape {shape}, got {jnp.shape(predicted)}.")
    difference = predicted.astype(draw.target.dtype) - draw.target
    errors = draw.weight * jnp.square(difference)
    if draw.atoms is not None:
        # The error less that with the velocity beside the atom.
        jump = draw.atoms.jump
        change = -draw.weight * jump * (2 * difference + jump)
        errors = count_atoms(errors, draw.atoms.log_mass, change)
    return jnp.mean(errors.reshape(shape[0], -1), axis=-1)


@jax.custom_jvp
def count_atoms(values: Array, log_mass: Array, change: Array) -> Array:
    """The `values`, whose derivatives get what those of atoms lack; see `Process.atom_terms`.

    Args:
        values: A function of samples and velocities.
        log_mass: Of `atom_terms`, at each sample.
        change: The values less those with the velocity beside the atom.

    Example:
        >>> def speed(a, y, v):  # E|v| at s = 1, of samples and their velocities.
        ...     log_mass, jump = kacjax.KacProcess(a, 1.0).atom_terms(1.0, y)
        ...     change = jnp.abs(v) - jnp.abs(v - jump)
        ...     return kacjax.losses.count_atoms(jnp.abs(v), log_mass, change)
        >>> float(jax.grad(speed)(2.0, 1.0, 1.0))  # On an atom: d log p / da = -1, jump 1 / 2.
        -0.5
    """
    return values


@partial(count_atoms.defjvp, symbolic_zeros=True)
def _count_atoms_jvp(primals, tangents):
    # Nothing is computed unless the probability is differentiated.
    dot, log_mass_dot, _ = tangents
    if isinstance(dot, SymbolicZero):
        dot = jnp.zeros_like(primals[0])
    if not isinstance(log_mass_dot, SymbolicZero):
        dot = dot + log_mass_dot * primals[2]
    return primals[0], dot


def as_data(x0: Any) -> Float[Array, "batch *event"]:
    """Data as floats of at least 32 bits; bytes stand for numbers in `[-1, 1]`.

    Example:
        >>> kacjax.losses.as_data(np.array([0, 255], np.uint8))
        Array([-1.,  1.], dtype=float32)
    """
    x0 = jnp.asarray(x0)
    if x0.ndim < 1 or x0.size == 0:
        raise ValueError(f"x0 must hold at least one datum, got shape {x0.shape}.")
    if x0.dtype == jnp.uint8:
        return to_float(x0)
    if not jnp.issubdtype(x0.dtype, jnp.floating):
        raise ValueError(f"x0 must be floats, or bytes as uint8, got {x0.dtype}.")
    return widen(x0)
