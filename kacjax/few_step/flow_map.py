r"""Flow maps: a network with two times that jumps from any point of a trajectory to any later one.

In straight coordinates the map from $\rho$ to $r \le \rho$ is
$X(u, \rho, r) = u - (\rho - r) \, S_\theta(u, \rho, r)$ with the average slope `S`, and
$S_\theta(u, \rho, \rho) = s$ is the slope of the velocity itself, learned by flow matching. What makes
a map of it is one of

- `lsd`: $\partial_r X(u, \rho, r) = \bar s(X(u, \rho, r), r)$, Lagrangian self-distillation with the slope
  $\bar s$ of the averaged network: its target needs no derivative in space, which matters because
  exact Kac velocities jump at the light cones.
- `meanflow`: $S = s - (\rho - r) \, \frac{d}{d\rho} S(u_\rho, \rho, r)$ along $\dot u = s$, with the
  conditional slope for `s` and the right-hand side held fixed.

Sources: N. Boffi, M. Albergo, E. Vanden-Eijnden, *How to build a consistency model*, arXiv
2505.18825; Z. Geng et al., *Mean Flows for One-step Generative Modeling*, arXiv 2505.13447.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key, Shape
from kacjax._validation import check_choice, check_count, check_positive
from kacjax.few_step.distillation import rows, straight
from kacjax.generation import generate, initial_noise, solve
from kacjax.losses import Objective, as_data, sample_times
from kacjax.paths import Points
from kacjax.velocity import Changed

_KINDS = ("lsd", "meanflow")
# In the root of the time: before it, variances may underflow, and there is nothing to learn.
_EARLIEST = 1e-3
# An error of the slope is one of the data over rho; nearer to them it counts no more.
_LEAST = 1 / 300


class Draw(NamedTuple):
    """Points, where each is to be carried, and what its slope is to be."""

    t: Float[Array, " batch"]
    tau: Float[Array, " batch"]
    until: Float[Array, " batch"]
    u: Points
    target: Points
    labels: Any


class FlowMapLoss(Objective):
    r"""The objective of a flow map, for `fit` and `Trainer`: `fit(network, ..., objective=FlowMapLoss())`.

    The network has two times, as `kacjax.models.MLP(..., second_time=True)`. A share of the batch learns
    the velocity by flow matching, the rest carries it on. The weight of a squared error of the slope is
    $r^2 / (\rho + 1/300)$, for `meanflow` $\rho^2 / (\rho + 1/300)$.

    Attributes:
        kind: `lsd` or `meanflow`, see `kacjax.few_step.flow_map`.
        diagonal: Share of the batch with equal times, in (0, 1).
        time_power: Exponent of the times' distribution, see `flow_matching_loss`.

    Raises:
        ValueError: If the kind is unknown or the share out of its range.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, second_time=True)
        >>> objective, path = kacjax.few_step.FlowMapLoss(), kacjax.kac_path()
        >>> arguments = network, path, np.zeros((20, 2)), jax.random.key(0), 3, 8
        >>> velocity = kacjax.fit(*arguments, objective=objective, progress=False).velocity
        >>> kacjax.few_step.draw_flow_map(velocity, path, jax.random.key(1), (5, 2), steps=1).shape
        (5, 2)
    """

    kind: str = eqx.field(static=True, default="lsd")
    diagonal: float = eqx.field(static=True, default=0.5)
    time_power: float = eqx.field(static=True, default=2.0)

    def __check_init__(self) -> None:
        check_choice("kind", self.kind, _KINDS)
        if not 0 < self.diagonal < 1:
            raise ValueError(f"diagonal must lie in (0, 1), got {self.diagonal}.")

    def draw(self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: Any) -> Draw:
        """Points with what their slopes are to be."""
        coordinates, x0 = straight(path), as_data(x0)
        time_key, noise_key, until_key, which_key = jax.random.split(key, 4)
        t = sample_times(time_key, path, len(x0), self.time_power).astype(x0.dtype)
        tau = jnp.maximum(coordinates.solver_time(t), _EARLIEST)
        t, rho = coordinates.time(tau), coordinates.rho(tau)
        share = jax.random.uniform(until_key, t.shape, x0.dtype)
        equal = jax.random.uniform(which_key, t.shape, x0.dtype) < self.diagonal
        earlier = jnp.clip(coordinates.at_rho(rho * share).astype(t.dtype), _EARLIEST, tau)
        until = jnp.where(equal, tau, earlier)
        point = path.sample(noise_key, t, x0)
        u = coordinates.scaled(tau, point.x_t, -1)
        known = coordinates.slope(tau, u, None, lambda t, x: point.velocity)
        if self.kind == "lsd":
            end = u + rows(coordinates.rho(until) - rho, u) * _average(
                coordinates, velocity, u, tau, until, labels
            )
            learned = _average(coordinates, average, end, until, until, labels)
            target = jnp.where(rows(equal, u) > 0, known, learned)
        else:
            # Along the conditional slope; the derivative in tau becomes one in rho.
            rate = _rate(coordinates.rho, tau)
            _, change = jax.jvp(
                lambda u, tau: _average(coordinates, velocity, u, tau, until, labels),
                (u, tau),
                (known, 1 / rate),
            )
            target = known - rows(rho - coordinates.rho(until), u) * change
        return Draw(t, tau, until, u, jax.lax.stop_gradient(target), labels)

    def errors(self, velocity: Any, draw: Draw, key: Key | None, path: Any) -> Array:
        """The squared error of the slope at each point, about that of the data over `rho`."""
        coordinates, (_, tau, until, u, target, labels) = straight(path), draw
        rho, end = coordinates.rho(tau), coordinates.rho(until)
        average = lambda until: _average(coordinates, velocity, u, tau, until, labels, key)  # noqa: E731
        if self.kind == "lsd":
            rate = _rate(coordinates.rho, until)
            slope, change = jax.jvp(average, (until,), (1 / rate,))
            slope = slope + rows(end - rho, u) * change
        else:
            slope = average(until)
        error = jnp.square(slope - target).reshape(len(u), -1)
        scale = end if self.kind == "lsd" else rho
        weight = scale * scale / (rho + _LEAST)
        return weight.astype(error.dtype) * jnp.mean(error, axis=-1)


class Stepwise(Changed):
    """A flow map as a velocity whose steps end at given times; made by `stepwise`."""

    times: Float[Array, " times"]

    def __call__(self, t: Array, x: Array, *label: Array) -> Array:
        """The average velocity from `t`, one of the times, to the one below it."""
        nearest = jnp.argmin(jnp.abs(self.times[None] - t[:, None]), axis=1)
        until = self.times[jnp.maximum(nearest - 1, 0)].astype(t.dtype)
        return self.velocity(t, x, *label, until=until)


def stepwise(velocity: Any, path: Any, steps: int, grid_power: float = 2.0) -> Stepwise:
    """A flow map as the velocity with which `generate` takes its steps, by `solver="euler"`.

    Args:
        velocity: A `kacjax.Velocity` of a network with two times, trained with `FlowMapLoss`.
        path: Its path.
        steps: Evaluations of the network; give `generate` the same number.
        grid_power: Exponent of the steps; give `generate` the same.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, second_time=True)
        >>> path = kacjax.kac_path()
        >>> velocity = kacjax.few_step.stepwise(kacjax.Velocity(network, path), path, steps=2)
        >>> shape = (5, 2)
        >>> kacjax.generate(velocity, path, jax.random.key(1), shape, 2, solver="euler").shape
        (5, 2)
    """
    check_count("steps", steps)
    check_positive("grid_power", grid_power)
    coordinates = straight(path)
    times = coordinates.time(coordinates.grid(path.T, 0.0, steps, grid_power))
    return Stepwise(velocity, times[::-1])


def draw_flow_map(
    velocity: Any,
    path: Any,
    key: Key,
    shape: Shape,
    steps: int = 1,
    *,
    renoise: bool = False,
    grid_power: float = 2.0,
    labels: Any = None,
    **options: Any,
) -> Array:
    """Samples of a flow map, in any number of evaluations.

    Args:
        velocity: A `kacjax.Velocity` of a network with two times, trained with `FlowMapLoss`.
        path: Its path.
        key: Random key; the noise is that of `generate`.
        shape: Shape `(num, *event)` of the samples.
        steps: Evaluations of the network.
        renoise: Whether each step goes to the data, and the path adds new noise before the next.
        grid_power: Exponent of the steps, as in `generate`.
        labels: Class labels of shape `(num,)`.
        **options: `chunk_size`, `mesh` and `progress`, as in `generate`; not where there is new noise.

    Raises:
        ValueError: If an argument is out of its range or of a wrong shape.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, second_time=True)
        >>> path = kacjax.kac_path()
        >>> velocity = kacjax.Velocity(network, path)
        >>> kacjax.few_step.draw_flow_map(velocity, path, jax.random.key(1), (5, 2), steps=2).shape
        (5, 2)
    """
    field = stepwise(velocity, path, steps, grid_power)
    options |= {"solver": "euler", "coordinates": "straight", "labels": labels}
    if not renoise:
        return generate(field, path, key, shape, steps, grid_power=grid_power, **options)
    x, times = initial_noise(path, key, shape), field.times[::-1]
    # The prior of sample `i` has the key `fold_in(key, i)`.
    own = jax.random.fold_in(key, 2**32 - 1)
    for i, t in enumerate(times[:-1]):
        if i > 0:
            x = path.sample(jax.random.fold_in(own, i), jnp.full(len(x), t), x).x_t
        jump = Stepwise(velocity, jnp.stack([jnp.zeros_like(t), t]))
        x = solve(jump, path, x, t, 0.0, 1, **options)
    return x


def _average(
    coordinates: Any,
    velocity: Any,
    u: Array,
    tau: Array,
    until: Array,
    labels: Any,
    key: Any = None,
) -> Array:
    """The average slope from `tau` to `until` that a network with two times gives."""
    options = {"until": coordinates.time(until)} | ({} if key is None else {"key": key})
    return coordinates.slope(tau, u, labels, lambda *given: velocity(*given, **options))


def _rate(rho: Any, tau: Array) -> Array:
    """The derivative of the control, kept away from the 0 that it may have at the ends."""
    rate = jax.jvp(rho, (tau,), (jnp.ones_like(tau),))[1]
    return jnp.maximum(rate, 1e-3)
