"""Trajectories: samples on their way, at any times."""

from typing import Unpack

from jaxtyping import Array

from kacjax._typing import ArrayLike, Key, Shape
from kacjax.generation.fields import LabelledVelocity, Labels, VelocityField, check_labels
from kacjax.generation.integration import integrate
from kacjax.generation.noise import initial_noise
from kacjax.generation.plans import Options, check_saved, make_plan
from kacjax.paths import ProbabilityPath


def trajectory(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    key: Key,
    shape: Shape,
    times: ArrayLike,
    steps: int = 50,
    *,
    x0: Array | None = None,
    labels: Labels | None = None,
    **options: Unpack[Options],
) -> Array:
    """Generates samples and keeps them on their way, at the times given.

    Args:
        velocity: As in `generate`, like all arguments not listed here.
        path: The path.
        key: Random key; the same one gives the samples of `generate`.
        shape: Shape `(num, *event)` of the samples.
        times: Times in `[0, T]`, of shape `(num_times,)`, falling; between the solver's steps the
            result is interpolated.
        steps: Steps of a fixed-step solver.
        x0: Data, where the prior needs them.
        labels: Class labels.
        options: `solver`, `coordinates`, `grid`, `power`, `rtol`, `atol`, `control`.

    Returns:
        Positions of shape `(num_times, *shape)`.

    Raises:
        ValueError: As `generate`, or if `times` do not fall or leave `[0, T]`.
    """
    saved = check_saved(times, path)
    plan = make_plan(path, steps, **options)
    labels = check_labels(labels, shape[0], velocity)
    x_T = initial_noise(path, key, shape, x0)
    return integrate(VelocityField(velocity), plan, x_T, labels, saved)[0]
