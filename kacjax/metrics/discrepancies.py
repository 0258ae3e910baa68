"""Distances between the laws of two samples: energy, kernels, and optimal transport."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._optional import require
from kacjax._typing import Key, Scalar
from kacjax._validation import check_count, check_positive, is_concrete
from kacjax.metrics.neighbors import Points, as_same_space, over_rows, root, squares


def energy_distance(x: Points, y: Points, *, unbiased: bool = False) -> Float[Array, ""]:
    r"""The energy distance $2 E|X - Y| - E|X - X'| - E|Y - Y'|$ between two samples.

    It is zero only for equal distributions, and needs no bandwidth.

    Source: G. J. Székely, M. L. Rizzo, *Energy statistics*, J. Stat. Plan. Inference 143 (2013).

    Args:
        x: Samples, of shape `(num, *event)`.
        y: Samples to compare with; as many or not.
        unbiased: Leaves out the pairs of a point with itself: the mean at equal laws is zero, and
            a value can be negative. Otherwise that mean is $E|X - X'| (1/n + 1/m)$.

    Raises:
        ValueError: If the dimensions differ, or a set is too small or not finite.

    Example:
        >>> kacjax.metrics.energy_distance([[0.0], [1.0]], [[2.0], [3.0]]).item()
        3.0
    """
    x, y = as_same_space(x, y, minimum=2 if unbiased else 1)
    return _discrepancy(x, y, unbiased)


def mmd(x: Points, y: Points, bandwidth: Any = None, *, unbiased: bool = False) -> Float[Array, ""]:
    r"""The squared maximum mean discrepancy $E k(X, X') + E k(Y, Y') - 2 E k(X, Y)$.

    The kernel is $k(x, y) = \frac1S \sum_s \exp(-|x - y|^2 / 2 h_s^2)$. It is zero only for equal
    distributions; but differences much finer than the `bandwidth`, one $h_s$ or several in units of
    the points, hardly count. By default that is the median distance between points of both sets
    together (at most 500 of each). Other arguments and errors are those of `energy_distance`; the
    mean at equal laws, if not `unbiased`, is $(1 - E k(X, X')) (1/n + 1/m)$.

    Source: A. Gretton et al., *A kernel two-sample test*, JMLR 13 (2012), Lemma 6 and section 8.

    Example:
        >>> round(kacjax.metrics.mmd([[0.0]], [[1.0]], bandwidth=1.0).item(), 4)
        0.7869
    """
    x, y = as_same_space(x, y, minimum=2 if unbiased else 1)
    if bandwidth is None:
        bandwidth = _median_distance(*(a[:: -(-len(a) // 500)] for a in (x, y)))
        check_positive("the median distance of the points", bandwidth)
    check_positive("bandwidth", scales := jnp.atleast_1d(jnp.asarray(bandwidth, x.dtype)))
    return _discrepancy(x, y, unbiased, scales)


def _discrepancy(x: Array, y: Array, unbiased: bool, scales: Array | None = None) -> Array:
    own = 0 if scales is None else 1  # The kernel at equal points.
    within = [(_mean_kernel(points, points, scales), len(points)) for points in (x, y)]
    between = 2 * _mean_kernel(x, y, scales)
    if unbiased:
        return sum((n * value - own) / (n - 1) for value, n in within) - between
    return jnp.maximum(sum(value for value, _ in within) - between, 0)


@jax.jit
def _mean_kernel(x: Array, y: Array, scales: Array | None) -> Array:
    """Over all pairs, of Gaussians of these scales, or of minus the distance."""

    def mean(point):
        square = squares(point, y)
        if scales is None:
            return jnp.mean(-root(square))
        return jnp.mean(jnp.exp(-square[:, None] / (2 * scales[None, :] ** 2)))

    return jnp.mean(over_rows(mean, x))


@jax.jit
def _median_distance(x: Array, y: Array) -> Array:
    pooled = jnp.concatenate([x, y])
    table = over_rows(lambda point: squares(point, pooled), pooled)
    return jnp.median(jnp.sqrt(table[jnp.triu_indices(len(pooled), 1)]))


class KID(NamedTuple):
    """The mean over random subsets, which is the estimate, and their deviation."""

    mean: Float[Array, ""]
    standard_deviation: Float[Array, ""]


def kid(
    x_features: Points,
    y_features: Points,
    key: Key,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
) -> KID:
    r"""The kernel distance: the squared MMD with the kernel $(x \cdot y / d + 1)^3$, unbiased.

    Unlike the Fréchet distance it has no bias. Only with the features of the Inception network is
    it the KID of publications. Subsets overlap: their deviation is no error of the mean. Errors
    are those of `energy_distance`, and counts out of range.

    Source: M. Bińkowski et al., *Demystifying MMD GANs*, ICLR 2018.

    Args:
        x_features: Features of samples, by any function, of shape `(num, dim)`.
        y_features: Features of data, by the same function.
        key: Random key of the subsets.
        subsets: How many.
        subset_size: Points of each set in a subset; by default 1,000, or all there are.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (40, 3))
        >>> kacjax.metrics.kid(x, x + 2, jax.random.key(1), subsets=2).mean > 1
        Array(True, dtype=bool)
    """
    if subset_size is None:
        subset_size = max(2, min(1000, len(x_features), len(y_features)))
    check_count("subsets", subsets)
    check_count("subset_size", subset_size, 2)
    x, y = as_same_space(x_features, y_features, ("x_features", "y_features"), minimum=subset_size)
    values = _on_subsets(x, y, jax.random.split(key, subsets), size=subset_size)
    return KID(jnp.mean(values), jnp.std(values))


@jax.jit(static_argnames="size")
def _on_subsets(x: Array, y: Array, keys: Array, *, size: int) -> Array:
    def kernel(a, b):
        return (jnp.matmul(a, b.T, precision="highest") / a.shape[1] + 1) ** 3

    def one(key):
        of_x, of_y = jax.random.split(key)
        a = jax.random.choice(of_x, x, (size,), replace=False)
        b = jax.random.choice(of_y, y, (size,), replace=False)
        within = sum(jnp.mean(kernel(c, c), where=~jnp.eye(size, dtype=bool)) for c in (a, b))
        return within - 2 * jnp.mean(kernel(a, b))

    return jax.lax.map(one, keys)


def sliced_wasserstein(
    x: Points, y: Points, key: Key, projections: int = 128, p: int = 2
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance $(E_\theta W_p^p(\theta \cdot X, \theta \cdot Y))^{1/p}$.

    On the line $W_p^p = \int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du$ is exact; the directions are drawn
    by the `key`, as many as `projections`, and the order `p` is 1 or 2. It is zero only for equal
    distributions, costs $O(n \log n)$, and for samples of one law falls like $n^{-1/2}$ in any
    dimension. Other arguments and errors are those of `energy_distance`.

    Source: N. Bonneel et al., *Sliced and Radon Wasserstein barycenters of measures*, JMIV 51 (2015).

    Example:
        >>> x, y = [[0.0], [1.0]], [[2.0], [3.0]]
        >>> kacjax.metrics.sliced_wasserstein(x, y, jax.random.key(0)).item()
        2.0
    """
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}.")
    check_count("projections", projections)
    x, y = as_same_space(x, y)
    return _sliced(x, y, random_directions(key, x.shape[1], projections), p=p)


