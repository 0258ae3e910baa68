"""What a comparison writes: a log on the way, its tables after every seed, its figures at the end.

`results.json` has everything that the tables and curves are made of, seed by seed, and the
surroundings in which the last line of it was computed.
"""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import runs
from experiments.command import user_errors
from experiments.compare import cells, figures, table
from experiments.compare.cells import Cell
from experiments.compare.config import CompareConfig
from experiments.datasets import Dataset
from experiments.report import files, surroundings

RESULTS, LOG, CSV, MARKDOWN = "results.json", "log.txt", "table.csv", "table.md"
# More panels of samples than these would not be read on one page.
_MOST_PANELS = 6


class Log:
    """Prints lines with the time of day, and keeps them in the folder."""

    def __init__(self, folder: Path):
        self._file = folder / LOG

    def __call__(self, line: str) -> None:
        """Says one line.

        Raises:
            UserError: If it cannot be written.
        """
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        print(stamped, flush=True)
        with user_errors(OSError, saying=f"cannot write {self._file}: "):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(stamped + "\n")


def write_tables(config: CompareConfig, dataset: Dataset) -> str:
    """Writes the tables of all seeds that are complete, and returns the one for the terminal."""
    judged = _judgements(config)
    entries, reference = (
        table.make_entries(judged),
        dataset.reference(config.evaluation.num_samples),
    )
    seeds = len({judgement["seed"] for judgement in judged})
    shown = table.best_samplers(table.final(entries), dataset.headlines[0])
    folder = config.folder()
    runs.write_text(folder / CSV, table.to_csv(entries))
    said = _caption(config, seeds)
    markdown = table.to_markdown(shown, dataset.headlines, figures.label, reference)
    runs.write_text(folder / MARKDOWN, f"{said}\n\n{markdown}")
    runs.write_text(folder / RESULTS, _to_json(config, judged, reference))
    return table.to_terminal(said, shown, dataset.headlines, figures.label, reference)


def write_all(config: CompareConfig, dataset: Dataset) -> Iterator[str]:
    """Writes tables and figures; yields what to print."""
    yield ""
    yield write_tables(config, dataset)
    for name, figure in _figures(config, dataset).items():
        runs.write_figure(config.folder() / name, figure)
    yield files(config.folder())


def _caption(config: CompareConfig, seeds: int) -> str:
    spread = (
        f"mean ± half-width of {table.CONFIDENCE:.0%} t-interval" if seeds > 1 else "no interval"
    )
    plural = "s" * (seeds > 1)
    return f"{config.data}, {config.training.steps:,} steps, {seeds} seed{plural}: {spread}"


def _judgements(config: CompareConfig) -> list[dict[str, Any]]:
    """Of every seed whose cells are all judged, in the order of the models."""
    complete: dict[int, list[Cell]] = {}
    for cell in cells.make_cells(config):
        complete.setdefault(cell.seed, []).append(cell)
    return [
        cells.load_judgement(cell, step, config)
        for own in complete.values()
        if all(cells.is_judged(cell, step, config) for cell in own for step in config.steps())
        for cell in own
        for step in config.steps()
    ]


def _figures(config: CompareConfig, dataset: Dataset) -> dict[str, Figure]:
    judged = _judgements(config)
    entries = table.make_entries(judged)
    headlines, nfe = dataset.headlines, config.evaluation.shown
    reference = dataset.reference(config.evaluation.num_samples)
    best = table.best_samplers(table.final(entries), headlines[0])
    first = config.evaluation.samplers()[0]
    shown = [entry for entry in entries if entry.sampler == first._replace(nfe=nfe)]
    return {
        "quality.png": figures.quality_figure(best, headlines, reference),
        "training.png": figures.training_figure(shown, headlines, first._replace(nfe=nfe)),
        "time.png": figures.time_figure(best, headlines[0]),
        "field.png": figures.field_figure(_fields(judged)),
        **dataset.figures(_samples(config)),
    }


def _fields(judged: list[dict[str, Any]]) -> dict[str, list[dict[str, list[float]]]]:
    """What was measured of the fully trained networks, by model."""
    last = max(judgement["step"] for judgement in judged)
    fields: dict[str, list[dict[str, list[float]]]] = {}
    for judgement in judged:
        if judgement["step"] == last:
            fields.setdefault(judgement["model"], []).append(judgement["field"])
    return fields


def _samples(config: CompareConfig) -> dict[str, Any]:
    """Samples of the first models, of the first seed, by model."""
    seed, step = config.all_seeds()[0], config.steps()[-1]
    own = [cell for cell in cells.make_cells(config) if cell.seed == seed][:_MOST_PANELS]
    return {cell.model: cells.load_samples(cell, step, config) for cell in own}


def _to_json(
    config: CompareConfig, judged: list[dict[str, Any]], reference: Mapping[str, float]
) -> str:
    """Readable where it is short, one line for each judgement."""
    head = {**config.to_dict(), "real data": reference, **surroundings()}
    brief = [{k: v for k, v in each.items() if k not in ("evaluation",)} for each in judged]
    lines = ",\n".join("    " + json.dumps(_rounded(each)) for each in brief)
    return json.dumps(head, indent=2)[:-2] + f',\n  "judgements": [\n{lines}\n  ]\n}}\n'


def _rounded(value: Any) -> Any:
    """Floats to seven digits, all that float32 has."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
