"""Data: two-dimensional targets as samplers `(key, num) -> points`, digits, and images."""

from kacjax.data.cifar10 import CIFAR10_CLASSES, load_cifar10
from kacjax.data.files import DataError, cache_folder, data_root
from kacjax.data.folder import ImageStream, load_images, stream_images
from kacjax.data.image_files import image_files
from kacjax.data.images import ImageArrays, ImageBatch, to_float, to_uint8
from kacjax.data.mnist import DIGITS_SIDE, MNIST_CLASSES, load_digits, load_mnist
from kacjax.data.targets import GRID2D_MODES, GRID2D_STD, TARGETS, target

__all__ = [
    "CIFAR10_CLASSES",
    "DIGITS_SIDE",
    "GRID2D_MODES",
    "GRID2D_STD",
    "MNIST_CLASSES",
    "TARGETS",
    "DataError",
    "ImageArrays",
    "ImageBatch",
    "ImageStream",
    "cache_folder",
    "data_root",
    "image_files",
    "load_cifar10",
    "load_digits",
    "load_images",
    "load_mnist",
    "stream_images",
    "target",
    "to_float",
    "to_uint8",
]
