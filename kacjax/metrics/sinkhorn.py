"""The Sinkhorn divergence, by OTT-JAX."""

import warnings

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._optional import require
from kacjax._typing import Scalar
from kacjax._validation import check_count, check_positive, is_concrete
from kacjax.metrics.distances import Points, as_same_space


def sinkhorn_divergence(
    x: Points,
    y: Points,
    epsilon: Scalar | None = None,
    *,
    threshold: float = 1e-4,
    max_iterations: int = 10_000,
) -> Float[Array, ""]:
    r"""The debiased entropic transport cost $OT_\varepsilon(X, Y) - \frac12 OT_\varepsilon(X, X)
    - \frac12 OT_\varepsilon(Y, Y)$ with the cost $|x - y|^2$.

    $OT_\varepsilon = \min_\pi \int |x - y|^2 d\pi + \varepsilon KL(\pi | \mu \otimes \nu)$. It is
    zero only for equal distributions; it tends to $W_2^2$ as $\varepsilon \to 0$, and to
    $|E X - E Y|^2$ as $\varepsilon \to \infty$. The costs of all pairs are held at once: beyond some
    ten thousand points take a part of them.

    Source: J. Feydy et al., *Interpolating between optimal transport and MMD using Sinkhorn
    divergences*, AISTATS 2019; M. Cuturi et al., *Optimal transport tools (OTT)*, arXiv 2201.12324.

    Args:
        x: Samples.
        y: Samples to compare with; as many or not.
        epsilon: The weight of the entropy, a squared length; by default a twentieth of the mean
            cost between `x` and `y`. Compare values of one `epsilon` only.
        threshold: Error of the marginals, in total variation, at which the iteration stops.
        max_iterations: The most iterations. Where they do not suffice, there is a warning.

    Raises:
        ImportError: If OTT-JAX is missing: `pip install "kacjax[metrics]"`.
        ValueError: If the dimensions differ, a set is empty or not finite, or a number is not
            positive.
    """  # noqa: D205 (the formula fills the first line)
    for module in ("ott.geometry.pointcloud", "ott.tools.sinkhorn_divergence"):
        require(module, "metrics")
    check_positive("threshold", threshold)
    check_count("max_iterations", max_iterations)
    x, y = as_same_space(x, y)
    if epsilon is None:
        epsilon = mean_cost(x, y) / 20
    check_positive("epsilon", epsilon)
    scale = jnp.asarray(epsilon, x.dtype)
    divergence, converged = _divergence(x, y, scale, threshold, max_iterations)
    if is_concrete(converged) and not converged:
        warnings.warn(
            f"The Sinkhorn iteration did not reach the threshold {threshold} in {max_iterations} "
            "iterations; take a larger epsilon, threshold or max_iterations.",
            RuntimeWarning,
            stacklevel=2,
        )
    return divergence


def mean_cost(x: Points, y: Points) -> Float[Array, ""]:
    """The mean squared distance between a point of `x` and one of `y`."""
    x, y = as_same_space(x, y)
    spread = jnp.var(x, axis=0) + jnp.var(y, axis=0)
    return jnp.sum(spread + (jnp.mean(x, axis=0) - jnp.mean(y, axis=0)) ** 2)


@jax.jit(static_argnames=("threshold", "max_iterations"))
def _divergence(
    x: Array, y: Array, epsilon: Array, threshold: float, max_iterations: int
) -> tuple[Array, Array]:
    pointcloud = require("ott.geometry.pointcloud", "metrics")
    tools = require("ott.tools.sinkhorn_divergence", "metrics")
    # OTT-JAX counts on both promotions, whatever the caller has set.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        divergence, output = tools.sinkhorn_divergence(
            pointcloud.PointCloud,
            x,
            y,
            epsilon=epsilon,
            solve_kwargs={"threshold": threshold, "max_iterations": max_iterations},
        )
    return divergence, jnp.all(jnp.stack(output.converged))
