"""Data to noise and back by the same equation, and interpolation through the noise."""

from typing import Any, Unpack

import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Scalar
from kacjax._validation import as_floats, check_labels
from kacjax.generation.solve import Options, Velocity, solve
from kacjax.paths import ProbabilityPath


def encode(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    steps: int | ArrayLike = 50,
    *,
    t_min: Scalar = 0.0,
    labels: ArrayLike | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """The noise that generation turns into these data: the equation solved from `t_min` to `T`.

    Args:
        velocity: As in `solve`.
        path: The path.
        x: Points at time `t_min`, floats.
        steps: Number of fixed steps, or their times from `t_min` to `T`.
        t_min: Where to start, in `[0, T)`.
        labels: Integers of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too.
        **options: As in `solve`.

    Returns:
        Points at time `T`, or `(points, nfe)`.

    Raises:
        ValueError: As `solve`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> noise = kacjax.encode(velocity, path, jnp.ones((1, 2)), 200)
        >>> bool(jnp.allclose(noise, 1.0, atol=1e-3))
        True
    """
    return solve(
        velocity, path, x, t_min, path.T, steps, labels=labels, return_nfe=return_nfe, **options
    )


def decode(
    velocity: Velocity,
    path: ProbabilityPath,
    noise: Float[Array, "batch *event"],
    steps: int | ArrayLike = 50,
    *,
    t_min: Scalar = 0.0,
    labels: ArrayLike | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Generation from noise that is given: the inverse of `encode`.

    Args:
        velocity: As in `solve`.
        path: The path.
        noise: Points at time `T`, floats.
        steps: Number of fixed steps, or their times from `T` to `t_min`.
        t_min: Where to end, in `[0, T)`.
        labels: Integers of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too.
        **options: As in `solve`.

    Returns:
        Points at time `t_min`, or `(points, nfe)`.

    Raises:
        ValueError: As `solve`.

    Example:
        >>> path = kacjax.kac_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)))
        >>> kacjax.decode(velocity, path, jnp.ones((4, 2))).shape
        (4, 2)
    """
    noise = as_floats("noise", noise)
    return solve(
        velocity, path, noise, path.T, t_min, steps, labels=labels, return_nfe=return_nfe, **options
    )


def interpolate(
    velocity: Velocity,
    path: ProbabilityPath,
    x_a: Float[Array, "batch *event"],
    x_b: Float[Array, "batch *event"],
    weights: ArrayLike,
    steps: int | ArrayLike = 50,
    *,
    t_min: Scalar = 0.0,
    labels: ArrayLike | None = None,
    **options: Unpack[Options],
) -> Float[Array, "weights batch *event"]:
    r"""Data between two data: their noises are mixed and decoded.

    Noise is mixed as what it is made of: both noises are taken back to standard normal variables
    (`Process.to_normal`), these are turned from one to the other along the great circle while their
    length goes evenly, and the result is mapped forward. A mixture of two Kac displacements would
    have the wrong law; this one is a typical draw of any prior.

    Args:
        velocity: As in `solve`.
        path: The path; its signal vanishes at `T`.
        x_a: Data at weight 0, floats.
        x_b: Data at weight 1, of the same shape.
        weights: Weights of `x_b`, of shape `(num_weights,)`.
        steps: Number of fixed steps.
        t_min: Where to start and end, in `[0, T)`.
        labels: Integers of shape `(batch,)`, for both ends.
        **options: As in `solve`.

    Returns:
        Data of shape `(num_weights, batch, *event)`.

    Raises:
        ValueError: As `solve`; if the shapes differ, `weights` is no vector or the path's signal does
            not vanish at `T`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> x = kacjax.interpolate(velocity, path, a, b, [0.0, 0.5, 1.0], 100)
        >>> bool(jnp.allclose(x[1], 0.707, atol=0.01))
        True
    """
    x_a, x_b = as_floats("x_a", x_a), as_floats("x_b", x_b)
    weights = jnp.asarray(weights, x_a.dtype)
    if x_a.shape != x_b.shape:
        raise ValueError(f"x_b must have the shape of x_a, {x_a.shape}; got {x_b.shape}.")
    if weights.ndim != 1:
        raise ValueError(f"weights must be a vector, got shape {weights.shape}.")
    if not path.prior_is_noise:
        raise ValueError(
            f"the path's signal must vanish at T, got {path.signal!r}: at T its points still hold "
            "the data, and are no noise to be mixed."
        )
    batch, event = x_a.shape[0], x_a.shape[1:]
    labels = check_labels(labels, batch, getattr(velocity, "classes", None))

    def repeat(times):
        return None if labels is None else jnp.tile(labels, times)

    ends = jnp.concatenate([x_a, x_b])
    noise = encode(velocity, path, ends, steps, t_min=t_min, labels=repeat(2), **options)
    s = path.coefficients(path.T).g
    a, b = path.process.to_normal(s, noise).reshape(2, batch, -1)
    mixed = _turn(a[None], b[None], weights[:, None, None]).reshape(-1, *event)
    noise = path.process.from_normal(s, mixed)
    x = decode(velocity, path, noise, steps, t_min=t_min, labels=repeat(weights.size), **options)
    return x.reshape(weights.size, batch, *event)


def _turn(a: Array, b: Array, weight: Array) -> Array:
    """Vectors between two along the great circle, with lengths that go evenly."""
    lengths = [jnp.maximum(jnp.linalg.norm(v, axis=-1, keepdims=True), 1e-12) for v in (a, b)]
    u, v = a / lengths[0], b / lengths[1]
    # By the chord: the arc's cosine loses small angles.
    chord = jnp.linalg.norm(u - v, axis=-1, keepdims=True)
    angle = 2 * jnp.arcsin(jnp.clip(chord / 2, 0, 1))
    sine = jnp.sin(angle)
    # Between opposite vectors all great circles are as short; a straight line is taken.
    curved = sine > 1e-6
    safe = jnp.where(curved, sine, 1)
    first = jnp.where(curved, jnp.sin((1 - weight) * angle) / safe, 1 - weight)
    second = jnp.where(curved, jnp.sin(weight * angle) / safe, weight)
    return ((1 - weight) * lengths[0] + weight * lengths[1]) * (first * u + second * v)
