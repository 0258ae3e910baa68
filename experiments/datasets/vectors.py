"""Targets in the plane, the digits of scikit-learn, and arrays of the user's own."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray as Key
from matplotlib.figure import Figure

from experiments.command import UserError
from experiments.config import ArraysConfig
from experiments.datasets.arrays import read_arrays
from experiments.datasets.base import Dataset, Headline, Samples, Trajectory, draw
from experiments.judging.judge import ClassJudge
from experiments.report import fingerprint
from kacjax import data, metrics, plots

TRAINING_POINTS = 200_000
# Beyond as many data, distances to all of them take too long.
_MOST = 5000
# Components whose histograms are drawn.
_PANELS = 12


class Plane(Dataset):
    """A two-dimensional target, of which there is as much data as is asked for."""

    event = (2,)
    num = TRAINING_POINTS
    headlines = (
        Headline("energy_distance", "energy distance"),
        Headline("sliced_wasserstein", "sliced Wasserstein"),
    )

    def __init__(self, name: str):
        self.name = name
        self._sample = data.target(name)
        # Energy distance of data from data, by their number.
        self._floor: dict[int, float] = {}

    def training(self, key: Key) -> tuple[Any, None]:
        """A large draw: a batch hardly ever sees a point again."""
        return self._sample(key, TRAINING_POINTS), None

    def quality(self, samples: Samples) -> dict[str, float]:
        """Distances from fresh data, and the energy distance of data from data for scale."""
        num = len(samples)
        first = draw(self._sample, 1, num)
        if num not in self._floor:
            other = draw(self._sample, 2, num)
            self._floor[num] = float(metrics.energy_distance(other, first))
        return {
            "energy_distance": float(metrics.energy_distance(samples, first)),
            "energy_distance_of_data": self._floor[num],
            "sliced_wasserstein": _sliced(samples, first),
        }

    def reference(self, num: int) -> dict[str, float]:
        """The figures of a draw that is neither training data nor what samples are judged by."""
        return self.quality(draw(self._sample, 3, num))

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Scatter and density beside data."""
        real = draw(self._sample, 1, max(map(len, samples.values())))
        return {"samples.png": plots.points_figure({"data": real, **samples})}

    def trajectory_figure(self, trajectory: Trajectory) -> Figure:
        """Paths of generation over the data."""
        return plots.trajectories_figure(trajectory(150), draw(self._sample, 1, 1000))


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
        real = draw(self._sample, 1, max(map(len, samples.values())))
        sets = {"data": real, **samples}
        zoom = plots.zoom_figure(sets, (1.0, 0.0), 1.5 * self.radius, self.radius)
        return {**super().figures(samples), "zoom.png": zoom}


