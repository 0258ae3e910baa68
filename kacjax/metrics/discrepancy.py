"""The maximum mean discrepancy."""

from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._typing import Scalar
from kacjax._validation import check_positive
from kacjax.metrics.distances import BLOCK, Points, as_same_space, centred, squares

Bandwidth: TypeAlias = Scalar | Sequence[float | int] | Float[Array, " scales"]

# Points that the median heuristic looks at.
_MEDIAN_POINTS = 1000


def maximum_mean_discrepancy(
    x: Points, y: Points, bandwidth: Bandwidth | None = None, *, unbiased: bool = True
) -> Float[Array, ""]:
    r"""The squared maximum mean discrepancy $E k(X, X') + E k(Y, Y') - 2 E k(X, Y)$.

    The kernel is Gaussian, $k(x, y) = \frac1S \sum_s \exp(-|x - y|^2 / 2 h_s^2)$: one bandwidth, or
    the mean over several. Zero only for equal distributions. Differences much finer than the
    bandwidth hardly count; for modes narrower than the median distance give several.

    Source: A. Gretton et al., *A kernel two-sample test*, JMLR 13 (2012), Lemma 6 (unbiased) and
    equation 5 (biased).

    Args:
        x: Samples.
        y: Samples to compare with; the numbers may differ.
        bandwidth: The $h_s$ in units of the points, one or several; by default `median_distance`.
        unbiased: Whether to leave out the pairs of a point with itself. Then the mean for equal
            laws is zero, and values can be negative; otherwise it is $(1 - E k(X, X')) (1/n + 1/m)$
            and values are not negative.

    Raises:
        ValueError: If the dimensions differ, a set is empty (`unbiased`: has one point only) or not
            finite, or a bandwidth is not positive.
    """
    x, y = as_same_space(x, y, minimum=2 if unbiased else 1)
    scales = median_distance(x, y) if bandwidth is None else jnp.asarray(bandwidth, x.dtype)
    if bandwidth is not None:
        check_positive("bandwidth", scales)
    scales = jnp.atleast_1d(scales)
    within_x, within_y = _mean_kernel(x, x, scales), _mean_kernel(y, y, scales)
    if unbiased:
        # The kernel of a point with itself is 1.
        within_x, within_y = (
            (len(points) * within - 1) / (len(points) - 1)
            for within, points in ((within_x, x), (within_y, y))
        )
    discrepancy = within_x + within_y - 2 * _mean_kernel(x, y, scales)
    return discrepancy if unbiased else jnp.maximum(discrepancy, 0)


def median_distance(x: Points, y: Points) -> Float[Array, ""]:
    """The median distance between points of both sets together, a bandwidth that fits most data.

    Of more than 1,000 points every second, third, ... is taken.

    Source: A. Gretton et al., *A kernel two-sample test*, JMLR 13 (2012), section 8.

    Raises:
        ValueError: If the dimensions differ, a set is empty or not finite, or half of all pairs
            coincide.
    """
    x, y = as_same_space(x, y)
    median = _median(x[:: _stride(x)], y[:: _stride(y)])
    check_positive("the median distance of the points", median)
    return median


@jax.jit
def _mean_kernel(x: Array, y: Array, scales: Array) -> Array:
    x, y = centred(x, y)

    def one(point):
        square = squares(point, y)
        return jnp.mean(jnp.exp(-square[:, None] / (2 * scales[None, :] ** 2)))

    return jnp.mean(jax.lax.map(one, x, batch_size=BLOCK))


@jax.jit
def _median(x: Array, y: Array) -> Array:
    pooled = jnp.concatenate([x, y])
    pooled, _ = centred(pooled, pooled)
    table = jax.lax.map(lambda point: squares(point, pooled), pooled, batch_size=BLOCK)
    return jnp.median(jnp.sqrt(table[jnp.triu_indices(len(pooled), 1)]))


def _stride(points: Array) -> int:
    return -(-len(points) // (_MEDIAN_POINTS // 2))
