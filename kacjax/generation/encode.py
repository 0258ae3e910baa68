r"""The way up, from data to noise: encoding, interpolation through the noise, log-density.

With the scale $c = f + \sigma$ and $du = s(\rho, u) \, d\rho$ in straight coordinates,

$$ \log p_{t_0}(x_{t_0}) = \log p_T(x_T) + d \log \frac{c(T)}{c(t_0)} + \int \nabla_u \cdot s \, d\rho. $$
"""

import math
import warnings
from functools import partial
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key, Scalar, Vector
from kacjax._validation import as_floats, check_count, check_labels, check_path, is_concrete
from kacjax.generation.coordinates import Coordinates, make_coordinates
from kacjax.generation.solve import Options, Velocity, integrate, solve
from kacjax.paths import Points, ProbabilityPath


def encode(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Points,
    steps: int | Vector = 50,
    *,
    t_min: Scalar | None = None,
    **options: Any,
) -> Any:
    r"""The noise that generation turns into these data: `solve` from `t_min` to `T`.

    A velocity with the prediction `x0` has an error that grows like $1/t$ towards the data. By default
    it starts where the noise is 3 %, $\rho = 0.03$, from $f x$. For data near a surface of lower
    dimension that is not enough, and there is a warning: train with the prediction `velocity`.

    Args:
        velocity: As in `solve`.
        path: The path.
        x: Points at time `t_min`, or by default data, floats.
        steps: Number of fixed steps, or their times from `t_min` to `T`.
        t_min: Where to start, in `[0, T)`; see above.
        **options: `labels`, `return_nfe` and the solver, as in `solve`.

    Returns:
        Points at time `T`, or `(points, nfe)`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> kacjax.encode(velocity, path, jnp.ones((1, 2)), 200).round(2)
        Array([[1., 1.]], dtype=float32)
    """
    x = as_floats("x", x)
    start, f = earliest(velocity, path, t_min)
    result = solve(velocity, path, f.astype(x.dtype) * x, start, path.T, steps, **options)
    _check_encoded(velocity, path, result[0] if options.get("return_nfe") else result)
    return result


def earliest(velocity: Velocity, path: ProbabilityPath, t_min: Any = None) -> tuple[Any, Array]:
    """Where the way up starts, by default as `encode` says, and the factor of the data there."""
    if t_min is not None or getattr(velocity, "prediction", None) != "x0":
        return 0.0 if t_min is None else t_min, jnp.ones(())
    coordinates = make_coordinates(path, None)
    t = coordinates.time(coordinates.at_rho(0.03 * coordinates.rho(1.0)))
    # Below a thousandth of T networks see no time.
    t = jnp.maximum(t, 1e-3 * jnp.asarray(path.T, t.dtype))
    return t, path.coefficients(t).f


def _check_signal(path: ProbabilityPath) -> None:
    """Raises a `ValueError` unless the prior is noise alone."""
    if not path.prior_is_noise:
        raise ValueError(
            f"the path's signal must vanish at T, got {path.signal!r}; where its numbers are traced, "
            "or it is small there, say so by approximate_prior=True."
        )


def _check_encoded(velocity: Velocity, path: ProbabilityPath, noise: Array) -> None:
    """Warns if noise that can be looked at is far beyond what the prior has.

    That is one and a half times its deviation, and more where there are few components.
    """
    size = jnp.sqrt(jnp.mean(jnp.square(noise / path.coefficients(path.T).sigma)))
    largest = 1.5 * (1 + 3 / math.sqrt(noise.size))
    if path.prior_is_noise and is_concrete(size) and not size < largest:
        found = f"the encoded data have {float(size):.3g} times the prior's deviation"
        reason = "they are far from the data of the training, or the velocity is wrong"
        if getattr(velocity, "prediction", None) == "x0":
            reason += ": train with prediction='velocity', or take a larger t_min"
        warnings.warn(f"{found}: {reason}.", RuntimeWarning, stacklevel=3)


def decode(
    velocity: Velocity,
    path: ProbabilityPath,
    noise: Points,
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
    x_a: Points,
    x_b: Points,
    weights: Vector,
    steps: int | Vector = 50,
    *,
    t_min: Scalar | None = None,
    labels: Any = None,
    **options: Unpack[Options],
) -> Float[Array, "weights batch *event"]:
    r"""Data between two data: their noises are mixed and decoded.

    The standard normal variables that both noises are made of (`Process.to_normal`) are turned from
    one to the other along the great circle while their length goes evenly, and mapped forward: a
    typical draw of any prior, which a mixture of two Kac displacements would not be.

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
        ValueError: As `solve`, or if shapes do not fit or the signal does not vanish at `T`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> a, b = jnp.array([[1.0, 0.0]]), jnp.array([[0.0, 1.0]])
        >>> round(float(kacjax.interpolate(velocity, path, a, b, [0.5], 100)[0, 0, 0]), 2)
        0.71
    """
    x_a, x_b = as_floats("x_a", x_a), as_floats("x_b", x_b)
    weights = jnp.asarray(weights, x_a.dtype)
    if x_a.shape != x_b.shape or weights.ndim != 1:
        shapes = f"{x_a.shape}, {x_b.shape} and {weights.shape}"
        raise ValueError(
            f"x_a and x_b must have one shape, weights must be a vector, got {shapes}."
        )
    _check_signal(path)
    batch, event = x_a.shape[0], x_a.shape[1:]
    labels = check_labels(labels, batch, getattr(velocity, "classes", None))
    tile = lambda leaf, n: jnp.tile(leaf, (n,) + (1,) * (leaf.ndim - 1))  # noqa: E731
    twice, often = (jax.tree.map(partial(tile, n=n), labels) for n in (2, weights.size))
    ends = jnp.concatenate([x_a, x_b])
    noise = encode(velocity, path, ends, steps, t_min=t_min, labels=twice, **options)
    s = path.coefficients(path.T).g
    a, b = path.process.to_normal(s, noise).reshape(2, 1, batch, -1)
    noise = path.process.from_normal(s, _turn(a, b, weights[:, None, None]).reshape(-1, *event))
    end = 0.0 if t_min is None else t_min
    x = decode(velocity, path, noise, steps, t_min=end, labels=often, **options)
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


