"""Data: two-dimensional targets as samplers `(key, num) -> points`, digits, and images."""

from kacjax.data.batches import draw_batch, epoch_rows
from kacjax.data.checkerboard import checkerboard
from kacjax.data.cifar10 import CIFAR10_CLASSES, load_cifar10
from kacjax.data.digits import DIGITS_SIDE, Digits, load_digits
from kacjax.data.files import DataError, cache_folder, data_root
from kacjax.data.folder import load_images
from kacjax.data.funnel import funnel
from kacjax.data.grid2d import GRID2D_MODES, GRID2D_STD, grid2d
from kacjax.data.image_files import ImageFiles, image_files
from kacjax.data.images import ImageArrays, ImageBatch, to_float, to_uint8
from kacjax.data.mnist import MNIST_CLASSES, load_mnist
from kacjax.data.moons import moons
from kacjax.data.spirals import spirals
from kacjax.data.stream import ImageStream, stream_images
from kacjax.data.targets import TARGETS, Sampler, target

__all__ = [
    "CIFAR10_CLASSES",
    "DIGITS_SIDE",
    "GRID2D_MODES",
    "GRID2D_STD",
    "MNIST_CLASSES",
    "TARGETS",
    "DataError",
    "Digits",
    "ImageArrays",
    "ImageBatch",
    "ImageFiles",
    "ImageStream",
    "Sampler",
    "cache_folder",
    "checkerboard",
    "data_root",
    "draw_batch",
    "epoch_rows",
    "funnel",
    "grid2d",
    "image_files",
    "load_cifar10",
    "load_digits",
    "load_images",
    "load_mnist",
    "moons",
    "spirals",
    "stream_images",
    "target",
    "to_float",
    "to_uint8",
]
