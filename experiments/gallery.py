"""Sets finished runs on one data set side by side: figures and a table.

python -m experiments.gallery --runs runs/moons-kac runs/moons-diffusion
python -m experiments.gallery --runs runs/digits-kac --out runs/digits
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from experiments import report, runs
from experiments.command import UserError, command, start, user_errors
from experiments.datasets import make_dataset
from experiments.datasets.arrays import read_npy
from experiments.runs import PlaceConfig
from kacjax.plots import LABELS


@dataclasses.dataclass(frozen=True)
class GalleryConfig:
    """Finished runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of runs on one data set."""
    place: PlaceConfig = dataclasses.field(default_factory=PlaceConfig)
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/gallery")
    """Folder of the figures."""


def show(config: GalleryConfig) -> None:
    """Writes figures and a table in Markdown."""
    if not config.runs:
        raise UserError("--runs must name at least one run.")
    configs = [runs.load_config(folder) for folder in config.runs]
    models = [each.model.path for each in configs]
    if len({each.data for each in configs}) != 1 or len(set(models)) != len(models):
        found = ", ".join(f"{each.data} {each.model.path}" for each in configs)
        raise UserError(f"--runs must be of one data set and of different models, got {found}.")
    samples, columns = {}, {}
    for folder, model in zip(config.runs, models, strict=True):
        samples[model], columns[LABELS[model]] = _load(folder)
    places = {each.source: config.place.of(each) for each in configs}
    datasets = {source: make_dataset(place) for source, place in places.items()}
    for folder, each in zip(config.runs, configs, strict=True):
        runs.check_data(folder, datasets[each.source].fingerprint)
    damages = (ValueError, TypeError, IndexError)
    with user_errors(*damages, saying="the samples of these runs cannot be drawn: "):
        figures = datasets[configs[0].source].figures(samples)
    for name, figure in figures.items():
        runs.write(config.out / name, figure)
        print(config.out / name)
    table = report.columns(columns)
    runs.write(config.out / "table.md", table)
    print(config.out / "table.md", table, sep="\n\n", end="")


def _load(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Samples and figures of a run."""
    metrics = runs.read_json(folder / runs.METRICS)
    damages = (KeyError, TypeError, ValueError)
    with user_errors(*damages, saying=f"{folder / runs.METRICS} is damaged: "):
        rows = {"nfe": metrics["nfe"], "loss": metrics["loss"], **metrics["quality"]}
        rows = {str(name): float(value) for name, value in rows.items()}
    return read_npy(folder / runs.SAMPLES), rows


main = command(GalleryConfig, show, "gallery", __doc__)

if __name__ == "__main__":
    start(main)
