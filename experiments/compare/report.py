"""What a comparison writes: a log on the way, its tables after every seed, its figures at the end.

`results.json` has everything that the tables and curves are made of, seed by seed, and the
surroundings in which the last line of it was computed: `experiments.compare.redraw` makes them again
from it alone.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from experiments import runs
from experiments.command import user_errors
from experiments.compare import cells, figures, paired, table
from experiments.compare.cells import Cell
from experiments.compare.config import CompareConfig, EvaluationConfig
from experiments.datasets import Dataset, Headline
from experiments.report import files, surroundings

RESULTS, LOG = "results.json", "log.txt"
CSV, PAIRED, MARKDOWN = "table.csv", "paired.csv", "table.md"
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


def write_after_seed(config: CompareConfig, dataset: Dataset) -> None:
    """Writes the results and tables of all seeds that are complete."""
    write_tables(config.folder(), _results(config, dataset), dataset.headlines)


def write_all(config: CompareConfig, dataset: Dataset) -> Iterator[str]:
    """Writes results, tables and figures; yields what to print."""
    results, folder = _results(config, dataset), config.folder()
    yield ""
    yield from write_tables(folder, results, dataset.headlines)
    curves = make_figures(results, dataset.headlines)
    for name, figure in {**curves, **dataset.figures(_samples(config))}.items():
        runs.write_figure(folder / name, figure)
    yield files(folder)


def write_tables(
    folder: Path, results: Mapping[str, Any], headlines: Sequence[Headline]
) -> list[str]:
    """Writes results and tables, and returns the tables for the terminal.

    Args:
        folder: Where to.
        results: What `results.json` holds.
        headlines: The figures in the tables for people; those for programs hold all.
    """
    entries = table.make_entries(results["judgements"])
    shown = table.best_samplers(table.final(entries), headlines[0])
    reference, title = results["real data"], _caption(results)
    models = list(dict.fromkeys(entry.model for entry in entries))
    baseline = results.get("against") or paired.default_baseline(models)
    pairs = paired.make_rows(shown, headlines, baseline)
    markdown = [
        title,
        table.to_markdown(shown, headlines, figures.label, reference).rstrip(),
    ]
    terminal = [table.to_terminal(title, shown, headlines, figures.label, reference)]
    if pairs:
        markdown.append(paired.to_markdown(pairs, headlines, figures.label, baseline).rstrip())
        terminal += ["", paired.to_terminal(pairs, headlines[0], figures.label, baseline), ""]
    runs.write_text(folder / CSV, table.to_csv(entries))
    runs.write_text(folder / PAIRED, paired.to_csv(pairs))
    runs.write_text(folder / MARKDOWN, "\n\n".join(markdown) + "\n")
    runs.write_text(folder / RESULTS, _to_json(results))
    return terminal


def make_figures(results: Mapping[str, Any], headlines: Sequence[Headline]) -> dict[str, Figure]:
    """The curves, by file name.

    Args:
        results: What `results.json` holds.
        headlines: The figures of quality to draw.
    """
    entries = table.make_entries(results["judgements"])
    evaluation = EvaluationConfig.from_dict(results["evaluation"])
    best = table.best_samplers(table.final(entries), headlines[0])
    sampler = evaluation.samplers()[0]._replace(nfe=evaluation.shown)
    shown = [entry for entry in entries if entry.sampler == sampler]
    return {
        "quality.png": figures.quality_figure(best, headlines, results["real data"]),
        "training.png": figures.training_figure(shown, headlines, sampler),
        "time.png": figures.time_figure(best, headlines[0]),
        "field.png": figures.field_figure(_fields(results["judgements"])),
    }


def _caption(results: Mapping[str, Any]) -> str:
    seeds = len({judgement["seed"] for judgement in results["judgements"]})
    spread = (
        f"mean ± half-width of {table.CONFIDENCE:.0%} t-interval" if seeds > 1 else "no interval"
    )
    plural, steps = "s" * (seeds > 1), results["training"]["steps"]
    # Before there was a choice, it was time.
    in_time = results["evaluation"].get("coordinates", "time") == "time"
    said = f"{results['data']}, {steps:,} steps, {seeds} seed{plural}: {spread}"
    return said + "\nsolved in time" * in_time


def _results(config: CompareConfig, dataset: Dataset) -> dict[str, Any]:
    """What `results.json` is to hold."""
    return {
        **config.to_dict(),
        "real data": dataset.reference(config.evaluation.num_samples),
        **surroundings(),
        "judgements": _judgements(config),
    }


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


def _to_json(results: Mapping[str, Any]) -> str:
    """Readable where it is short, one line for each judgement."""
    head = {name: value for name, value in results.items() if name != "judgements"}
    # How a judgement was made stands once, in the head.
    brief = [{k: v for k, v in each.items() if k != "evaluation"} for each in results["judgements"]]
    lines = ",\n".join("    " + json.dumps(_rounded(each)) for each in brief)
    return json.dumps(head, indent=2)[:-2] + f',\n  "judgements": [\n{lines}\n  ]\n}}\n'


def _rounded(value: Any) -> Any:
    """Floats to seven digits, all that float32 has."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value
