"""Compares Kac, diffusion and flow matching on one data set, on equal terms.

python -m experiments.compare grid2d --quick
python -m experiments.compare digits --a 9 25 --solver euler heun --out runs/a
"""

import dataclasses
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments import runs
from experiments.command import STOPPED, UserError, parse, run, start, user_errors
from experiments.compare import report
from experiments.compare.config import Cell, CompareConfig, defaults
from experiments.compare.table import label
from experiments.compare.work import Stopped, Work
from experiments.config import to_dict
from experiments.datasets import make_dataset
from experiments.hosts import StopSignals
from experiments.report import files
from experiments.sampling import check_samples
from experiments.session import Session

LOG = "log.txt"
# More panels of samples than these would not be read on one page.
_MOST_PANELS = 6


def compare(config: CompareConfig) -> int:
    """Completes a comparison and writes its tables and figures; 75 if a signal stopped it."""
    config.check()
    _, first = config.runs()[0]
    dataset, folder = make_dataset(first), config.folder()
    # Whether the network fits, the samples and their judge: before anything is written.
    Session(first, dataset, folder)
    check_samples(config.evaluation.num_samples, dataset.event)
    headlines = dataset.headlines

    def say(line: str) -> None:
        stamped = f"{time.strftime('%H:%M:%S')} {line}"
        print(stamped, flush=True)
        with user_errors(OSError, saying=f"cannot write {folder / LOG}: "):
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / LOG).open("a") as file:
                file.write(stamped + "\n")

    terminal = ""
    with StopSignals() as stop:
        work = Work(config, dataset, say, stop)
        check_results(folder / report.RESULTS, config, work.cells)
        found = set(work.cells[0].folder.parent.glob("*-seed*-*"))
        others = found - {cell.folder for cell in work.cells}
        # In a folder that is shared, they are as it should be.
        if others and config.cells is None:
            say(f"note: {len(others)} cells of other configurations lie here and are not used.")
        try:
            for seed in work.complete():
                say(f"seed {seed} is complete")
                names = [cell.folder.name for cell in work.cells if cell.is_finished]
                results = {"cells": names, **report.results_of(config, work.cells, dataset)}
                written, terminal = report.render(results, headlines)
                report.write(folder, written)
        except Stopped:
            say("stopped; the same command goes on.")
            return STOPPED
    seed = first.training.seed
    first_cells = {cell.model: cell for cell in work.cells if cell.seed == seed}
    own = [first_cells[name] for name in shown_models(config, first_cells)[:_MOST_PANELS]]
    samples = {label(cell.model): report.load(cell, cell.steps[-1], samples=True) for cell in own}
    report.write(folder, dataset.figures(samples))
    print("", terminal, files(folder), sep="\n")
    return 0


def check_results(file: Path, config: CompareConfig, cells: list[Cell]) -> None:
    """Refuses to replace results of which these would not hold every line."""
    if config.overwrite or not file.exists():
        return
    before, run = runs.read_json(file), to_dict(cells[0].run)
    models = {cell.model: dataclasses.asdict(cell.run.model) for cell in cells}
    said = {"saying": f"{file} is damaged: ", "ending": "; --overwrite replaces it."}
    with user_errors(KeyError, TypeError, AttributeError, **said):
        lines = {(each["model"], each["seed"], each["step"]) for each in before["judgements"]}
        same = lines <= {(each.model, each.seed, step) for each in cells for step in each.steps}
        same &= before["evaluation"] == config.judgement()
        if "cells" in before:
            same &= set(before["cells"]) <= {cell.folder.name for cell in cells}
        else:  # Earlier versions did not say of which cells they are.
            same &= before["models"].items() <= models.items()
            same &= all(before[name] == run[name] for name in ("network", "training"))
    if not same:
        saying = "choose another --out, or replace its tables with --overwrite."
        raise UserError(f"{file} is of another comparison: {saying}")


def shown_models(config: CompareConfig, models: Iterable[str]) -> list[str]:
    """Models in the order of what is to be seen: Kac beside its control, students and maps last."""
    pairs = [name for model, control in config.controls().items() for name in (control, model)]
    made = ("-student", "-lsd", "-meanflow")
    return sorted(dict.fromkeys((*pairs, *models)), key=lambda name: any(m in name for m in made))


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    interrupted = "interrupted: what is finished stays, and the same command goes on."
    known = defaults("--quick" in argv)
    return run(lambda: compare(parse(known, argv, "compare", __doc__)), interrupted)


if __name__ == "__main__":
    start(main)
