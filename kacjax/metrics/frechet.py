"""The Fréchet distance of features, and the Inception network's features, which make it the FID."""

from pathlib import Path
from typing import Any

import numpy as np
import scipy.linalg
from jaxtyping import Float, UInt8

from kacjax._optional import require
from kacjax._validation import check_count
from kacjax.metrics.neighbors import Points, as_same_space


def frechet_distance(x_features: Points, y_features: Points) -> float:
    r"""The squared Fréchet distance between Gaussians fitted to two sets of features.

    $|\mu_x - \mu_y|^2 + \operatorname{tr}(\Sigma_x + \Sigma_y - 2 (\Sigma_x \Sigma_y)^{1/2})$. Only
    with the features of the Inception network is it the FID. It has a bias that falls like $1/n$:
    for standard normal features and $n$ samples on both sides, $2 d / n + d (d + 1) / 2n$. Compare
    equal numbers of samples. Features and errors are those of `kid`.

    Source: M. Heusel et al., *GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium*, NeurIPS 2017; D. C. Dowson, B. V. Landau, J. Multivariate Anal. 12 (1982).

    Example:
        >>> x = np.eye(3)
        >>> round(kacjax.metrics.frechet_distance(x, x + 1), 6)
        3.0
    """
    as_same_space(x_features, y_features, ("x_features", "y_features"), minimum=2)
    moments = []
    for features in (x_features, y_features):
        rows = np.asarray(features, np.float64).reshape(len(features), -1)
        moments += [rows.mean(axis=0), np.atleast_2d(np.cov(rows, rowvar=False))]
    return between_gaussians(*moments)


def between_gaussians(
    mean_x: np.ndarray, cov_x: np.ndarray, mean_y: np.ndarray, cov_y: np.ndarray
) -> float:
    r"""The squared distance from means and covariances.

    The trace of $(\Sigma_x \Sigma_y)^{1/2}$ is the sum of the singular values of
    $\Sigma_x^{1/2} \Sigma_y^{1/2}$ with symmetric roots: covariances of low rank lose no digits.
    """
    cross = np.sum(scipy.linalg.svdvals(_root(cov_x) @ _root(cov_y)))
    distance = np.sum((mean_x - mean_y) ** 2) + np.trace(cov_x) + np.trace(cov_y) - 2 * cross
    return max(float(distance), 0.0)


def _root(covariance: np.ndarray) -> np.ndarray:
    """The symmetric root; eigenvalues below 0 are rounding."""
    values, vectors = scipy.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


class InceptionFeatures:
    """The features `images -> (num, dim)` that published FID and KID values are made with.

    Inception v3 with the weights of TensorFlow's release of 2015-12-05 takes bytes of any size:
    bring samples to bytes first (`kacjax.data.to_uint8`), as data are.

    Source: C. Szegedy et al., *Rethinking the Inception architecture for computer vision*, CVPR
    2016; A. Obukhov et al., *High-fidelity performance metrics in PyTorch* (torch-fidelity), 2020.

    Args:
        weights: A file of weights in torch-fidelity's format, by default downloaded. It is read
            with Python's pickle: take none from people you do not trust.
        device: Where PyTorch runs, such as `cpu` or `cuda`; by default the GPU if there is one.
        batch_size: Images in one call of the network.
        extractor: Replaces torch-fidelity's: bytes `(num, 3, height, width)` to `(features, ...)`.

    Raises:
        ImportError: If torch-fidelity is missing: `pip install "kacjax[inception]"`.
        ValueError: If the batch size is not positive, or the file missing.

    Example:
        >>> def fid(samples, images):  # bytes
        ...     features = kacjax.metrics.InceptionFeatures()
        ...     return kacjax.metrics.frechet_distance(features(samples), features(images))
    """

    def __init__(
        self,
        weights: Any = None,
        *,
        device: Any = None,
        batch_size: int = 64,
        extractor: Any = None,
    ):
        check_count("batch_size", batch_size)
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"weights must be a file, got {str(weights)!r}, which is none.")
        self._torch = require("torch", "inception")
        self._device = device or ("cuda" if self._torch.cuda.is_available() else "cpu")
        self._batch_size = batch_size
        if extractor is None:
            module = require("torch_fidelity.feature_extractor_inceptionv3", "inception")
            make, path = module.FeatureExtractorInceptionV3, weights and str(weights)
            network = make("inception-v3-compat", ["2048"], feature_extractor_weights_path=path)
            extractor = network.to(self._device)
        self._extractor = extractor

    def __call__(self, images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "num dim"]:
        """The features of images in bytes; one gray channel is shown as red, green and blue."""
        if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
            shape = "(num, height, width, 1 or 3 channels)"
            raise ValueError(f"images must have shape {shape}, got {images.shape}.")
        features = []
        with self._torch.no_grad():
            for start in range(0, len(images), self._batch_size):
                batch = images[start : start + self._batch_size].transpose(0, 3, 1, 2)
                color = np.ascontiguousarray(np.repeat(batch, 3 // batch.shape[1], axis=1))
                tensor = self._torch.from_numpy(color).to(self._device)
                features.append(self._extractor(tensor)[0].cpu().numpy())
        return np.concatenate(features)
