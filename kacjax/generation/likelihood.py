r"""Log-density of the continuous flow, by the instantaneous change of variables.

Along a solution of $\dot x = v(t, x)$ the log-density of the moved law changes by minus the divergence,

$$ \log p_{t_0}(x_{t_0}) = \log p_T(x_T) + \int_{t_0}^T \nabla \cdot v(t, x_t) \, dt, $$

with the path's prior, a product over components, as $p_T$. The divergence is the trace of the
Jacobian, or Hutchinson's estimate of it, the mean of $\varepsilon^\top \partial_x v \, \varepsilon$ over
random signs $\varepsilon$, drawn once for a whole solution: unbiased for the integral, at the price of
one derivative for each draw in place of one for each component.

**When the prior has atoms.** In each component the Kac prior has the mass $e^{-aT}$ on the light cone
and a density, of total mass $1 - e^{-aT}$, inside. What is computed is the density of the image of the
*continuous part* of the prior, in all components; its total mass over all `x` is
$(1 - e^{-aT})^d$, at most. Samples that start on an atom lie on a set without volume, and are not
counted. A datum whose solution ends on or outside the cone in any component was not reached by the
continuous part, and its log-density is $-\infty$; for a learned velocity it may be a datum that the
model cannot generate, or one that an error of the solver carried over the edge, for the density jumps
there from $\tfrac a{2c} e^{-aT} (1 + aT/2)$ to nothing. If $e^{-aT} d$ is not small against 1, compare
such log-densities with those of models without atoms only with this in mind. The same holds at
$t_0 > 0$ in the middle of a path: they are densities, and say nothing of what is on a cone.

Source: Chen et al., *Neural Ordinary Differential Equations*, arXiv 1806.07366; Grathwohl et al.,
*FFJORD*, arXiv 1810.01367.
"""

from typing import Any, Unpack

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from kacjax._typing import Key, Scalar
from kacjax._validation import check_choice, check_count
from kacjax.generation.fields import LabelledVelocity, Labels, as_floats, check_labels, evaluate
from kacjax.generation.integration import integrate
from kacjax.generation.plans import Options, make_plan
from kacjax.paths import ProbabilityPath

DIVERGENCES = ("exact", "hutchinson")


class _DensityField(eqx.Module):
    """The velocity beside its divergence; `args` are the labels and the probes."""

    velocity: LabelledVelocity

    def __call__(self, t: Array, state: tuple[Array, Array], args: Any) -> tuple[Array, Array]:
        x, _ = state
        labels, probes = args

        def move(x):
            return evaluate(self.velocity, t, x, labels)

        if probes is None:
            return move(x), exact_divergence(move, x)
        v, derivative = jax.linearize(move, x)
        # Probes have the batch first, like everything that is integrated.
        estimates = jax.vmap(lambda probe: _contract(probe, derivative(probe)), 1)(probes)
        return v, jnp.mean(estimates, axis=0)


def exact_divergence(move: Any, x: Float[Array, "batch *event"]) -> Float[Array, " batch"]:
    """The trace of each sample's Jacobian: one derivative along every component, at once."""
    batch, event = x.shape[0], x.shape[1:]
    basis = jnp.eye(int(np.prod(event)), dtype=x.dtype).reshape(-1, 1, *event)
    basis = jnp.broadcast_to(basis, (basis.shape[0], batch, *event))
    _, derivative = jax.linearize(move, x)
    return jnp.sum(jax.vmap(lambda e: _contract(e, derivative(e)))(basis), axis=0)


def _contract(a: Array, b: Array) -> Array:
    return jnp.sum((a * b).reshape(a.shape[0], -1), axis=-1)


def log_density(
    velocity: LabelledVelocity,
    path: ProbabilityPath,
    x: Num[Array, "batch *event"],
    steps: int = 50,
    *,
    divergence: str = "exact",
    probes: int = 1,
    key: Key | None = None,
    t_min: Scalar = 0.0,
    labels: Labels | None = None,
    return_nfe: bool = False,
    **options: Unpack[Options],
) -> Any:
    """Log-density, in nats, of the law that generation draws from, at given data.

    See the module for what it means where the prior has atoms, as the Kac process does. Data that
    are points have an infinite density at `t = 0`: use a `t_min`, and points of the path there.

    Args:
        velocity: Any differentiable function `velocity(t, x)`, or `velocity(t, x, label)` with
            `labels`; each sample's velocity depends on that sample only.
        path: The path; its signal vanishes at `T`.
        x: Points at time `t_min`, floats.
        steps: Steps of a fixed-step solver.
        divergence: `exact`, for which memory grows with the square of the dimension, or
            `hutchinson`.
        probes: Draws of random signs for each sample, for `hutchinson`.
        key: Random key, for `hutchinson`.
        t_min: Time of the density, in `[0, T)`.
        labels: Class labels, of shape `(batch,)`.
        return_nfe: Whether to return the number of evaluations too; one is of the velocity with
            its divergence.
        options: `solver`, here `tsit5` by default, `coordinates`, `grid`, `power`, `rtol` and
            `atol`, here 1e-5 by default, and `control`, as in `generate`.

    Returns:
        Log-densities of shape `(batch,)`, or `(log_densities, nfe)`.

    Raises:
        ValueError: As `encode`; if `divergence` is unknown, `hutchinson` is without a key, or the
            path's signal does not vanish at `T`.
    """
    check_choice("divergence", divergence, DIVERGENCES)
    check_count("probes", probes)
    if not path.signal.vanishes:
        raise ValueError(
            f"the path's signal must vanish at T, got {type(path.signal).__name__}: its prior "
            "depends on the data and has no density of its own."
        )
    x = as_floats("x", x)
    signs = None
    if divergence == "hutchinson":
        if key is None:
            raise ValueError("key must be a random key where divergence is 'hutchinson', got None.")
        signs = jax.random.rademacher(key, (x.shape[0], probes, *x.shape[1:]), x.dtype)
    defaults: Options = {"solver": "tsit5", "rtol": 1e-5, "atol": 1e-5}
    plan = make_plan(path, steps, t_min=t_min, **{**defaults, **options})
    args = (check_labels(labels, x.shape[0], velocity), signs)
    state = (x, jnp.zeros(x.shape[0], x.dtype))
    (noise, change), nfe = integrate(_DensityField(velocity), plan, state, args, forwards=True)
    time = path.clock(jnp.asarray(path.T, x.dtype))
    prior = path.process.log_density(time, noise).reshape(x.shape[0], -1)
    log_densities = jnp.sum(prior, axis=-1) + change
    return (log_densities, nfe) if return_nfe else log_densities
