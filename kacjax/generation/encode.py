"""Data to noise and back by the same equation, and interpolation through the noise."""

import warnings
from typing import Any, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Scalar, Vector
from kacjax._validation import as_floats, check_labels, is_concrete
from kacjax.generation.coordinates import make_coordinates
from kacjax.generation.solve import Options, Velocity, solve
from kacjax.paths import ProbabilityPath


def encode(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    steps: int | Vector = 50,
    *,
    t_min: Scalar | None = None,
    **options: Any,
) -> Any:
    r"""The noise that generation turns into these data: `solve` from `t_min` to `T`.

    A velocity with the prediction `x0` has an error that grows like $1/t$ towards the data, and would
    be amplified by $T / t$ on the way up. By default such a velocity starts where the noise is 3 %,
    $\rho = 0.03$, from $f x$. For data near a surface of lower dimension that is not enough; there is a
    warning where the noise found is far too large: train with the prediction `velocity` to encode.

    Args:
        velocity: As in `solve`.
        path: The path.
        x: Points at time `t_min`, or by default data, floats.
        steps: Number of fixed steps, or their times from `t_min` to `T`.
        t_min: Where to start, in `[0, T)`; see above.
        **options: `labels`, `return_nfe` and the solver, as in `solve`.

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
    x = as_floats("x", x)
    t_min, f = earliest(velocity, path) if t_min is None else (t_min, jnp.ones(()))
    result = solve(velocity, path, f.astype(x.dtype) * x, t_min, path.T, steps, **options)
    check_encoded(path, result[0] if options.get("return_nfe") else result)
    return result


def earliest(velocity: Velocity, path: ProbabilityPath) -> tuple[Scalar, Array]:
    """Where the way up starts by default, and the factor of the data there; see `encode`."""
    if getattr(velocity, "prediction", None) != "x0":
        return 0.0, jnp.ones(())
    coordinates = make_coordinates(path, None)
    t = coordinates.time(coordinates.at_rho(0.03 * coordinates.rho(1.0)))
    # Below a thousandth of T networks see no time.
    t = jnp.maximum(t, 1e-3 * jnp.asarray(path.T, t.dtype))
    return t, path.coefficients(t).f


def check_encoded(path: ProbabilityPath, noise: Array) -> None:
    """Warns if noise that can be looked at is more than one and a half times what the prior has."""
    size = jnp.sqrt(jnp.mean(jnp.square(noise / path.coefficients(path.T).sigma)))
    if path.prior_is_noise and is_concrete(size) and not size < 1.5:
        warnings.warn(
            f"the encoded data have {float(size):.3g} times the prior's deviation: errors near the "
            "data grew on the way up. Train with prediction='velocity', or take a larger t_min.",
            RuntimeWarning,
            stacklevel=3,
        )


def decode(
    velocity: Velocity,
    path: ProbabilityPath,
    noise: Float[Array, "batch *event"],
    steps: int | Vector = 50,
    *,
    t_min: Scalar = 0.0,
    **options: Any,
) -> Any:
    """Generation from noise that is given, the inverse of `encode`: `solve` from `T` to `t_min`.

    Args:
        velocity: As in `solve`.
        path: The path.
        noise: Points at time `T`, floats.
        steps: Number of fixed steps, or their times from `T` to `t_min`.
        t_min: Where to end, in `[0, T)`.
        **options: `labels`, `return_nfe` and the solver, as in `solve`.

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
    return solve(velocity, path, as_floats("noise", noise), path.T, t_min, steps, **options)


def interpolate(
    velocity: Velocity,
    path: ProbabilityPath,
    x_a: Float[Array, "batch *event"],
    x_b: Float[Array, "batch *event"],
    weights: Vector,
    steps: int | Vector = 50,
    *,
    t_min: Scalar | None = None,
    labels: Vector | None = None,
    **options: Unpack[Options],
) -> Float[Array, "weights batch *event"]:
    r"""Data between two data: their noises are mixed and decoded.

    Both noises are taken back to the standard normal variables that they are made of
    (`Process.to_normal`), these are turned from one to the other along the great circle while their
    length goes evenly, and the result is mapped forward: a typical draw of any prior, which a mixture
    of two Kac displacements would not be.

    Args:
        velocity: As in `solve`.
        path: The path; its signal vanishes at `T`.
        x_a: Data at weight 0, floats.
        x_b: Data at weight 1, of the same shape.
        weights: Weights of `x_b`, of shape `(num_weights,)`.
        steps: Number of fixed steps.
        t_min: Where to start and end, in `[0, T)`; by default as in `encode`, and 0.
        labels: Integers of shape `(batch,)`, for both ends.
        **options: The solver, as in `solve`.

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
    if x_a.shape != x_b.shape or weights.ndim != 1:
        raise ValueError(
            f"x_a and x_b must have one shape and weights must be a vector, got {x_a.shape}, "
            f"{x_b.shape} and {weights.shape}."
        )
    if not path.prior_is_noise:
        raise ValueError(f"the path's signal must vanish at T, got {path.signal!r}.")
    batch, event = x_a.shape[0], x_a.shape[1:]
    labels = check_labels(labels, batch, getattr(velocity, "classes", None))

    def repeat(times):
        return None if labels is None else jnp.tile(labels, times)

    ends = jnp.concatenate([x_a, x_b])
    noise = encode(velocity, path, ends, steps, t_min=t_min, labels=repeat(2), **options)
    s = path.coefficients(path.T).g
    a, b = path.process.to_normal(s, noise).reshape(2, 1, batch, -1)
    noise = path.process.from_normal(s, _turn(a, b, weights[:, None, None]).reshape(-1, *event))
    end = 0.0 if t_min is None else t_min
    x = decode(velocity, path, noise, steps, t_min=end, labels=repeat(weights.size), **options)
    return x.reshape(weights.size, batch, *event)


def _turn(a: Array, b: Array, weight: Array) -> Array:
    """Vectors between two along the great circle, with lengths that go evenly.

    With the angle 2 h between the directions u, v, and p from -1 to 1, it is cos(p h) times their
    middle plus sin(p h) / sin(h) times (v - u) / 2: this holds at all angles.
    """

    def length(x):
        return jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-24)

    u, v, p = a / length(a), b / length(b), 2 * weight - 1
    # Opposite vectors have no middle; any vector across will do.
    axis = jax.nn.one_hot(jnp.argmin(jnp.abs(u), axis=-1), u.shape[-1], dtype=u.dtype)
    across = axis - jnp.sum(axis * u, axis=-1, keepdims=True) * u
    middle = jnp.where(length(u + v) < 5e-4, across, u + v)
    h = jnp.arctan2(length(v - u), length(u + v))
    sines = p * jnp.sinc(p * h / jnp.pi) / jnp.sinc(h / jnp.pi)
    turned = jnp.cos(p * h) * middle / length(middle) + sines * (v - u) / 2
    return ((1 - weight) * length(a) + weight * length(b)) * turned
