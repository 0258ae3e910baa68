"""The data sets: training data, a judge of samples, and figures, all behind one interface."""

from experiments.config import IMAGES, ArraysConfig, RunConfig
from experiments.datasets.base import Dataset, Headline, Samples, finish
from experiments.datasets.pictures import ClassifierJudge, Pictures, PixelJudge
from experiments.datasets.vectors import Arrays, Digits, Grid2d, Plane

__all__ = ["Dataset", "Headline", "Samples", "finish", "headlines_of", "make_dataset"]


def make_dataset(config: RunConfig, first: bool = True) -> Dataset:
    """The data set of a run; the `first` process shows progress."""
    if config.data in IMAGES:
        return Pictures(config, first)
    if isinstance(config.source, ArraysConfig):
        return Arrays(config.source)
    return make_known(config.data)


def make_known(name: str) -> Dataset:
    """A data set that comes with the library."""
    if name == "digits":
        return Digits()
    return Grid2d(name) if name == "grid2d" else Plane(name)


def headlines_of(name: str, figures: set[str]) -> tuple[Headline, ...]:
    """Those of a data set's headlines whose figures are there; no file is read."""
    known = {"digits": (Digits,), "grid2d": (Grid2d,), "arrays": (Arrays,)}.get(name, (Plane,))
    kinds = (ClassifierJudge, PixelJudge) if name in IMAGES else known
    return tuple(line for kind in kinds for line in kind.headlines if line.key in figures)
