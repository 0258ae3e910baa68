"""The Fréchet distance of features, known with Inception's features as FID."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from kacjax._validation import check_count
from kacjax.metrics.distances import Points, check_points

Vector: TypeAlias = Float[np.ndarray, " dim"]
Matrix: TypeAlias = Float[np.ndarray, "dim dim"]


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Mean and covariance of features, gathered chunk by chunk in float64.

    Start with `FeatureStatistics.of(first_chunk)` and go on with `add`: the result does not depend
    on the chunks but for rounding, nothing cancels, and memory is that of one covariance.

    Source: T. F. Chan, G. H. Golub, R. J. LeVeque, *Updating formulae and a pairwise algorithm for
    computing sample variances*, COMPSTAT 1982.

    Attributes:
        count: Number of feature vectors.
        mean: Their mean.
        scatter: Sum of the outer products of their deviations from it.
    """

    count: int
    mean: Vector
    scatter: Matrix

    @classmethod
    def of(cls, features: Points) -> "FeatureStatistics":
        """The statistics of some features.

        Raises:
            ValueError: If they are no matrix, there are none, or they are not finite.
        """
        check_points("features", features)
        if not features.size:
            raise ValueError(f"features must not be empty, got shape {features.shape}.")
        array = np.asarray(features, np.float64)
        if not np.all(np.isfinite(array)):
            raise ValueError("features must be finite, got NaN or infinite values.")
        mean = array.mean(axis=0)
        deviation = array - mean
        return cls(len(array), mean, deviation.T @ deviation)

    def add(self, features: "Points | FeatureStatistics") -> "FeatureStatistics":
        """The statistics with further features.

        Raises:
            ValueError: If the dimensions differ, or the features are empty or not finite.
        """
        other = features if isinstance(features, FeatureStatistics) else self.of(features)
        if other.mean.shape != self.mean.shape:
            raise ValueError(
                f"features must have dimension {self.mean.size}, got {other.mean.size}."
            )
        count = self.count + other.count
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.count * other.count / count)
        return FeatureStatistics(
            count, self.mean + step * (other.count / count), self.scatter + other.scatter + between
        )

    @property
    def covariance(self) -> Matrix:
        """The unbiased covariance.

        Raises:
            ValueError: If there is one feature vector only.
        """
        if self.count < 2:
            raise ValueError("a covariance takes at least two feature vectors, got 1.")
        return self.scatter / (self.count - 1)


def feature_statistics(
    function: Callable[[Any], Points],
    images: Float[Array, "num *event"] | np.ndarray,
    chunk_size: int = 500,
) -> FeatureStatistics:
    """The statistics of the features of images, which are computed a chunk at a time.

    Args:
        function: Any function of images, of shape `(chunk, *event)`, to features `(chunk, dim)`.
        images: The images, in whatever form the function takes.
        chunk_size: Images in one call; the last chunk may be smaller.

    Raises:
        ValueError: If there are no images, or features are not finite.
    """
    check_count("chunk_size", chunk_size)
    total = None
    for start in range(0, len(images), chunk_size):
        features = function(images[start : start + chunk_size])
        total = FeatureStatistics.of(features) if total is None else total.add(features)
    if total is None:
        raise ValueError(f"images must not be empty, got shape {images.shape}.")
    return total


def frechet_distance(x_features: Points, y_features: Points) -> float:
    r"""The squared Fréchet distance between Gaussians fitted to two sets of features.

    $|\mu_x - \mu_y|^2 + \operatorname{tr}(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2})$, the
    squared 2-Wasserstein distance of the Gaussians. Only with the features of the Inception network
    is it the FID. It has a bias that falls like $1/n$: for standard normal features and $n$ samples
    on both sides, $2 d / n + d (d + 1) / 2n$. Compare equal numbers of samples.

    Source: M. Heusel et al., *GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium*, NeurIPS 2017; D. C. Dowson, B. V. Landau, *The Fréchet distance between
    multivariate normal distributions*, Journal of Multivariate Analysis 12 (1982).

    Args:
        x_features: Features of samples, by any function.
        y_features: Features of data, by the same function.

    Raises:
        ValueError: If the dimensions differ, or a set has fewer than two points or is not finite.
    """
    for name, features in (("x_features", x_features), ("y_features", y_features)):
        check_points(name, features)
    if x_features.shape[1] != y_features.shape[1]:
        raise ValueError(
            "x_features and y_features must be of one dimension, got the shapes "
            f"{x_features.shape} and {y_features.shape}."
        )
    x, y = (FeatureStatistics.of(features) for features in (x_features, y_features))
    return frechet_distance_from_statistics(x.mean, x.covariance, y.mean, y.covariance)


def frechet_distance_from_statistics(
    mean_x: Float[np.ndarray, "..."],
    covariance_x: Float[np.ndarray, "..."],
    mean_y: Float[np.ndarray, "..."],
    covariance_y: Float[np.ndarray, "..."],
) -> float:
    r"""The squared Fréchet distance from means and covariances; see `frechet_distance`.

    The trace of $(\Sigma_x \Sigma_y)^{1/2}$ is the sum of the singular values of
    $\Sigma_x^{1/2} \Sigma_y^{1/2}$, with symmetric roots: no root of a matrix that is not
    symmetric, nothing complex, and covariances of low rank lose no digits.

    Args:
        mean_x: Mean of the samples, of shape `(dim,)`.
        covariance_x: Their covariance, of shape `(dim, dim)`.
        mean_y: Mean of the data.
        covariance_y: Their covariance.

    Raises:
        ValueError: If the shapes do not fit, a value is not finite, or a covariance has a negative
            eigenvalue beyond rounding.
    """
    dim = mean_x.size
    for name, array, shape in (
        ("mean_x", mean_x, (dim,)),
        ("mean_y", mean_y, (dim,)),
        ("covariance_x", covariance_x, (dim, dim)),
        ("covariance_y", covariance_y, (dim, dim)),
    ):
        if array.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {array.shape}.")
        if not np.all(np.isfinite(array)):
            raise ValueError(f"{name} must be finite, got NaN or infinite values.")
    roots = [
        _root(name, matrix)
        for name, matrix in (("covariance_x", covariance_x), ("covariance_y", covariance_y))
    ]
    step = np.asarray(mean_x, np.float64) - np.asarray(mean_y, np.float64)
    cross = np.sum(scipy.linalg.svdvals(roots[0] @ roots[1]))
    distance = step @ step + np.trace(covariance_x) + np.trace(covariance_y) - 2 * cross
    return max(float(distance), 0.0)


def _root(name: str, covariance: Matrix) -> Matrix:
    """The symmetric root of a covariance; eigenvalues below 0 by rounding count as 0."""
    values, vectors = scipy.linalg.eigh(np.asarray(covariance, np.float64))
    if values[0] < -1e-6 * max(abs(values[-1]), 1e-300):
        raise ValueError(f"{name} must not have negative eigenvalues, got {values[0]}.")
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
