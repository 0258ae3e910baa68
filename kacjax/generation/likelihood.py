r"""Log-density of the continuous flow, by the instantaneous change of variables.

In straight coordinates $du = s(\rho, u) \, d\rho$ with the scale $c = f + \sigma$,

$$ \log p_{t_0}(x_{t_0}) = \log p_T(x_T) + d \log \frac{c(T)}{c(t_0)} + \int \nabla_u \cdot s \, d\rho. $$

The divergence is the trace of the Jacobian, or Hutchinson's estimate of it, the mean of
$\varepsilon^\top \partial_u s \, \varepsilon$ over random signs drawn once for a whole solution.

**When the prior has atoms**, of mass $e^{-aT}$ a component for the Kac process, this is the density of
the image of its *continuous part* in all components, of total mass $(1 - e^{-aT})^d$ at most. A datum
whose solution ends on or outside the cone in any component has the log-density $-\infty$.

Source: Chen et al., *Neural Ordinary Differential Equations*, arXiv 1806.07366; Grathwohl et al.,
*FFJORD*, arXiv 1810.01367.
"""

import math
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Key, Scalar, Vector
from kacjax._validation import as_floats, check_count, check_labels, check_path
from kacjax.generation.coordinates import Coordinates, make_coordinates
from kacjax.generation.encode import check_encoded, earliest
from kacjax.generation.solve import Options, Velocity, integrate
from kacjax.paths import ProbabilityPath


class _DensityField(eqx.Module):
    """The slope beside its divergence; `args` are the labels and the probes or None."""

    velocity: Velocity

    def __call__(self, coordinates: Coordinates, tau: Array, state: Any, args: Any) -> Any:
        u, (labels, probes) = state[0], args
        slope, derivative = jax.linearize(
            lambda u: coordinates.slope(tau, u, labels, self.velocity), u
        )

        def contract(direction):
            product = direction * derivative(direction)
            return jnp.sum(product.reshape(u.shape[0], -1), axis=-1)

        if probes is not None:
            # Probes have the batch first, like everything that is integrated.
            return slope, jnp.mean(jax.vmap(contract, 1)(probes), axis=0)
        dim = math.prod(u.shape[1:])
        basis = jnp.eye(dim, dtype=u.dtype).reshape(dim, 1, *u.shape[1:])
        basis = jnp.broadcast_to(basis, (dim, *u.shape))
        return slope, jnp.sum(jax.vmap(contract)(basis), axis=0)


def log_density(
    velocity: Velocity,
    path: ProbabilityPath,
    x: Float[Array, "batch *event"],
    steps: int | Vector = 20,
    *,
    key: Key | None = None,
    probes: int = 1,
    t_min: Scalar | None = None,
    labels: Vector | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    r"""Log-density, in nats, of the law that generation draws from, at given data.

    Data that are points have an infinite density at `t = 0`: use a `t_min`, and points of the path
    there. See the module for what it means where the prior has atoms. For a Kac path learned with the
    prediction `x0`, one or two of a hundred ordinary data were seen to leave the cone on the way up,
    and have $-\infty$, which makes a mean infinite: train with the prediction `velocity`.

    Args:
        velocity: As in `solve`, differentiable; each sample's velocity depends on it only.
        path: The path; its signal vanishes at `T`.
        x: Points at time `t_min`, or by default data, floats.
        steps: Number of fixed steps, or their times.
        key: Random key for Hutchinson's estimate; without it the divergence is exact, and memory
            grows with the square of the dimension.
        probes: Draws of random signs for each sample, for the estimate.
        t_min: Time of the density, in `[0, T)`; by default as in `encode`, which says why.
        labels: Integers of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, each with its divergence.
        **options: As in `solve`, but the solver is `rk4` by default: 80 evaluations in all.

    Returns:
        Log-densities of shape `(batch,)`, or `(log_densities, nfe)`.

    Raises:
        ValueError: As `solve`, or if the path's signal does not vanish at `T`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> value = kacjax.log_density(velocity, path, jnp.zeros((1, 2)))
        >>> bool(jnp.allclose(value, -jnp.log(2 * jnp.pi), atol=1e-3))
        True
    """
    check_count("probes", probes)
    check_path(velocity, path)
    if not path.prior_is_noise:
        raise ValueError(
            f"the path's signal must vanish at T, got {path.signal!r}: its prior depends on the data."
        )
    x, signs = as_floats("x", x), None
    if key is not None:
        signs = jax.random.rademacher(key, (x.shape[0], probes, *x.shape[1:]), x.dtype)
    args = (check_labels(labels, x.shape[0], getattr(velocity, "classes", None)), signs)
    t_min, f = earliest(velocity, path) if t_min is None else (t_min, jnp.ones(()))
    state = (f.astype(x.dtype) * x, jnp.zeros(x.shape[0], x.dtype))
    options = {"solver": "rk4", **options}
    (noise, change), nfe = integrate(
        _DensityField(velocity),
        path,
        state,
        args,
        (t_min, path.T, steps),
        options,
        None,
        return_nfe,
    )
    check_encoded(path, noise)
    coordinates = make_coordinates(path, options.get("coordinates"))
    first, last = (coordinates.scale(coordinates.solver_time(t)) for t in (t_min, path.T))
    growth = math.prod(x.shape[1:]) * jnp.log(f * last / first).astype(x.dtype)
    prior = path.process.log_density(path.coefficients(path.T).g, noise)
    result = jnp.sum(prior.reshape(x.shape[0], -1), axis=-1) + growth + change
    return (result, nfe) if return_nfe else result
