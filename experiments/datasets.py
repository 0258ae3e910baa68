"""What an experiment asks of a data set: training data, a judgement of samples, and figures."""

import abc
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped
from jaxtyping import PRNGKeyArray as Key
from matplotlib.figure import Figure

from experiments.judging.classes import ClassJudge
from kacjax import data, metrics, plots

TRAINING_POINTS = 200_000

Samples = Shaped[np.ndarray, "num *event"]
# Draws paths of generation: (number of paths) -> positions of shape (times, paths, dim).
Trajectory = Callable[[int], Float[Array, "times paths dim"]]


class Headline(NamedTuple):
    """A figure of `Dataset.quality` that a comparison puts into its table.

    Attributes:
        key: Its name there.
        title: A few words for the head of a column.
        best: Which values are the better ones: low ones, high ones, or those near one.
        log: Whether it is drawn on a logarithmic axis.
    """

    key: str
    title: str
    best: Literal["low", "high", "one"] = "low"
    log: bool = True


class Dataset(abc.ABC):
    """Training data with a judge of samples.

    Attributes:
        event: Shape of one datum.
        headlines: What a comparison shows of `quality`.
    """

    event: tuple[int, ...]
    headlines: ClassVar[tuple[Headline, ...]]

    @property
    def dim(self) -> int:
        """Dimension of the data, where they are vectors."""
        (dim,) = self.event
        return dim

    @abc.abstractmethod
    def training(self, key: Key) -> Float[Array, "num *event"]:
        """Training data; `key` decides which, where they are drawn."""

    @abc.abstractmethod
    def quality(self, samples: Samples) -> dict[str, float]:
        """Figures by which samples are judged."""

    @abc.abstractmethod
    def reference(self, num: int) -> dict[str, float]:
        """The same figures of `num` new real data: what no model can be expected to beat."""

    @abc.abstractmethod
    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Figures by file name, of samples by model name beside real data."""

    def trajectory_figure(self, trajectory: Trajectory) -> Figure | None:
        """The paths of generation, where they can be drawn."""
        del trajectory
        return None

    def finish(self, samples: Float[Array, "num *event"]) -> Samples:
        """Brings samples into the range that the data have by definition."""
        return np.asarray(samples)


class Plane(Dataset):
    """A two-dimensional target, of which there is as much data as is asked for."""

    event = (2,)
    headlines = (
        Headline("energy_distance", "energy distance"),
        Headline("sliced_wasserstein", "sliced Wasserstein"),
    )

    def __init__(self, name: str):
        self._sample = data.target(name)
        # Energy distance of data from data, by their number.
        self._floor: dict[int, float] = {}

    def training(self, key: Key) -> Float[Array, "num 2"]:
        """A large draw: a batch hardly ever sees a point again."""
        return self._sample(key, TRAINING_POINTS)

    def quality(self, samples: Samples) -> dict[str, float]:
        """Distances from fresh data, and the energy distance of data from data for scale."""
        num = len(samples)
        first = self._fresh(1, num)
        if num not in self._floor:
            self._floor[num] = float(metrics.energy_distance(self._fresh(2, num), first))
        return {
            "energy_distance": float(metrics.energy_distance(samples, first)),
            "energy_distance_of_data": self._floor[num],
            "sliced_wasserstein": float(
                metrics.sliced_wasserstein(samples, first, jax.random.key(0))
            ),
        }

    def reference(self, num: int) -> dict[str, float]:
        """The figures of a draw that is neither training data nor what samples are judged by."""
        return self.quality(self._fresh(3, num))

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Scatter and density beside data."""
        real = self._fresh(1, max(map(len, samples.values())))
        return {"samples.png": plots.points_figure({"data": real, **samples})}

    def trajectory_figure(self, trajectory: Trajectory) -> Figure:
        """Paths of generation over the data."""
        return plots.trajectories_figure(trajectory(150), self._fresh(1, 1000))

    def _fresh(self, seed: int, num: int) -> Samples:
        return np.asarray(self._sample(jax.random.key(seed), num))


