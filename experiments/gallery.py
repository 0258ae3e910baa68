"""Sets finished runs on one data set side by side: figures and a table.

python -m experiments.gallery --runs runs/grid2d-kac runs/grid2d-diffusion --out runs/gallery
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from matplotlib.figure import Figure

from experiments import report, runs
from experiments.command import UserError, parse_flags, run, user_errors
from experiments.config import read_json
from experiments.datasets import make_dataset
from experiments.images.config import NAMES
from kacjax.plots import LABELS, images_figure


@dataclasses.dataclass(frozen=True)
class GalleryConfig:
    """Finished runs side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="DIR [DIR ...]")]
    """Folders of runs on one data set."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs/gallery")
    """Folder of the figures."""


def show(config: GalleryConfig) -> None:
    """Writes figures and a table in Markdown.

    Raises:
        UserError: If a run is missing or damaged, the runs do not belong together, or the folder
            cannot be written.
    """
    configs = [runs.load_config(folder) for folder in config.runs]
    models = [each.model.path for each in configs]
    names = {each.data for each in configs}
    if len(names) != 1 or len(set(models)) != len(models):
        found = ", ".join(f"{each.data} {each.model.path}" for each in configs)
        raise UserError(f"--runs must be of one data set and of different models, got {found}.")
    samples, columns = {}, {}
    for folder, model in zip(config.runs, models, strict=True):
        samples[model], columns[LABELS[model]] = _load(folder)
    for name, figure in _figures(names.pop(), samples).items():
        runs.write_figure(config.out / name, figure)
        print(config.out / name)
    table = report.markdown(columns)
    runs.write_text(config.out / "table.md", table)
    print(config.out / "table.md", table, sep="\n\n", end="")


def _figures(name: str, samples: dict[str, np.ndarray]) -> dict[str, Figure]:
    """Figures by file name."""
    if name in NAMES:
        return {"samples.png": images_figure(samples)}
    return make_dataset(name).figures(samples)


def _load(folder: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Samples and figures of a run."""
    damages = (OSError, ValueError, KeyError, TypeError)
    with user_errors(*damages, saying=f"{folder} is damaged: "):
        metrics = read_json((folder / runs.METRICS).read_text())
        rows = {"nfe": metrics["nfe"], "loss": metrics["loss"], **metrics["quality"]}
        return np.load(folder / runs.SAMPLES), rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        show(
            parse_flags(
                GalleryConfig,
                argv,
                "python -m experiments.gallery",
                "Sets finished runs on one data set side by side: figures and a table.",
            )
        )

    return run(body)


if __name__ == "__main__":
    sys.exit(main())
