"""The Wasserstein distance on the line, and its mean over directions in higher dimension."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from kacjax._typing import Key
from kacjax._validation import check_count
from kacjax.metrics.distances import Points, as_points, as_same_space

# Directions that are projected on and sorted at once.
_BLOCK = 16


def wasserstein_1d(
    x: Float[Array, "..."] | Float[np.ndarray, "..."],
    y: Float[Array, "..."] | Float[np.ndarray, "..."],
    p: int = 2,
) -> Float[Array, ""]:
    r"""The Wasserstein distance $(\int_0^1 |F^{-1}(u) - G^{-1}(u)|^p du)^{1/p}$ on the line, exact.

    Source: F. Santambrogio, *Optimal Transport for Applied Mathematicians*, Birkhäuser 2015,
    proposition 2.17.

    Args:
        x: Numbers, of shape `(num,)`.
        y: Numbers to compare with; as many or not.
        p: The order, 1 or 2.

    Raises:
        ValueError: If a set is no vector, is empty or not finite, or `p` is another.
    """
    _check_order(p)
    for name, numbers in (("x", x), ("y", y)):
        if numbers.ndim != 1:
            raise ValueError(f"{name} must hold numbers, (num,); got shape {numbers.shape}.")
    x, y = as_points("x", x[None, :])[0], as_points("y", y[None, :])[0]
    return _power(x, y, p) ** (1 / p)


def sliced_wasserstein(
    x: Points, y: Points, key: Key, projections: int = 128, p: int = 2
) -> Float[Array, ""]:
    r"""The sliced Wasserstein distance $(E_\theta W_p^p(\theta \cdot X, \theta \cdot Y))^{1/p}$.

    The mean over all directions is estimated from random ones: with the same key, two values are
    compared along the same directions. It is zero only for equal distributions, costs
    $O(n \log n)$, and for samples of one law it falls like $n^{-1/2}$ in any dimension.

    Source: N. Bonneel, J. Rabin, G. Peyré, H. Pfister, *Sliced and Radon Wasserstein barycenters of
    measures*, Journal of Mathematical Imaging and Vision 51 (2015).

    Args:
        x: Samples.
        y: Samples to compare with; as many or not.
        key: Random key of the directions.
        projections: How many directions.
        p: The order, 1 or 2.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, `projections` is below
            1, or `p` is another.
    """
    _check_order(p)
    check_count("projections", projections)
    x, y = as_same_space(x, y)
    return _sliced(x, y, random_directions(key, x.shape[1], projections), p)


def random_directions(key: Key, dim: int, num: int) -> Float[Array, "num dim"]:
    """Unit vectors, uniform on the sphere: those of `sliced_wasserstein` with this key.

    Raises:
        ValueError: If `dim` or `num` is below 1.
    """
    check_count("dim", dim)
    check_count("num", num)
    normal = jax.random.normal(key, (num, dim))
    return normal / jnp.linalg.norm(normal, axis=-1, keepdims=True)


@jax.jit(static_argnames="p")
def _sliced(x: Array, y: Array, directions: Array, p: int) -> Array:
    def project(points, direction):
        return jnp.matmul(points, direction, precision=jax.lax.Precision.HIGHEST)

    def one(direction):
        return _power(project(x, direction), project(y, direction), p)

    return jnp.mean(jax.lax.map(one, directions, batch_size=_BLOCK)) ** (1 / p)


def _power(x: Array, y: Array, p: int) -> Array:
    """The p-th power of the distance: the quantile functions are steps."""
    width, of_x, of_y = _steps(len(x), len(y))
    difference = jnp.abs(jnp.sort(x)[of_x] - jnp.sort(y)[of_y])
    return jnp.sum(jnp.asarray(width, x.dtype) * difference**p)


def _steps(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where two quantile functions of `n` and `m` steps are both constant.

    Levels are integers in units of 1 / nm, so that common ends of steps coincide exactly.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    width = np.diff(ends, prepend=0)
    return width / (n * m), (ends - 1) // m, (ends - 1) // n


def _check_order(p: int) -> None:
    if p not in (1, 2):
        raise ValueError(f"p must be 1 or 2, got {p!r}.")
