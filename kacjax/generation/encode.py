"""Data to noise and back by the same equation, and interpolation through the noise."""

from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice
from kacjax.generation.fields import LabelledVelocity, VelocityField, check_labels
from kacjax.generation.solvers import Options, integrate, make_plan
from kacjax.paths import ProbabilityPath

Labels = Int[Array, "..."] | Int[np.ndarray, "..."] | None

INTERPOLATIONS = ("spherical", "linear")


def encode(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    steps: int = 50,
    *,
    t_min: Scalar = 0.0,
    labels: Labels = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """The noise that generation turns into these data: the equation solved from `t_min` to `T`.

    Where the data are points or lie on a curve, all noise flows into them, and at `t = 0` nothing
    tells what noise a datum came from; then start from `path.sample(key, t_min, x)`. A velocity
    that is infinite at 0 is asked at a later time of the first step instead.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        x: Points at time `t_min`.
        steps: Steps of a fixed-step solver.
        t_min: Time at which to start, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, as in `generate`.
        options: `solver`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

    Returns:
        Points at time `T`, or `(points, nfe)`.

    Raises:
        ValueError: As `generate`, or if `t_min` is outside `[0, T)`.
    """
    plan = make_plan(path, steps, t_min=t_min, **options)
    labels = check_labels(labels, x.shape[0])
    ys, nfe = integrate(VelocityField(velocity), plan, x, labels, plan.stops[:1], forwards=True)
    return (ys[0], nfe) if return_nfe else ys[0]


def decode(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    noise: Float[Array, "batch *event"],
    steps: int = 50,
    *,
    t_min: Scalar = 0.0,
    labels: Labels = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Generation from noise that is given: the inverse of `encode`, with its arguments.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        noise: Points at time `T`.
        steps: Steps of a fixed-step solver.
        t_min: Time at which to stop, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, as in `generate`.
        options: `solver`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

    Returns:
        Points at time `t_min`, or `(points, nfe)`.

    Raises:
        ValueError: As `generate`, or if `t_min` is outside `[0, T)`.
    """
    plan = make_plan(path, steps, t_min=t_min, **options)
    labels = check_labels(labels, noise.shape[0])
    ys, nfe = integrate(VelocityField(velocity), plan, noise, labels, plan.stops[-1:])
    return (ys[0], nfe) if return_nfe else ys[0]


def interpolate(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    x_a: Float[Array, "batch *event"],
    x_b: Float[Array, "..."],
    weights: ArrayLike,
    steps: int = 50,
    *,
    mode: str = "spherical",
    t_min: Scalar = 0.0,
    labels: Labels = None,
    **options: Unpack[Options],
) -> Float[Array, "weights batch *event"]:
    r"""Data between two data: their noises are mixed and decoded.

    Noise is mixed as what it is made of. Every process is a map $y = X(T, n)$ of standard normal
    variables; both noises are taken back to their `n` (`Process.normal_score`), these are mixed, and
    the result is mapped forward (`Process.transport`). A mixture of two Kac displacements would have
    the wrong law; this one is a typical draw of any prior.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path; its signal vanishes at `T`.
        x_a: Data at weight 0.
        x_b: Data at weight 1, of the same shape.
        weights: Weights of `x_b`, of shape `(num_weights,)`.
        steps: Steps of a fixed-step solver.
        mode: `spherical` turns the vector of all `n` of a datum from one to the other, which keeps
            its length typical; `linear` takes the straight line, with shorter vectors between.
        t_min: Time at which to start and stop, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`, for both ends.
        options: `solver`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

    Returns:
        Data of shape `(num_weights, batch, *event)`. At the weights 0 and 1 they are `x_a` and
        `x_b` up to the error of encoding and decoding.

    Raises:
        ValueError: As `encode`; if the shapes differ, `mode` is unknown, `weights` is no vector or
            the path's signal does not vanish at `T`.
    """
    check_choice("mode", mode, INTERPOLATIONS)
    if x_a.shape != x_b.shape:
        raise ValueError(f"x_b must have the shape of x_a, {x_a.shape}; got {x_b.shape}.")
    weights = jnp.asarray(weights, x_a.dtype)
    if weights.ndim != 1:
        raise ValueError(f"weights must be a vector, got shape {weights.shape}.")
    if not path.signal.vanishes:
        raise ValueError(
            f"the path's signal must vanish at T, got {type(path.signal).__name__}: at T its points "
            "still hold the data, and are no noise to be mixed."
        )
    batch, event = x_a.shape[0], x_a.shape[1:]
    twice = None if labels is None else jnp.concatenate([jnp.asarray(labels)] * 2)
    ends = jnp.concatenate([x_a, x_b])
    noise = encode(velocity, path, ends, steps, t_min=t_min, labels=twice, **options)
    time = path.clock(jnp.asarray(path.T, x_a.dtype))
    scores = path.process.normal_score(time, noise).reshape(2, batch, -1)
    mixed = _mix(scores[0], scores[1], weights, mode).reshape(-1, *event)
    every = None if labels is None else jnp.tile(jnp.asarray(labels), weights.size)
    noise = path.process.transport(time, mixed).astype(x_a.dtype)
    data = decode(velocity, path, noise, steps, t_min=t_min, labels=every, **options)
    return data.reshape(weights.size, batch, *event)


def _mix(
    a: Float[Array, "batch dim"], b: Float[Array, "batch dim"], weights: Array, mode: str
) -> Float[Array, "weights batch dim"]:
    a, b, weights = a[None], b[None], weights[:, None, None]
    if mode == "linear":
        return (1 - weights) * a + weights * b
    lengths = [jnp.linalg.norm(part, axis=-1, keepdims=True) for part in (a, b)]
    tiny = jnp.finfo(a.dtype).tiny
    cosine = jnp.sum(
        a / jnp.maximum(lengths[0], tiny) * (b / jnp.maximum(lengths[1], tiny)),
        axis=-1,
        keepdims=True,
    )
    angle = jnp.arccos(jnp.clip(cosine, -1, 1))
    # Nearly parallel vectors are mixed linearly: the limit, without a division by zero.
    parallel = jnp.sin(angle) < 1e-4
    sine = jnp.where(parallel, 1, jnp.sin(angle))
    first = jnp.where(parallel, 1 - weights, jnp.sin((1 - weights) * angle) / sine)
    second = jnp.where(parallel, weights, jnp.sin(weights * angle) / sine)
    return first * a + second * b