def _density_slope(velocity, coordinates: Coordinates, tau: Array, state: Any, args: Any) -> Any:
    """The slope beside its divergence; `args` are the labels and the probes or None."""
    u, (labels, probes) = state[0], args
    slope, derivative = jax.linearize(lambda u: coordinates.slope(tau, u, labels, velocity), u)

    def contract(direction):
        direction = jnp.broadcast_to(direction, u.shape)
        return jnp.sum((direction * derivative(direction)).reshape(u.shape[0], -1), axis=-1)

    if probes is not None:
        # Probes have the batch first, like everything that is integrated.
        return slope, jnp.mean(jax.vmap(contract, 1)(probes), axis=0)
    basis = jnp.eye(math.prod(u.shape[1:]), dtype=u.dtype).reshape(-1, *u.shape[1:])
    return slope, jnp.sum(jax.vmap(contract)(basis), axis=0)


def log_density(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Points,
    steps: int | Vector = 20,
    *,
    key: Key | None = None,
    probes: int = 1,
    t_min: Scalar | None = None,
    labels: Any = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    r"""Log-density, in nats, of the law that generation draws from, at given data.

    The divergence is the trace of the Jacobian, or Hutchinson's estimate of it, over random signs that
    are drawn once for a whole solution. Data that are points have an infinite density at `t = 0`: use
    a `t_min`, and points of the path there. Where the prior has atoms, of mass $e^{-aT}$ a component
    for the Kac process, this is the density of the image of its *continuous part*, $-\infty$ where a
    solution ends on or outside the cone: with the prediction `x0` one or two of a hundred ordinary data
    were seen to, with `velocity` none.

    Args:
        velocity: As in `solve`, differentiable; each sample's velocity depends on it only.
        path: The path; its signal vanishes at `T`.
        x: Points at time `t_min`, or by default data, floats.
        steps: Number of fixed steps, or their times.
        key: Random key for the estimate; without it memory grows with the square of the dimension.
        probes: Draws of random signs for each sample, for the estimate.
        t_min: Time of the density, in `[0, T)`; by default as in `encode`, which says why.
        labels: Integers of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, each with its divergence.
        **options: As in `solve`, but the solver is `rk4` by default: 80 evaluations in all.

    Returns:
        Log-densities of shape `(batch,)`, or `(log_densities, nfe)`.

    Raises:
        ValueError: As `solve`, or if the path's signal does not vanish at `T`.

    Source: Chen et al., *Neural Ordinary Differential Equations*, arXiv 1806.07366; Grathwohl et al.,
    *FFJORD*, arXiv 1810.01367.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> round(float(kacjax.log_density(velocity, path, jnp.zeros((1, 2)))[0]), 2)  # -log 2 pi
        -1.84
    """
    check_count("probes", probes)
    check_path(velocity, path)
    _check_signal(path)
    x, signs = as_floats("x", x), None
    labels = check_labels(labels, x.shape[0], getattr(velocity, "classes", None))
    if key is not None:
        signs = jax.random.rademacher(key, (x.shape[0], probes, *x.shape[1:]), x.dtype)
    start, f = earliest(velocity, path, t_min)
    state, args = (f.astype(x.dtype) * x, jnp.zeros(x.shape[0], x.dtype)), (labels, signs)
    field, times = eqx.Partial(_density_slope, velocity), (start, path.T, steps)
    options = {"solver": "rk4", **options}
    (noise, change), nfe = integrate(field, path, state, args, times, options, None, return_nfe)
    _check_encoded(velocity, path, noise)
    coordinates = make_coordinates(path, options.get("coordinates"))
    first, last = (coordinates.scale(coordinates.solver_time(t)) for t in (start, path.T))
    growth = math.prod(x.shape[1:]) * jnp.log(f * last / first).astype(x.dtype)
    prior = path.process.log_density(path.coefficients(path.T).g, noise)
    result = jnp.sum(prior.reshape(x.shape[0], -1), axis=-1) + growth + change
    return (result, nfe) if return_nfe else result
