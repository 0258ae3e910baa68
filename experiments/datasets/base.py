"""What an experiment asks of a data set: training data, a judgement of samples, and figures."""

import abc
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from jaxtyping import PRNGKeyArray as Key
from matplotlib.figure import Figure

from experiments.config import IMAGES
from kacjax import Trainer
from kacjax.data import to_uint8

Samples = Shaped[np.ndarray, "num *event"]
# Draws paths of generation: (number of paths) -> positions of shape (times, paths, dim).
Trajectory = Callable[[int], Float[Array, "times paths dim"]]


class Headline(NamedTuple):
    """A figure of `Dataset.quality` that a comparison puts into its table."""

    key: str
    title: str  # A few words for the head of a column.
    best: Literal["low", "high", "one"] = "low"  # Which values are the better ones.
    log: bool = True  # Whether it is drawn on a logarithmic axis.

    def badness(self, value: float) -> float:
        """A number that is lower for the better value."""
        if math.isnan(value) or (self.best == "one" and value <= 0):
            return math.inf
        if self.best == "one":
            return abs(math.log(value))
        return value if self.best == "low" else -value


class Dataset(abc.ABC):
    """Training data with a judge of samples."""

    name: str
    event: tuple[int, ...]  # Shape of one datum, as the network sees it.
    num: int  # Number of training data.
    classes: tuple[str, ...] = ()  # Their names; none without labels.
    fingerprint: str = ""  # What tells these data from others, where they come from files.
    headlines: tuple[Headline, ...]  # What a comparison shows of `quality`.
    field_points: ClassVar[int] = 256  # Data at which a comparison measures velocities.

    @abc.abstractmethod
    def training(self, key: Key) -> tuple[Any, Any]:
        """Training data, floats or bytes, and their labels or None; `key` decides which, if drawn."""

    @abc.abstractmethod
    def quality(self, samples: Samples) -> dict[str, float]:
        """Figures by which samples, as `finish` makes them, are judged."""

    @abc.abstractmethod
    def reference(self, num: int) -> dict[str, float]:
        """The same figures of `num` new real data: what no model can be expected to beat."""

    @abc.abstractmethod
    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Figures by file name, of samples by model name beside real data."""

    def trajectory_figure(self, trajectory: Trajectory) -> Figure | None:
        """The paths of generation, where they can be drawn."""
        return None

    def source(self, trainer: Trainer, key: Key, step: int, seed: int) -> Any:
        """What `Trainer.run` takes its batches from, the first of them that of `step`."""
        data, labels = self.training(key)
        return trainer.device_data(data, labels if trainer.classes else None)

    def notes(self) -> dict[str, Any]:
        """What the file of a trained velocity says of the data; see `finish`."""
        return {"data": self.name, "classes": list(self.classes)}

    def finish(self, samples: Any) -> Samples:
        """Brings what a model generates into the range, units and shape of the data."""
        return finish(self.notes(), samples)

    def close(self) -> None:
        """Ends what runs in the background, where something does."""
        return


def finish(notes: Mapping[str, Any], samples: Any) -> Samples:
    """Brings samples into the form of the data that a velocity's notes describe."""
    if notes.get("data") in IMAGES:
        return np.asarray(to_uint8(jnp.asarray(samples)))
    samples = np.asarray(samples)
    if notes.get("data") == "digits":
        return np.clip(samples, -1, 1)
    if "mean" in notes:
        mean, std = (np.asarray(notes[name], np.float64) for name in ("mean", "std"))
        found = (mean + std * samples).reshape(len(samples), *notes["shape"])
        # Where numbers have a large part in common, float32 would lose the rest.
        return found if np.any(np.abs(mean) > 1e4 * std) else found.astype(np.float32)
    return samples


def draw(random: Callable[[Key, int], Any], seed: int, num: int) -> Samples:
    """Points of a target as NumPy has them."""
    return np.asarray(random(jax.random.key(seed), num))
