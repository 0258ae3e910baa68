r"""Log-density of the continuous flow, by the instantaneous change of variables.

Along a solution the log-density of the moved law changes by minus the divergence; in straight
coordinates $du = s(\rho, u) \, d\rho$ with scale $c = f + \sigma$,

$$ \log p_{t_0}(x_{t_0}) = \log p_T(x_T) + d \log \frac{c(T)}{c(t_0)}
   + \int \nabla_u \cdot s \, d\rho, $$

with the path's prior, a product over components, as $p_T$. The divergence is the trace of the
Jacobian, or Hutchinson's estimate of it, the mean of $\varepsilon^\top \partial_u s \, \varepsilon$ over
random signs $\varepsilon$, drawn once for a whole solution: unbiased for the integral.

**When the prior has atoms**, as the Kac process of mass $e^{-aT}$ a component, what is computed is the
density of the image of its *continuous part* in all components, of total mass $(1 - e^{-aT})^d$ at
most. Samples that start on an atom lie on a set without volume, and are not counted; a datum whose
solution ends on or outside the cone in any component has the log-density $-\infty$. If $e^{-aT} d$ is
not small against 1, compare such log-densities with others only with this in mind.

Source: Chen et al., *Neural Ordinary Differential Equations*, arXiv 1806.07366; Grathwohl et al.,
*FFJORD*, arXiv 1810.01367.
"""

import math
from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import ArrayLike, Key, Scalar
from kacjax._validation import as_floats, check_choice, check_count, check_labels, check_path
from kacjax.generation.coordinates import Coordinates, make_coordinates
from kacjax.generation.encode import check_encoded, earliest
from kacjax.generation.solve import Options, Velocity, integrate
from kacjax.paths import ProbabilityPath

DIVERGENCES = ("exact", "hutchinson")


class _DensityField(eqx.Module):
    """The slope beside its divergence; `args` are the labels and the probes or None."""

    velocity: Velocity

    def __call__(self, coordinates: Coordinates, tau: Array, state: Any, args: Any) -> Any:
        u, _ = state
        labels, probes = args
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
    steps: int | ArrayLike = 30,
    *,
    divergence: str = "exact",
    probes: int = 1,
    key: Key | None = None,
    t_min: Scalar | None = None,
    labels: ArrayLike | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Log-density, in nats, of the law that generation draws from, at given data.

    See the module for what it means where the prior has atoms, as the Kac process does. Data that
    are points have an infinite density at `t = 0`: use a `t_min`, and points of the path there.

    Args:
        velocity: As in `solve`, differentiable; each sample's velocity depends on it only.
        path: The path; its signal vanishes at `T`.
        x: Points at time `t_min`, floats.
        steps: Number of fixed steps, or their times.
        divergence: `exact`, for which memory grows with the square of the dimension, or
            `hutchinson`.
        probes: Draws of random signs for each sample, for `hutchinson`.
        key: Random key, for `hutchinson`.
        t_min: Time of the density, in `[0, T)`; by default as in `encode`, which says why.
        labels: Integers of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too, each of the velocity with its
            divergence.
        **options: As in `solve`; the solver is `heun` by default, with twice as many evaluations as
            steps, which is right to 1e-3 nats for networks.

    Returns:
        Log-densities of shape `(batch,)`, or `(log_densities, nfe)`.

    Raises:
        ValueError: As `solve`; if `divergence` is unknown, `hutchinson` is without a key, or the
            path's signal does not vanish at `T`.

    Example:
        >>> path = kacjax.diffusion_path()
        >>> velocity = kacjax.exact_velocity(path, jnp.zeros((1, 2)), std=1.0)
        >>> value = kacjax.log_density(velocity, path, jnp.zeros((1, 2)))
        >>> bool(jnp.allclose(value, -jnp.log(2 * jnp.pi), atol=1e-3))
        True
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_count("probes", probes)
    check_path(velocity, path)
    if not path.prior_is_noise:
        raise ValueError(
            f"the path's signal must vanish at T, got {path.signal!r}: its prior depends on the data "
            "and has no density of its own."
        )
    x = as_floats("x", x)
    signs = None
    if divergence == "hutchinson":
        if key is None:
            raise ValueError("key must be a random key where divergence is 'hutchinson', got None.")
        signs = jax.random.rademacher(key, (x.shape[0], probes, *x.shape[1:]), x.dtype)
    options = {"solver": "heun", **options}
    f = jnp.ones(())
    if t_min is None:
        t_min, f = earliest(velocity, path)
    args = (check_labels(labels, x.shape[0], getattr(velocity, "classes", None)), signs)
    start = f.astype(x.dtype) * x
    state, field = (start, jnp.zeros(x.shape[0], x.dtype)), _DensityField(velocity)
    (noise, change), nfe = integrate(
        field, path, state, args, t_min, path.T, steps, None, return_nfe, **options
    )
    coordinates = make_coordinates(path, options.get("coordinates"))
    first, last = (coordinates.scale(coordinates.solver_time(t)) for t in (t_min, path.T))
    growth = math.prod(x.shape[1:]) * jnp.log(f * last / first).astype(x.dtype)
    check_encoded(path, noise)
    prior = path.process.log_density(path.coefficients(path.T).g, noise)
    result = jnp.sum(prior.reshape(x.shape[0], -1), axis=-1) + growth + change
    return (result, nfe) if return_nfe else result
