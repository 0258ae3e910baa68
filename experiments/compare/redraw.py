"""Tables and curves of a comparison again, from its results file alone: no network, no data.

python -m experiments.compare.redraw benchmarks/results/compare-grid2d.json --out runs/grid2d-figures
python -m experiments.compare.redraw results.json --out figures --against diffusion
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import runs
from experiments.command import UserError, parse_flags, run, user_errors
from experiments.compare import report
from experiments.compare.subjects import headlines_of
from experiments.config import read_json
from experiments.report import files


@dataclasses.dataclass(frozen=True)
class RedrawConfig:
    """A results file and where to."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The `results.json` of a comparison."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for tables and figures."""
    against: Annotated[
        str | None, tyro.conf.arg(metavar="MODEL", help_behavior_hint="(default: as it was)")
    ] = None
    """Model to which the others are compared seed by seed."""


def redraw(config: RedrawConfig) -> list[str]:
    """Writes the tables and curves, and returns what to print.

    Raises:
        UserError: If the file is missing or not one of a comparison, the model is not in it, or the
            folder cannot be written.
    """
    with user_errors(OSError, saying="cannot read the results: "):
        text = config.results.read_text()
    damages = (ValueError, KeyError, TypeError, AttributeError, IndexError)
    with user_errors(*damages, saying=f"{config.results} is not a results file of a comparison: "):
        results: dict[str, Any] = read_json(text)
        models = {judgement["model"]: None for judgement in results["judgements"]}
        found = [set(row["quality"] or ()) for j in results["judgements"] for row in j["rows"]]
        known = set.union(*found) | results["real data"].keys()
        # Older files know fewer figures.
        headlines = [each for each in headlines_of(results["data"]) if each.key in known]
        results["against"] = config.against or results.get("against")
        figures = report.make_figures(results, headlines)
    if config.against is not None and config.against not in models:
        raise UserError(f"--against must be one of {', '.join(models)}, got {config.against}.")
    lines = report.write_tables(config.out, results, headlines)
    for name, figure in figures.items():
        runs.write_figure(config.out / name, figure)
    return [*lines, files(config.out)]


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        about = "Tables and curves of a comparison again, from its results file alone."
        config = parse_flags(RedrawConfig, argv, "python -m experiments.compare.redraw", about)
        print("\n".join(redraw(config)))

    return run(body, "interrupted.")


if __name__ == "__main__":
    sys.exit(main())
