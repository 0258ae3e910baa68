r"""Learned noise: the numbers of a path, trained together with a network.

With the network's velocity $v$ and the conditional one $u$, the mean is minimized of

$$ \lambda_f \, w \, \bigl( |v|^2 - 2 v u + \overline{|u|^2} \bigr) + \lambda_t \, |Y_T - x_0'|^2
   - \lambda_s \log \partial_n Y_T(n), $$

each a mean over components. The square of the target is detached: its gradient would make the noise small
rather than good. $x_0'$ has the rank in the batch that the noise $Y_T$ has, component by component, so that
the second term is the squared Wasserstein distance of the marginals of noise and data. The last one keeps
the noise's law from degenerating.

Source: J. Chemseddine, G. Kornhardt, R. Duong, G. Steidl, *Adapting Noise to Data: Generative Flows from 1D
Processes*, arXiv 2510.12636; there the second term pairs whole data with noise.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key
from kacjax._validation import check_positive
from kacjax.couplings import couple, make_coupling
from kacjax.losses import Objective, as_data, count_atoms, sample_times
from kacjax.paths import Points, ProbabilityPath, Times
from kacjax.predictions import Prediction, make_prediction
from kacjax.processes.base import normal
from kacjax.training.step import default_optimizer
from kacjax.training.trainer import Callback, fit
from kacjax.velocity import Velocity, trainable, wrap_network

# Numbers are of order one, and far fewer than a network's.
_RATE = 0.02


class LearnedPath(NamedTuple):
    """What `fit_path` returns.

    Attributes:
        path: The path of the averaged numbers.
        numbers: These numbers.
        velocity: The velocity of the averaged network on it.
        losses: Of every step.
    """

    path: ProbabilityPath
    numbers: Any
    velocity: Velocity
    losses: np.ndarray

    def __repr__(self) -> str:
        return f"LearnedPath(steps={len(self.losses)}, last loss={self.losses[-1]:.4g})"


def fit_path(
    network: Any,
    make_path: Callable[[Any], ProbabilityPath],
    numbers: Any,
    data: Any,
    key: Key,
    steps: int = 2_000,
    batch_size: int = 256,
    *,
    flow: float | int = 1.0,
    transport: float | int = 1.0,
    log_slope: float | int = 0.01,
    prediction: str | Prediction = "x0",
    coupling: Any = "independent",
    time_power: float = 2.0,
    labels: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    path_optimizer: optax.GradientTransformation | None = None,
    ema_decay: float = 0.99,
    callback: Callback | None = None,
    progress: bool = True,
) -> LearnedPath:
    r"""Learns the numbers of a path together with a network; what is learned is then held by `fit`.

    Args:
        network: As in `fit`.
        make_path: Makes the path of numbers that are free of constraints; its `T` must not depend on
            them. Numbers that are positive are learned as logarithms.
        numbers: What to start from: floats and arrays, in any pytree.
        data: As in `fit`.
        key: Random key.
        steps: Optimizer steps.
        batch_size: Data in one step; ranks are those in a batch, so that it should not be small.
        flow: Weight $\lambda_f$ of the loss of the flow; with 0 the network is not trained.
        transport: Weight $\lambda_t$ of the distance between the marginals of noise and data.
        log_slope: Weight $\lambda_s$ of the logarithm of the slope; 0 for noise with atoms.
        prediction: As in `fit`.
        coupling: Which datum meets which noise in the loss of the flow, see `kacjax.couplings`.
        time_power: Exponent of the times' distribution, see `fit`.
        labels: As in `fit`.
        optimizer: Of the network, as in `fit`.
        path_optimizer: Of the numbers; `optax.adam(0.02)` with a cosine to 0 if missing.
        ema_decay: Decay of the averages, of the numbers too.
        callback: As in `fit`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a weight is negative, `numbers` holds no floats, `log_slope` is not 0 for noise
            with atoms, or as `fit`.

    Example:
        >>> start = kacjax.QuantileProcess.gaussian((2,), bins=4)
        >>> def make_path(numbers):
        ...     return kacjax.ProbabilityPath(kacjax.QuantileProcess(*numbers))
        >>> numbers = start.log_heights, start.log_slopes
        >>> data = np.random.default_rng(0).laplace(size=(200, 2))
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
        >>> arguments = network, make_path, numbers, data, jax.random.key(0), 3, 32
        >>> learned = kacjax.training.fit_path(*arguments, progress=False)
        >>> network, path = learned.velocity.network, learned.path
        >>> run = kacjax.fit(network, path, data, jax.random.key(1), 3, 32, progress=False)
        >>> run.velocity.path.process.log_heights.shape
        (2, 4)
    """
    objective = PathMatching(flow, transport, log_slope, coupling, time_power)
    numbers = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.result_type(float)), numbers)
    if not jax.tree.leaves(numbers):
        raise ValueError("numbers must hold floats to learn, got none.")
    first, wrapped = make_path(numbers), wrap_network(network)
    if log_slope and first.process.has_atoms:
        name = type(first.process).__name__
        raise ValueError(f"log_slope must be 0 for {name}, which has atoms; got {log_slope}.")
    joint = _Joint(wrapped, numbers, make_path)
    mask = trainable(wrapped) if flow else jax.tree.map(lambda _: False, wrapped)
    trained = _Joint(mask, jax.tree.map(lambda _: True, numbers), make_path)
    rate = optax.cosine_decay_schedule(_RATE, steps)
    parts: dict[Hashable, optax.GradientTransformation] = {
        "network": optimizer or default_optimizer(steps),
        "numbers": path_optimizer or optax.adam(rate),
    }
    # The path that `fit` knows says what T is; the objective makes the one that is learned.
    run = fit(
        joint,
        first,
        data,
        key,
        steps,
        batch_size,
        objective=objective,
        prediction=prediction,
        labels=labels,
        optimizer=optax.partition(parts, _kinds),
        ema_decay=ema_decay,
        trainable=trained,
        callback=callback,
        progress=progress,
    )
    found = run.velocity.network
    path = make_path(found.numbers)
    velocity = Velocity(found.network, path, prediction, run.velocity.classes)
    return LearnedPath(path, found.numbers, velocity, run.losses)


class PathMatching(Objective):
    """The objective of `fit_path`, which says what the attributes are.

    Example:
        >>> draw = kacjax.training.PathMatching().draw(
        ...     None, None, jax.random.key(0), jnp.arange(4.0)[:, None], None, kacjax.kac_path())
        >>> bool(jnp.all(jnp.argsort(draw.n[:, 0]) == jnp.argsort(draw.partner[:, 0])))
        True
    """

    flow: ArrayLike = 1.0
    transport: ArrayLike = 1.0
    log_slope: ArrayLike = 0.01
    coupling: Any = "independent"
    time_power: float = eqx.field(static=True, default=2.0)

    class Draw(NamedTuple):
        """Normal variables behind the noise, and the data that marginal transport pairs them with."""

        t: Times
        x0: Points
        n: Points
        partner: Points
        labels: Any

    def __check_init__(self) -> None:
        for name in ("flow", "transport", "log_slope"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not value >= 0:
                raise ValueError(f"{name} must be at least 0, got {value!r:.100}.")
        if not (self.flow or self.transport):
            raise ValueError("flow or transport must be positive, got 0 and 0.")
        check_positive("time_power", self.time_power)
        make_coupling(self.coupling)

    def draw(
        self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: ProbabilityPath
    ) -> Draw:
        """All that is random, without the numbers that are learned."""
        x0 = as_data(x0)
        time_key, noise_key = jax.random.split(key)
        t = sample_times(time_key, path, len(x0), self.time_power).astype(x0.dtype)
        coupling = make_coupling(self.coupling)
        if coupling is None:
            n = normal(noise_key, x0.shape, x0.dtype)
        else:
            n = couple(coupling, noise_key, x0, labels)
        rank = jnp.argsort(jnp.argsort(n, axis=0), axis=0)
        partner = jnp.take_along_axis(jnp.sort(x0, axis=0), rank, axis=0)
        return self.Draw(t, x0, n, partner, labels)

    def errors(
        self, velocity: Any, draw: Any, key: Key | None, path: ProbabilityPath
    ) -> Float[Array, " batch"]:
        """The three terms at each datum."""
        t, x0, n, partner, _ = draw
        joint: _Joint = velocity.network
        path = joint.make_path(joint.numbers)
        final = path.coefficients(jnp.full_like(t, path.T), x0.ndim).g
        last, slope = jax.jvp(
            lambda n: path.process.from_normal(final, n), (n,), (jnp.ones_like(n),)
        )
        errors = self.transport * jnp.square(last - partner)
        if not path.process.has_atoms:
            # A slope that underflows must not make 0 times infinity.
            slope = jnp.maximum(slope, jnp.finfo(slope.dtype).tiny)
            errors = errors - self.log_slope * jnp.log(slope)
        errors = errors + self.flow * self._flow(velocity, path, draw, key)
        return jnp.mean(errors.reshape(len(errors), -1), axis=-1)

    def _flow(self, velocity: Velocity, path: ProbabilityPath, draw: Draw, key: Any) -> Array:
        """The error of the flow at each component, of the target's square a constant."""
        t, x0, n, _, labels = draw
        c = path.coefficients(t, x0.ndim)
        noise, motion = path.process.from_normal_with_velocity(c.g, n)
        target = c.f_dot * x0 + c.g_dot * motion
        own = Velocity(velocity.network.network, path, velocity.prediction, velocity.classes)
        given = () if labels is None else (labels,)
        v = own(t, c.f * x0 + noise, *given, **({} if key is None else {"key": key}))
        known = lax.stop_gradient((path, target))
        times = t.reshape((-1,) + (1,) * (x0.ndim - 1))
        weight = make_prediction(velocity.prediction).weight(known[0], times)
        errors = weight * (jnp.square(v) - 2 * v * target + jnp.square(known[1]))
        log_mass, jump = path.process.atom_terms(c.g, noise)
        change = -2 * weight * v * c.g_dot * jump
        return count_atoms(errors, jnp.broadcast_to(log_mass, errors.shape), change)


class _Joint(eqx.Module):
    """A network and the numbers of a path, as what `fit` trains."""

    network: Any
    numbers: Any
    make_path: Callable[[Any], ProbabilityPath] = eqx.field(static=True)

    @property
    def config(self) -> dict[str, Any]:
        return getattr(self.network, "config", {})

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return self.network(*args, **kwargs)


def _kinds(trained: _Joint) -> _Joint:
    """Which optimizer each parameter has."""
    network = jax.tree.map(lambda _: "network", trained.network)
    return _Joint(network, jax.tree.map(lambda _: "numbers", trained.numbers), trained.make_path)