def random_directions(key: Key, dim: int, num: int) -> Float[Array, "num dim"]:
    """Unit vectors, uniform on the sphere: those of `sliced_wasserstein` with this key."""
    normal = jax.random.normal(key, (num, dim))
    return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


@jax.jit(static_argnames="p")
def _sliced(x: Array, y: Array, directions: Array, *, p: int) -> Array:
    # Quantile functions are steps. Levels are integers in units of 1 / nm, so that common ends of
    # steps coincide exactly; between two ends both functions are constant.
    n, m = len(x), len(y)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    width = jnp.asarray(np.diff(ends, prepend=0) / (n * m), x.dtype)
    of_x, of_y = (ends - 1) // m, (ends - 1) // n

    def one(direction):
        a, b = (jnp.sort(jnp.matmul(c, direction, precision="highest")) for c in (x, y))
        return jnp.sum(width * jnp.abs(a[of_x] - b[of_y]) ** p)

    mean = jnp.mean(jax.lax.map(one, directions, batch_size=16))
    return root(mean) if p == 2 else mean


def sinkhorn_divergence(
    x: Points, y: Points, epsilon: Scalar | None = None, **options: Any
) -> Float[Array, ""]:
    r"""The debiased entropic transport cost, by OTT-JAX.

    $OT_\varepsilon(X, Y) - \frac12 OT_\varepsilon(X, X) - \frac12 OT_\varepsilon(Y, Y)$ with
    $OT_\varepsilon = \min_\pi \int |x - y|^2 d\pi + \varepsilon KL(\pi | \mu \otimes \nu)$. It is
    zero only for equal distributions; it tends to $W_2^2$ as $\varepsilon \to 0$, and to
    $|E X - E Y|^2$ as $\varepsilon \to \infty$. The costs of all pairs are held at once.

    Source: J. Feydy et al., *Interpolating between optimal transport and MMD using Sinkhorn
    divergences*, AISTATS 2019; M. Cuturi et al., *Optimal transport tools (OTT)*, arXiv 2201.12324.

    Args:
        x: Samples, as in `energy_distance`.
        y: Samples to compare with.
        epsilon: The weight of the entropy, a squared length; by default a twentieth of the mean
            cost between `x` and `y`. Compare values of one `epsilon` only.
        options: Of `ott.solvers.linear.sinkhorn.Sinkhorn`; by default `threshold=1e-4` and
            `max_iterations=10_000`, with a warning where these do not suffice.

    Raises:
        ImportError: If OTT-JAX is missing: `pip install "kacjax[metrics]"`.
        ValueError: As in `energy_distance`, or if `epsilon` is not positive.

    Example:
        >>> x, y = np.zeros((4, 2)), np.ones((3, 2))
        >>> round(kacjax.metrics.sinkhorn_divergence(x, y, epsilon=1.0).item(), 3)
        2.0
    """
    geometry = require("ott.geometry.pointcloud", "metrics").PointCloud
    solve = require("ott.tools.sinkhorn_divergence", "metrics").sinkhorn_divergence
    x, y = as_same_space(x, y)
    if epsilon is None:
        spread = jnp.var(x, axis=0) + jnp.var(y, axis=0)
        shift = jnp.mean(x, axis=0) - jnp.mean(y, axis=0)
        epsilon = jnp.sum(spread + shift**2) / 20
    check_positive("epsilon", epsilon)
    options = {"threshold": 1e-4, "max_iterations": 10_000} | options
    scale, how = jnp.asarray(epsilon, x.dtype), tuple(options.items())
    divergence, converged = _sinkhorn(x, y, scale, solve=solve, geometry=geometry, options=how)
    if is_concrete(converged) and not converged:
        text = f"The Sinkhorn iteration did not converge with {options}; take a larger epsilon."
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    return divergence


@jax.jit(static_argnames=("solve", "geometry", "options"))
def _sinkhorn(
    x: Array, y: Array, epsilon: Array, *, solve: Any, geometry: Any, options: Any
) -> tuple[Array, Array]:
    # OTT-JAX counts on both promotions, whatever the caller has set.
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        value, output = solve(geometry, x, y, epsilon=epsilon, solve_kwargs=dict(options))
    return value, jnp.all(jnp.stack(output.converged))