class Digits(Dataset):
    """The real handwritten digits."""

    name = "digits"
    event = (data.DIGITS_SIDE**2,)
    classes = tuple("0123456789")
    headlines = (
        Headline("class_total_variation", "class TV", log=False),
        Headline("confidence", "confidence", "high", log=False),
        Headline("two_sample_accuracy", "2-sample acc.", log=False),
        Headline("memorization_ratio", "memorization", "one", log=False),
    )

    def __init__(self):
        self._digits = data.load_digits()
        self.num = len(self._digits.train)

    @cached_property
    def _judge(self) -> ClassJudge:
        return ClassJudge(self._digits.train, self._digits.train_labels)

    def training(self, key: Key) -> tuple[Any, Any]:
        """The training digits, whatever the key."""
        return self._digits.train, self._digits.train_labels

    def quality(self, samples: Samples) -> dict[str, float]:
        """Classes and confidence, likeness to held-out digits, distance from training digits."""
        train, _, held_out, _ = self._digits
        statistics = self._judge.statistics(samples)
        return {
            "class_total_variation": statistics.total_variation,
            "confidence": statistics.confidence,
            "confidence_of_held_out": self._judge.statistics(held_out).confidence,
            "two_sample_accuracy": _two_sample_accuracy(samples, held_out),
            "memorization_ratio": float(metrics.memorization_ratio(samples, train, held_out)),
        }

    def reference(self, num: int) -> dict[str, float]:
        """What the classes of so many draws of the held-out digits say, and the others for equal laws."""
        held_out, equal = self._digits.held_out, {"two_sample_accuracy": 0.5}
        rows = np.random.default_rng(0).integers(len(held_out), size=num)
        found = self._judge.statistics(held_out[rows])
        classes = {"class_total_variation": found.total_variation, "confidence": found.confidence}
        return {**classes, **equal, "memorization_ratio": 1.0}

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Generated digits beside digits that no model has seen."""
        sets = {"held-out real digits": self._digits.held_out, **samples}
        return {"samples.png": plots.images_figure(sets, data.DIGITS_SIDE)}


class Arrays(Dataset):
    """Arrays from a file, standardized; a part of them is kept for the judgement."""

    name = "arrays"
    headlines = (
        Headline("energy_distance", "energy distance"),
        Headline("sliced_wasserstein", "sliced Wasserstein"),
        Headline("two_sample_accuracy", "2-sample acc.", log=False),
        Headline("memorization_ratio", "memorization", "one", log=False),
    )

    def __init__(self, config: ArraysConfig):
        found = read_arrays(config.data, config.labels)
        kept = round(config.held_out * len(found.data))
        if kept < 5 or len(found.data) - kept < 5:
            raise UserError(
                f"{config.data} must hold enough data to train on and to judge by, five of each; "
                f"got {len(found.data)}, of which --held-out {config.held_out:g} are {kept}."
            )
        self._shape, self._names, self._label = found.data.shape[1:], found.names, found.label
        rows = found.data.reshape(len(found.data), -1)
        order = np.random.default_rng(0).permutation(len(rows))
        self._all, self._held_out, chosen = rows, rows[order[:kept]], order[kept:]
        # Of numbers with a large common part, mean and deviation would be lost in float32.
        train = rows[chosen].astype(np.float64)
        mean, std = train.mean(axis=0), train.std(axis=0)
        self._mean, self._std = mean, np.where(std > 1e-12 * np.abs(mean), std, 1.0)
        self._train = self._standard(train)
        self._labels = None if found.labels is None else found.labels[chosen]
        self.classes, self.event, self.num = found.classes, rows.shape[1:], len(train)
        self.fingerprint = fingerprint(rows, found.labels, found.classes)
        known = {row.tobytes() for row in self._train[:_MOST]}
        if all(row.tobytes() in known for row in self._standard(self._held_out)[:_MOST]):
            # As in tables of few values: held-out data say nothing of memorization.
            self.headlines = self.headlines[:-1]

    def _standard(self, rows: Any) -> np.ndarray:
        rows = np.asarray(rows, np.float64).reshape(len(rows), -1)
        return ((rows - self._mean) / self._std).astype(np.float32)

    def notes(self) -> dict[str, Any]:
        """The scale too, mean and deviation of the training data, and the names of the columns."""
        scale = {"mean": self._mean.tolist(), "std": self._std.tolist()}
        columns = {"names": list(self._names), "label": self._label}
        return {**super().notes(), **scale, **columns, "shape": list(self._shape)}

    def training(self, key: Key) -> tuple[Any, Any]:
        """The training data, whatever the key."""
        return self._train, self._labels

    def quality(self, samples: Samples) -> dict[str, float]:
        """Distances from held-out data in units of the deviation, and from training data."""
        own, real = self._standard(samples)[:_MOST], self._standard(self._held_out)[:_MOST]
        figures = {**_distances(own, real), "two_sample_accuracy": _two_sample_accuracy(own, real)}
        if self.headlines[-1].key == "memorization_ratio":
            ratio = metrics.memorization_ratio(own, self._train[:_MOST], real)
            figures["memorization_ratio"] = float(ratio)
        return figures

    def reference(self, num: int) -> dict[str, float]:
        """The distances of training data from held-out data, and the others for equal laws."""
        own, real = self._train[: min(num, _MOST)], self._standard(self._held_out)[:_MOST]
        return {**_distances(own, real), "two_sample_accuracy": 0.5, "memorization_ratio": 1.0}

    def figures(self, samples: Mapping[str, Samples]) -> dict[str, Figure]:
        """Histograms of the first components, and the two principal components of all."""
        sets = {"data": self._all, **{n: x.reshape(len(x), -1) for n, x in samples.items()}}
        figures = {"marginals.png": marginals_figure(sets, self._names)}
        if self._train.shape[1] > 1:
            axes = np.linalg.svd(self._train[:_MOST], full_matrices=False)[2][:2].T
            planar = {name: self._standard(rows) @ axes for name, rows in sets.items()}
            limit = 1.3 * float(np.quantile(np.abs(planar["data"]), 0.995))
            figures["samples.png"] = plots.points_figure(planar, limit)
        return figures


@plots.styled
def marginals_figure(sets: Mapping[str, Samples], names: tuple[str, ...]) -> Figure:
    """Histograms of the first components of vectors, a panel each, outlined set by set."""
    first, *_ = sets.values()
    count = min(first.shape[1], _PANELS)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, axes = plots.panels(columns, 2.4 * columns + 0.6, 2.0 * rows + 0.6, rows=rows)
    for i, ax in enumerate(axes):
        if i >= count:
            ax.remove()
            continue
        low, high = np.quantile(first[:, i], [0.001, 0.999])
        margin = 0.2 * (high - low) or 1.0
        edges = np.linspace(low - margin, high + margin, 41)
        for name, values in sets.items():
            color, label = plots.COLORS.get(name), plots.LABELS.get(name, name)
            options = {"density": True, "histtype": "step", "color": color, "label": label}
            # The density of values that all lie elsewhere is nothing.
            with np.errstate(invalid="ignore"):
                ax.hist(values[:, i], edges, **options)
        ax.set_yticks([])
        ax.set_xlabel(names[i] if names else f"component {i}")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _sliced(one: Samples, other: Samples) -> float:
    return float(metrics.sliced_wasserstein(one, other, jax.random.key(0)))


def _distances(one: Samples, other: Samples) -> dict[str, float]:
    """Two distances of laws, the second of as many data on both sides."""
    equal = min(len(one), len(other))
    energy = float(metrics.energy_distance(one, other))
    return {"energy_distance": energy, "sliced_wasserstein": _sliced(one[:equal], other[:equal])}


def _two_sample_accuracy(samples: Samples, real: Samples) -> float:
    """The mean over as many parts of the samples as match the real data in number."""
    size = min(len(samples), len(real))
    parts = range(0, len(samples) - size + 1, size)
    found = [metrics.two_sample_accuracy(samples[i : i + size], real[:size]) for i in parts]
    return float(np.mean(found))
