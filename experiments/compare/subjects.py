"""What is compared on: data with their judge, and how a network learns and is read again."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from experiments.compare.config import CompareConfig, ImageCompareConfig
from experiments.config import TrainConfig
from experiments.datasets import Dataset, Headline, make_dataset
from experiments.images import data as image_data
from experiments.images.config import ImageConfig
from experiments.images.judged import LOADERS, JudgedImages
from experiments.images.train import make_network
from experiments.images.train import make_trainer as make_image_trainer
from experiments.sampling import load_velocity, make_trainer
from kacjax import Trainer, TrainState, Velocity, sharding

Run = TrainConfig | ImageConfig


class Subject(abc.ABC):
    """A data set and the networks for it.

    Attributes:
        dataset: The data and their judge.
        field_points: Number of points at which velocities are measured.
    """

    dataset: Dataset
    field_points: int

    @abc.abstractmethod
    def begin(self, run: Any) -> tuple[Trainer, Any, Callable[[], TrainState]]:
        """The trainer of a run, its data, and a function that makes its first state."""

    @abc.abstractmethod
    def load(self, folder: Path, run: Any) -> Velocity:
        """The velocity that lies in a folder.

        Raises:
            UserError: If it is missing or damaged.
        """


class VectorSubject(Subject):
    """Vectors and a perceptron."""

    field_points = 256

    def __init__(self, name: str):
        self.dataset = make_dataset(name)

    def begin(self, run: TrainConfig) -> tuple[Trainer, Any, Callable[[], TrainState]]:
        """The trainer of a run, its data, and a function that makes its first state."""
        # The keys of `experiments.train`.
        data_key, training_key, _ = jax.random.split(jax.random.key(run.training.seed), 3)
        trainer = make_trainer(run, self.dataset.event[0])
        source = trainer.device_data(self.dataset.training(data_key))
        return trainer, source, lambda: trainer.init(training_key)

    def load(self, folder: Path, run: TrainConfig) -> Velocity:
        """The velocity that lies in a folder."""
        return load_velocity(folder, run, self.dataset.event[0])


class ImageSubject(Subject):
    """Images and a U-Net."""

    field_points = 16

    def __init__(self, config: ImageCompareConfig):
        self._images = image_data.load(next(iter(config.runs(0).values())), first=True)
        root = config.source.data_root
        self.dataset = JudgedImages(config.data, self._images, root, config.classifier)
        self._mesh = sharding.make_mesh() if jax.device_count() > 1 else None

    def begin(self, run: ImageConfig) -> tuple[Trainer, Any, Callable[[], TrainState]]:
        """The trainer of a run, its data, and a function that makes its first state."""
        trainer = make_image_trainer(run, self._images, self._mesh)

        def first() -> TrainState:
            whole = dataclasses.replace(trainer, network=make_network(run, self._images))
            return whole.init(jax.random.key(run.training.seed))

        return trainer, self._images.source(trainer, run, 0), first

    def load(self, folder: Path, run: ImageConfig) -> Velocity:
        """The velocity that lies in a folder."""
        return load_velocity(folder, run)


def make_subject(config: CompareConfig | ImageCompareConfig) -> Subject:
    """What a comparison is on.

    Raises:
        UserError: If data or a classifier are missing.
    """
    if isinstance(config, ImageCompareConfig):
        return ImageSubject(config)
    return VectorSubject(config.data)


def headlines_of(data: str) -> tuple[Headline, ...]:
    """What a comparison shows of the quality on this data set; no file of it is read.

    Raises:
        ValueError: If the name is unknown.
    """
    return (JudgedImages if data in LOADERS else make_dataset(data)).headlines
