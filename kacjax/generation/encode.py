"""Data to noise and back by the same equation, and interpolation through the noise."""

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import check_choice
from kacjax.generation.fields import (
    LabelledVelocity,
    Labels,
    VelocityField,
    as_floats,
    check_labels,
)
from kacjax.generation.integration import integrate
from kacjax.generation.plans import Options, make_plan
from kacjax.paths import ProbabilityPath

INTERPOLATIONS = ("spherical", "linear")


def encode(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    x: Num[Array, "batch *event"],
    steps: int = 50,
    *,
    t_min: Scalar = 0.0,
    labels: Labels | None = None,
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
        x: Points at time `t_min`, floats.
        steps: Steps of a fixed-step solver.
        t_min: Time at which to start, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, as in `generate`.
        options: `solver`, `coordinates`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

    Returns:
        Points at time `T`, or `(points, nfe)`.

    Raises:
        ValueError: As `generate`, or if `t_min` is outside `[0, T)` or `x` does not
            hold floats.
    """
    plan = make_plan(path, steps, t_min=t_min, **options)
    x = as_floats("x", x)
    labels = check_labels(labels, x.shape[0], velocity)
    noise, nfe = integrate(VelocityField(velocity), plan, x, labels, forwards=True)
    return (noise, nfe) if return_nfe else noise


def decode(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    noise: Num[Array, "batch *event"],
    steps: int = 50,
    *,
    t_min: Scalar = 0.0,
    labels: Labels | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Generation from noise that is given: the inverse of `encode`, with its arguments.

    Args:
        velocity: Any function `velocity(t, x)`, or `velocity(t, x, label)` with `labels`.
        path: The path.
        noise: Points at time `T`, floats.
        steps: Steps of a fixed-step solver.
        t_min: Time at which to stop, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, as in `generate`.
        options: `solver`, `coordinates`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

    Returns:
        Points at time `t_min`, or `(points, nfe)`.

    Raises:
        ValueError: As `generate`, or if `t_min` is outside `[0, T)` or `noise` does
            not hold floats.
    """
    plan = make_plan(path, steps, t_min=t_min, **options)
    noise = as_floats("noise", noise)
    labels = check_labels(labels, noise.shape[0], velocity)
    x, nfe = integrate(VelocityField(velocity), plan, noise, labels)
    return (x, nfe) if return_nfe else x


def interpolate(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    x_a: Num[Array, "batch *event"],
    x_b: Num[Array, "..."],
    weights: ArrayLike,
    steps: int = 50,
    *,
    mode: str = "spherical",
    t_min: Scalar = 0.0,
    labels: Labels | None = None,
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
        x_a: Data at weight 0, floats.
        x_b: Data at weight 1, of the same shape.
        weights: Weights of `x_b`, of shape `(num_weights,)`.
        steps: Steps of a fixed-step solver.
        mode: `spherical` turns the vector of all `n` of a datum from one to the other along the
            great circle, while its length goes evenly from one length to the other: it stays
            typical. Between opposite vectors, where all great circles are as short, it takes
            one, always the same; a single number has none, and goes through 0. `linear` takes the
            straight line, with shorter vectors between.
        t_min: Time at which to start and stop, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`, for both ends.
        options: `solver`, `coordinates`, `grid`, `power`, `rtol`, `atol`, `control`, as in `generate`.

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
    x_a, x_b = as_floats("x_a", x_a), as_floats("x_b", x_b)
    weights = jnp.asarray(weights, x_a.dtype)
    if weights.ndim != 1:
        raise ValueError(f"weights must be a vector, got shape {weights.shape}.")
    if not path.signal.vanishes:
        raise ValueError(
            f"the path's signal must vanish at T, got {type(path.signal).__name__}: at T its points "
            "still hold the data, and are no noise to be mixed."
        )
    batch, event = x_a.shape[0], x_a.shape[1:]
    labels = check_labels(labels, batch, velocity)
    twice = None if labels is None else jnp.concatenate([labels] * 2)
    ends = jnp.concatenate([x_a, x_b])
    noise = encode(velocity, path, ends, steps, t_min=t_min, labels=twice, **options)
    time = path.clock(jnp.asarray(path.T, x_a.dtype))
    scores = path.process.normal_score(time, noise).reshape(2, batch, -1)
    mixed = _mix(scores[0], scores[1], weights, mode).reshape(-1, *event)
    every = None if labels is None else jnp.tile(labels, weights.size)
    noise = path.process.transport(time, mixed).astype(x_a.dtype)
    data = decode(velocity, path, noise, steps, t_min=t_min, labels=every, **options)
    return data.reshape(weights.size, batch, *event)


def _mix(
    a: Float[Array, "batch dim"], b: Float[Array, "batch dim"], weights: Array, mode: str
) -> Float[Array, "weights batch dim"]:
    a, b, weights = a[None], b[None], weights[:, None, None]
    if mode == "linear":
        return (1 - weights) * a + weights * b
    lengths = _length(a), _length(b)
    length = (1 - weights) * lengths[0] + weights * lengths[1]
    return length * _turn(*_directions(a, b, lengths), 2 * weights - 1)


def _directions(a: Array, b: Array, lengths: tuple[Array, Array]) -> tuple[Array, Array]:
    """Unit vectors; that of a zero vector, which has none, is the other's."""
    some = [length > 0 for length in lengths]
    units = [
        part / jnp.where(nonzero, length, 1)
        for part, length, nonzero in zip((a, b), lengths, some, strict=True)
    ]
    return jnp.where(some[0], units[0], units[1]), jnp.where(some[1], units[1], units[0])


def _turn(u: Array, v: Array, place: Array) -> Array:
    r"""The unit vector between `u`, at place -1, and `v`, at 1, on a great circle.

    $\cos(p h) \, m + \sin(p h) \, q$ with the angle $2h$ between them, their middle $m$ and
    $q = (v - u) / 2 \sin h$. Unlike the usual weights over $\sin 2h$ it holds at all angles, with
    finite derivatives, if another vector takes the place of the middle that opposite ones lack.
    """
    total, difference = u + v, v - u
    cosine, epsilon = _length(total) / 2, jnp.finfo(u.dtype).eps
    # atan2 of two zeros has no derivative: zero vectors need the bound.
    half = jnp.arctan2(_length(difference) / 2, jnp.maximum(cosine, epsilon))
    # Closer to opposite than this, the middle is made of rounding errors.
    opposite = cosine < jnp.sqrt(epsilon)
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(u), axis=-1), u.shape[-1], dtype=u.dtype)
    across = axis - jnp.sum(axis * u, axis=-1, keepdims=True) * u
    # On the line nothing lies across, but rounding errors.
    middle = jnp.where(opposite, across if u.shape[-1] > 1 else 0, total)
    size = _length(middle)
    middle = middle / jnp.where(size > 0, size, 1)
    # sin(p h) / sin(h), also at h = 0.
    sines = place * jnp.sinc(place * half / jnp.pi) / jnp.sinc(half / jnp.pi)
    return jnp.cos(place * half) * middle + sines * difference / 2


def _length(x: Array) -> Array:
    """The norm, with derivative 0 at 0."""
    square = jnp.sum(x**2, axis=-1, keepdims=True)
    nonzero = square > 0
    return jnp.where(nonzero, jnp.sqrt(jnp.where(nonzero, square, 1)), 0)
