"""Features of the Inception network, by torch-fidelity: with them the Fréchet distance is the FID."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from kacjax._optional import require
from kacjax._validation import check_choice, check_count

LAYERS = ("64", "192", "768", "2048")
"""The layers, by the dimension of their features, averaged over the image; FID and KID take 2048."""


class InceptionFeatures:
    """The features `images -> (num, dim)` that published FID and KID values are made with.

    The network is Inception v3 with the weights of TensorFlow's release of 2015-12-05. It takes
    bytes, resizes images of any size to 299 pixels, once, by TensorFlow 1's bilinear rule, and
    scales them: nothing is resized or scaled before. Bring samples to bytes first
    (`kacjax.data.to_uint8`), as data are.

    Source: C. Szegedy et al., *Rethinking the Inception architecture for computer vision*, CVPR
    2016; A. Obukhov et al., *High-fidelity performance metrics for generative models in PyTorch*
    (torch-fidelity), 2020.

    Args:
        weights: A local file of weights in torch-fidelity's format. It is read with Python's
            pickle: take none from people you do not trust. By default torch-fidelity downloads
            them into PyTorch's cache.
        layer: One of `LAYERS`.
        device: Where PyTorch runs, such as `cpu` or `cuda`; by default the GPU if there is one.
        batch_size: Images in one call of the network.
        extractor: A network to use in place of torch-fidelity's, from bytes of shape
            `(num, 3, height, width)` to a tuple whose first entry are the features.

    Raises:
        ImportError: If torch-fidelity is missing: `pip install "kacjax[inception]"`.
        ValueError: If the layer is unknown, the batch size not positive, or the file missing.
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        *,
        layer: str = "2048",
        device: str | None = None,
        batch_size: int = 64,
        extractor: Callable[[Any], tuple[Any, ...]] | None = None,
    ):
        check_choice("layer", layer, LAYERS)
        check_count("batch_size", batch_size)
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"weights must be a file, got {str(weights)!r}, which is none.")
        self._torch = require("torch", "inception")
        self._device = device or ("cuda" if self._torch.cuda.is_available() else "cpu")
        self._batch_size = batch_size
        if extractor is None:
            module = require("torch_fidelity.feature_extractor_inceptionv3", "inception")
            extractor = module.FeatureExtractorInceptionV3(
                "inception-v3-compat",
                [layer],
                feature_extractor_weights_path=None if weights is None else str(weights),
            ).to(self._device)
        self._extractor: Any = extractor

    def __call__(self, images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "num dim"]:
        """The features of images in bytes; one grey channel is shown as red, green and blue.

        Raises:
            ValueError: If there are no images, or their shape is not `(num, height, width,
                channels)` with 1 or 3 channels.
        """
        if images.ndim != 4 or not images.size or images.shape[-1] not in (1, 3):
            raise ValueError(
                "images must have shape (num, height, width, channels) with 1 or 3 channels and "
                f"not be empty, got {images.shape}."
            )
        features = []
        with self._torch.no_grad():
            for start in range(0, len(images), self._batch_size):
                batch = images[start : start + self._batch_size].transpose(0, 3, 1, 2)
                colour = np.ascontiguousarray(np.repeat(batch, 3 // batch.shape[1], axis=1))
                tensor = self._torch.from_numpy(colour).to(self._device)
                features.append(self._extractor(tensor)[0].cpu().numpy())
        return np.concatenate(features)
