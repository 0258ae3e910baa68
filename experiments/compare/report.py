"""What a comparison writes: tables and curves, after every seed.

`results.json` has everything that they are made of, seed by seed, and the surroundings in which the
last line of it was computed: `experiments.compare.redraw` makes them again from it alone.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from experiments import runs
from experiments.command import UserError, user_errors
from experiments.compare import table
from experiments.compare.config import Cell, CompareConfig, shown_sampler
from experiments.compare.figures import BY_NFE, BY_TIME, COST, Curve, curves_figure, field_figure
from experiments.config import to_dict
from experiments.datasets import Dataset
from experiments.datasets.arrays import read_npy
from experiments.report import CONFIDENCE, surroundings

Files = dict[str, str | Figure]
CSV, PAIRED, MARKDOWN, RESULTS = "table.csv", "paired.csv", "table.md", "results.json"


def results_of(config: CompareConfig, cells: list[Cell], dataset: Dataset) -> dict[str, Any]:
    """What `results.json` is to hold: the models of those seeds of which all are judged."""
    run = to_dict(cells[0].run)
    unfinished = {cell.seed for cell in cells if not cell.is_finished}
    done = [cell for cell in cells if cell.seed not in unfinished]
    return {
        **{name: run[name] for name in ("data", "source", "network", "training")},
        "models": {cell.model: dataclasses.asdict(cell.run.model) for cell in cells},
        "students": {
            cell.model: {"training_steps": cell.run.training.steps}
            | {k: v for k, v in vars(cell.run.student).items() if k != "teacher"}
            for cell in cells
            if cell.run.student is not None
        },
        "evaluation": config.judgement(),
        "seeds": list(dict.fromkeys(cell.seed for cell in cells)),
        "steps": config.steps(),
        "against": config.against,
        "controls": config.controls(),
        "real data": dataset.reference(config.evaluation.num_samples),
        **surroundings(),
        "judgements": [load(cell, step) for cell in done for step in cell.steps],
    }


def load(cell: Cell, step: int, samples: bool = False) -> Any:
    """What was found after so many steps, with the cell's name; or the samples."""
    hint = f"delete {cell.judgement(step)} to compute it again: "
    with user_errors(UserError, KeyError, TypeError, saying=hint):
        if samples:
            return read_npy(cell.samples(step))
        found = runs.read_json(cell.judgement(step))
        head = {"model": cell.model, "seed": cell.seed, "step": step}
        return head | {name: found[name] for name in ("rows", "field")}


@np.errstate(all="ignore")
def render(results: Mapping[str, Any], headlines: table.Headlines) -> tuple[Files, str]:
    """What to write of results, by file name, and what to print; with these figures for people."""
    judgements, reference = results["judgements"], results["real data"]
    entries, title = table.make_entries(judgements), _caption(results)
    shown, sampler = table.best_entries(entries, headlines[0]), shown_sampler(results["evaluation"])
    models = list(dict.fromkeys(entry.model for entry in entries))
    against = results["against"]
    controls = {} if against else results["controls"]
    usual = [*controls.values(), *(n for n in ("flow-matching", "diffusion") if n in models)]
    baseline = against or next(iter(usual), models[-1])
    pairs = table.make_pairs(shown, headlines, baseline, controls)
    lines = table.make_lines(shown, headlines, reference)
    markdown = f"{title}\n\n" + table.to_markdown(lines)
    terminal = table.to_terminal(title, lines)
    if pairs:
        markdown += "\n" + table.pairs_to_markdown(pairs, headlines)
        terminal += f"\n\n{table.pairs_to_terminal(pairs, headlines[0])}\n"
    last = table.last_steps(entries)
    final = [each for each in judgements if each["step"] == last[each["model"]]]
    fields = {m: [each["field"] for each in final if each["model"] == m] for m in models}
    on_the_way = [entry for entry in entries if entry.sampler == sampler]
    name = f"optimizer steps ({sampler.name}, NFE {sampler.nfe})"
    by_step = name, *[lambda line: line.step] * 2
    quality, learning = ([Curve(h, *axis) for h in headlines] for axis in (BY_NFE, by_step))
    return {
        CSV: table.to_csv(entries),
        PAIRED: table.pairs_to_csv(pairs),
        MARKDOWN: markdown,
        RESULTS: _to_json(results),
        "quality.png": curves_figure(shown, quality, reference),
        "training.png": curves_figure(on_the_way, learning),
        "time.png": curves_figure(shown, [COST, Curve(headlines[0], *BY_TIME)]),
        "field.png": field_figure(fields),
    }, terminal


def write(folder: Path, files: Files) -> None:
    """Writes texts and PNGs by their names."""
    for name, content in files.items():
        runs.write(folder / name, content)


def _caption(results: Mapping[str, Any]) -> str:
    seeds = len({judgement["seed"] for judgement in results["judgements"]})
    spread = f"s: mean ± half-width of {CONFIDENCE:.0%} t-interval"
    said = f"{results['data']}, {results['training']['steps']:,} steps, {seeds} seed"
    in_time = results["evaluation"]["coordinates"] == "time"
    return said + (spread if seeds > 1 else ": no interval") + "\nsolved in time" * in_time


def _to_json(results: Mapping[str, Any]) -> str:
    """Readable where it is short, one line for each judgement, in the digits that float32 has."""
    head = json.dumps({**results, "judgements": []}, indent=2).removesuffix("[]\n}")
    rounded = (
        json.loads(json.dumps(each), parse_float=lambda text: float(f"{float(text):.7g}"))
        for each in results["judgements"]
    )
    return head + "[\n    " + ",\n    ".join(map(json.dumps, rounded)) + "\n  ]\n}\n"