class Grid2d(Plane):
    """The nine modes, where a sample can be told to be right or wrong."""

    radius = 0.01
    headlines = (
        Headline("median_distance_to_mode", "median distance"),
        Headline("within_0.01_of_a_mode", "within 0.01", "high", log=False),
        Headline("mode_total_variation", "mode TV"),
        Headline("relative_mode_width", "mode width", "one"),
        Headline("energy_distance", "energy distance"),
    )

    def __init__(self):
        super().__init__("grid2d")

    def quality(self, samples: Samples) -> dict[str, float]:
        """Distance to the nearest mode, balance and width of the modes, energy distance."""
        statistics = metrics.mode_statistics(samples, data.GRID2D_MODES, self.radius)
        return {
            "median_distance_to_mode": float(statistics.median_distance),
            f"within_{self.radius:g}_of_a_mode": float(statistics.within_radius),
            "mode_total_variation": float(statistics.total_variation),
            "relative_mode_width": self.relative_width(samples),
            **super().quality(samples),
        }

    def relative_width(self, samples: Samples) -> float:
        """Deviation of the samples within a mode over that of the data, 1 for samples like data.

        From the median absolute deviation within the radius, averaged over modes and components:
        a few stray samples do not count for width, and neither does a shifted center.
        """
        offsets = samples[:, None] - data.GRID2D_MODES
        near = np.linalg.norm(offsets, axis=-1) <= self.radius
        widths = [
            np.median(np.abs(own - np.median(own, axis=0)), axis=0).mean()
            for own in (offsets[near[:, i], i] for i in range(near.shape[1]))
            if len(own)
        ]
        # 1.4826 makes the deviation of a normal law of its median absolute deviation.
        return float(1.4826 * np.mean(widths) / data.GRID2D_STD) if widths else 0.0

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Those of any target, and a zoom on one mode."""
        real = self._fresh(1, max(map(len, samples.values())))
        zoom = plots.zoom_figure(
            {"data": real, **samples}, (1.0, 0.0), 1.5 * self.radius, self.radius
        )
        return {**super().figures(samples), "zoom.png": zoom}


class DigitImages(Dataset):
    """The real handwritten digits."""

    event = (data.DIGITS_SIDE**2,)
    headlines = (
        Headline("class_total_variation", "class TV", log=False),
        Headline("confidence", "confidence", "high", log=False),
        Headline("two_sample_accuracy", "2-sample acc.", log=False),
        Headline("memorization_ratio", "memorization", "one", log=False),
    )

    def __init__(self):
        self._digits = data.load_digits()

    @cached_property
    def _judge(self) -> ClassJudge:
        return ClassJudge(self._digits.train, self._digits.train_labels)

    def training(self, key: Key) -> Float[Array, "num 64"]:
        """The training digits, whatever the key."""
        del key
        return jnp.asarray(self._digits.train)

    def finish(self, samples: Float[Array, "num dim"]) -> Samples:
        """Clips to the range of a pixel."""
        return np.clip(samples, -1, 1)

    def quality(self, samples: Samples) -> dict[str, float]:
        """Classes and confidence, likeness to held-out digits, distance from training digits."""
        train, _, held_out, _ = self._digits
        statistics = self._judge.statistics(samples)
        return {
            "class_total_variation": statistics.total_variation,
            "confidence": statistics.confidence,
            "confidence_of_held_out": self._judge.statistics(held_out).confidence,
            "two_sample_accuracy": self._two_sample_accuracy(samples),
            "memorization_ratio": float(metrics.memorization_ratio(samples, train, held_out)),
        }

    def reference(self, num: int) -> dict[str, float]:
        """The held-out digits' confidence, and what the other figures are for equal laws."""
        del num
        confidence = self._judge.statistics(self._digits.held_out).confidence
        return {
            "class_total_variation": 0.0,
            "confidence": confidence,
            "two_sample_accuracy": 0.5,
            "memorization_ratio": 1.0,
        }

    def _two_sample_accuracy(self, samples: Samples) -> float:
        """The mean over as many parts of the samples as match the held-out digits in number."""
        held_out = self._digits.held_out
        size = min(len(samples), len(held_out))
        parts = range(0, len(samples) - size + 1, size)
        return float(
            np.mean(
                [metrics.two_sample_accuracy(samples[i : i + size], held_out[:size]) for i in parts]
            )
        )

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Generated digits beside digits that no model has seen."""
        sets = {"held-out real digits": self._digits.held_out, **samples}
        return {"samples.png": plots.images_figure(sets, data.DIGITS_SIDE)}


def make_dataset(name: str) -> Dataset:
    """The data set of this name.

    Raises:
        ValueError: If the name is unknown.
    """
    if name == "digits":
        return DigitImages()
    return Grid2d() if name == "grid2d" else Plane(name)
