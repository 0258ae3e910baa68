r"""Endpoint distillation: a student makes in one step what its teacher makes in many.

In straight coordinates, $u = x / (f + \sigma)$ and $\rho = \sigma / (f + \sigma)$, see
`kacjax.generation`, let the student have the steps $\rho_0 > \rho_1 > \dots > \rho_K = 0$. A noised
datum $u$ at $\rho_k$ is carried by the teacher to $y$ at $\rho_{k+1}$, in several steps, and the
student's slope at $u$ is to be the average one,

$$ \mathbb E \, \rho_k^2 \, \Bigl| s_\theta(u, \rho_k) - \frac{u - y}{\rho_k - \rho_{k+1}} \Bigr|^2 / d, $$

so that Euler's method on these steps lands at $y$. With the prediction `x0` the error is that of the
datum which the average slope stands for. The student is an ordinary velocity:
`kacjax.generate(student.velocity, path, key, shape, steps=K, solver="euler")` draws from it.

Sources: T. Salimans, J. Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, ICLR
2022; for Kac flows *DistillKac*, arXiv 2509.21513.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import check_choice, check_count, check_positive
from kacjax.generation.coordinates import Coordinates, make_coordinates
from kacjax.generation.solvers import ab2_weight
from kacjax.losses import Objective, as_data
from kacjax.paths import Points
from kacjax.training import fit
from kacjax.velocity import Velocity

_SOLVERS = ("ab2", "euler")


class Draw(NamedTuple):
    """Points at the beginnings of the student's steps, and the slopes that it is to have there."""

    t: Float[Array, " batch"]
    tau: Float[Array, " batch"]
    u: Points
    slope: Points
    labels: Any


class Distillation(Objective):
    """The objective of `distill`, for `Trainer` and loops of one's own.

    Attributes:
        teacher: A velocity on the student's path; guidance in it is learned, too.
        steps: Steps of the student.
        substeps: Steps of the teacher in each of them.
        solver: The teacher's solver, `ab2` or `euler`; a teacher that is a student needs `euler`.
        grid_power: Exponent of the steps, that of `generate`.

    Raises:
        ValueError: If a number is out of its range or the solver unknown.

    Example:
        >>> path = kacjax.kac_path()
        >>> teacher = kacjax.exact_velocity(path, jnp.array([[1.0, 0.0], [-1.0, 0.0]]))
        >>> objective = kacjax.few_step.Distillation(teacher, steps=2, substeps=8)
        >>> draw = objective.draw(teacher, teacher, jax.random.key(0), jnp.ones((4, 2)), None, path)
        >>> objective.errors(teacher, draw, None, path).shape
        (4,)
    """

    teacher: Any
    steps: int = eqx.field(static=True)
    substeps: int = eqx.field(static=True)
    solver: str = eqx.field(static=True, default="ab2")
    grid_power: float = eqx.field(static=True, default=2.0)

    def __check_init__(self) -> None:
        check_count("steps", self.steps)
        check_count("substeps", self.substeps)
        check_choice("solver", self.solver, _SOLVERS)
        check_positive("grid_power", self.grid_power)

    def draw(self, velocity: Any, average: Any, key: Key, x0: Any, labels: Any, path: Any) -> Draw:
        """Noised data, and where the teacher carries them."""
        del velocity, average
        coordinates, x0 = straight(path), as_data(x0)
        shift_key, noise_key = jax.random.split(key)
        count = self.steps * self.substeps
        taus = coordinates.grid(path.T, 0.0, count, self.grid_power).astype(x0.dtype)
        # Each step of the student has its share of the batch.
        shift = jax.random.randint(shift_key, (), 0, self.steps)
        first = (jnp.arange(len(x0)) + shift) % self.steps * self.substeps
        tau = taus[first]
        t = coordinates.time(tau)
        start = coordinates.scaled(tau, path.sample(noise_key, t, x0).x_t, -1)

        def move(i: Array, carry: Any) -> Any:
            u, last, before = carry
            tau, after = taus[first + i], taus[first + i + 1]
            step = coordinates.rho(after) - coordinates.rho(tau)
            slope = coordinates.slope(tau, u, labels, self.teacher)
            linear = self.solver == "ab2"
            weight = ab2_weight(step, before, after) if linear else jnp.zeros_like(step)
            change = slope + rows(weight, u) * (slope - last)
            return u + rows(step, u) * change, slope, step

        carry = start, jnp.zeros_like(start), jnp.zeros_like(tau)
        end = jax.lax.fori_loop(0, self.substeps, move, carry)[0]
        length = coordinates.rho(tau) - coordinates.rho(taus[first + self.substeps])
        return Draw(t, tau, start, (start - end) / rows(length, start), labels)

    def errors(self, velocity: Any, draw: Draw, key: Key | None, path: Any) -> Array:
        """The squared error of the student's slope at each point, in units of the datum."""
        coordinates = straight(path)
        call = velocity if key is None else lambda *arguments: velocity(*arguments, key=key)
        slope = coordinates.slope(draw.tau, draw.u, draw.labels, call)
        error = rows(coordinates.rho(draw.tau), draw.u) * (slope - draw.slope)
        return jnp.mean(jnp.square(error).reshape(len(error), -1), axis=-1)


