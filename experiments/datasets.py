"""What an experiment asks of a data set: training data, a judgement of samples, and figures."""

import abc
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from matplotlib.figure import Figure

from kacjax import data, metrics, plots
from kacjax._typing import Key

TRAINING_POINTS = 200_000

Samples = Float[np.ndarray, "num dim"]
# Draws paths of generation: (number of paths) -> positions of shape (times, paths, dim).
Trajectory = Callable[[int], Float[Array, "times paths dim"]]


class Dataset(abc.ABC):
    """A data set of vectors."""

    dim: int

    @abc.abstractmethod
    def training(self, key: Key) -> Float[Array, "num dim"]:
        """Training data; `key` decides which, where they are drawn."""

    @abc.abstractmethod
    def quality(self, samples: Samples) -> dict[str, float]:
        """Figures by which samples are judged."""

    @abc.abstractmethod
    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Figures by file name, of samples by model name beside real data."""

    def trajectory_figure(self, trajectory: Trajectory) -> Figure | None:
        """The paths of generation, where they can be drawn."""
        del trajectory
        return None

    def finish(self, samples: Float[Array, "num dim"]) -> Samples:
        """Brings samples into the range that the data have by definition."""
        return np.asarray(samples)


class Plane(Dataset):
    """A two-dimensional target, of which there is as much data as is asked for."""

    dim = 2

    def __init__(self, name: str):
        self._sample = data.target(name)

    def training(self, key: Key) -> Float[Array, "num 2"]:
        """A large draw: a batch hardly ever sees a point again."""
        return self._sample(key, TRAINING_POINTS)

    def quality(self, samples: Samples) -> dict[str, float]:
        """The energy distance from fresh data, beside that of data from data."""
        first, second = (self._fresh(seed, len(samples)) for seed in (1, 2))
        return {
            "energy_distance": float(metrics.energy_distance(samples, first)),
            "energy_distance_of_data": float(metrics.energy_distance(second, first)),
        }

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

    def __init__(self):
        super().__init__("grid2d")

    def quality(self, samples: Samples) -> dict[str, float]:
        """Distance to the nearest mode, and the balance of the modes."""
        statistics = metrics.mode_statistics(samples, data.GRID2D_MODES, self.radius)
        return {
            "median_distance_to_mode": float(statistics.median_distance),
            f"within_{self.radius:g}_of_a_mode": float(statistics.within_radius),
            "mode_total_variation": float(statistics.total_variation),
        }

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Those of any target, and a zoom on one mode."""
        real = self._fresh(1, max(map(len, samples.values())))
        zoom = plots.zoom_figure(
            {"data": real, **samples}, (1.0, 0.0), 1.5 * self.radius, self.radius
        )
        return {**super().figures(samples), "zoom.png": zoom}


class DigitImages(Dataset):
    """The real handwritten digits."""

    dim = data.DIGITS_SIDE**2

    def __init__(self):
        self._digits = data.load_digits()

    def training(self, key: Key) -> Float[Array, "num 64"]:
        """The training digits, whatever the key."""
        del key
        return jnp.asarray(self._digits.train)

    def finish(self, samples: Float[Array, "num dim"]) -> Samples:
        """Clips to the range of a pixel."""
        return np.clip(samples, -1, 1)

    def quality(self, samples: Samples) -> dict[str, float]:
        """Classes and confidence, likeness to held-out digits, distance from training digits."""
        train, labels, held_out, _ = self._digits
        judge = metrics.ClassJudge(train, labels)
        statistics = judge.statistics(samples)
        return {
            "class_total_variation": statistics.total_variation,
            "confidence": statistics.confidence,
            "confidence_of_held_out": judge.statistics(held_out).confidence,
            "two_sample_accuracy": self._two_sample_accuracy(samples),
            "memorisation_ratio": float(metrics.memorisation_ratio(samples, train, held_out)),
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