class DistillResult(NamedTuple):
    """What `distill` returns.

    Attributes:
        velocity: The last student; draw from it by Euler's method in `steps` steps.
        steps: Its number of steps.
        stages: The students of all stages, by their numbers of steps.
        losses: The loss of every training step of each stage, by its number of steps.
        evaluations: How often a network was evaluated on a batch, teachers' evaluations included.
    """

    velocity: Velocity
    steps: int
    stages: dict[int, Velocity]
    losses: dict[int, np.ndarray]
    evaluations: int

    def __repr__(self) -> str:
        stages, last = list(self.stages), [float(f"{x[-1]:.4g}") for x in self.losses.values()]
        return f"DistillResult(steps={self.steps}, stages={stages}, last losses={last})"


def distill(
    teacher: Any,
    data: Any,
    key: Key,
    steps: int | Sequence[int] = (4, 1),
    training_steps: int = 5_000,
    batch_size: int = 256,
    *,
    student: Velocity | None = None,
    teacher_steps: int = 32,
    grid_power: float = 2.0,
    labels: Any = None,
    optimizer: optax.GradientTransformation | None = None,
    ema_decay: float = 0.999,
    flip: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    callback: Any = None,
    progress: bool = True,
) -> DistillResult:
    """Trains students of fewer and fewer steps, each from the one before, by `Distillation`.

    Args:
        teacher: A `kacjax.Velocity`, as `fit` returns it, or a guided one.
        data: Data to noise, as in `fit`.
        key: Random key.
        steps: Steps of the students, falling; each must divide the one before, so that a step of
            one ends where steps of the other do.
        training_steps: Optimizer steps of each stage.
        batch_size: Data in one of them.
        student: The velocity to begin with, whose network is trained; by default the teacher's.
        teacher_steps: Steps of the first teacher from noise to data, by `ab2`: a multiple of the
            first of `steps`.
        grid_power: Exponent of all steps, see `generate`; use the same with the student.
        labels: The class of each datum. Guidance of the teacher is learned with them.
        optimizer: As in `fit`, for each stage; like the arguments that follow.
        ema_decay: Decay of the averaged parameters.
        flip: Whether images are mirrored with probability one half.
        accumulate: Micro-batches to a step.
        mesh: Devices.
        callback: Called as `callback(step, metrics)`.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If the steps do not fall or divide, the teacher knows no path or is no network,
            or as `fit`.

    Example:
        >>> network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
        >>> teacher = kacjax.Velocity(network, kacjax.kac_path())
        >>> arguments = jnp.zeros((20, 2)), jax.random.key(0), (2, 1), 3, 8
        >>> student = kacjax.distill(teacher, *arguments, teacher_steps=4, progress=False)
        >>> student.steps, list(student.stages)
        (1, [2, 1])
    """
    ladder = [check_count("steps", step) for step in np.ravel(steps).tolist()]
    counts = [check_count("teacher_steps", teacher_steps), *ladder]
    if not ladder or any(a % b or a == b for a, b in itertools.pairwise(counts)):
        raise ValueError(
            f"steps must fall from teacher_steps={teacher_steps}, each dividing the one before; "
            f"got {steps}."
        )
    student = student or getattr(teacher, "velocity", teacher)
    if not isinstance(student, Velocity):
        raise ValueError(f"student must be a kacjax.Velocity to begin with, got {student!r:.100}.")
    path = getattr(teacher, "path", None) or student.path
    options = {"optimizer": optimizer, "labels": labels, "ema_decay": ema_decay, "flip": flip}
    options |= {"accumulate": accumulate, "mesh": mesh, "callback": callback, "progress": progress}
    if len(ladder) > 1 and isinstance(data, Iterator):
        raise ValueError(f"data must be no iterator for several stages, got {type(data).__name__}.")
    stages, losses, evaluations, solver = {}, {}, 0, "ab2"
    for number, (above, count) in enumerate(itertools.pairwise(counts)):
        objective = Distillation(teacher, count, above // count, solver, grid_power)
        found = fit(
            student.network,
            path,
            data,
            jax.random.fold_in(key, number),
            training_steps,
            batch_size,
            objective=objective,
            prediction=student.prediction,
            classes=student.classes,
            **options,
        )
        teacher = student = stages[count] = found.velocity
        losses[count] = found.losses
        evaluations += len(found.losses) * (above // count + 1)
        solver = "euler"
    return DistillResult(student, ladder[-1], stages, losses, evaluations)


def straight(path: Any) -> Coordinates:
    """The straight coordinates of a path; an error where it has none."""
    return make_coordinates(path, "straight")


def rows(values: Array, points: Array) -> Array:
    """One number for each point, to be multiplied with it."""
    return values.reshape(values.shape + (1,) * (points.ndim - values.ndim)).astype(points.dtype)
