"""Tables and curves of a comparison again, from its results file alone: no network, no data.

python -m experiments.compare.redraw benchmarks/results/compare-grid2d.json --out again
python -m experiments.compare.redraw results.json --out again --against diffusion
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from experiments import runs
from experiments.command import check_choice, command, optional, start, user_errors
from experiments.compare import report
from experiments.datasets import headlines_of
from experiments.report import files


@dataclasses.dataclass(frozen=True)
class RedrawConfig:
    """A results file and where to."""

    results: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """The `results.json` of a comparison."""
    out: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder for tables and figures."""
    against: Annotated[str | None, optional("MODEL", "as it was")] = None
    """Model to which the others are compared seed by seed."""


def redraw(config: RedrawConfig) -> None:
    """Writes the tables and curves, and prints the tables."""
    results, against = runs.read_json(config.results), config.against
    # Its values may be anything.
    saying = f"{config.results} is not a results file of a comparison: "
    with user_errors(Exception, saying=saying):
        rows = [row for judgement in results["judgements"] for row in judgement["rows"]]
        known = set(results["real data"]).union(*(row["quality"] or () for row in rows))
        models = dict.fromkeys(judgement["model"] for judgement in results["judgements"])
        results["against"] = against if against in models else results["against"]
        # Older files know fewer figures.
        headlines = headlines_of(results["data"], known)
        written, terminal = report.render(results, headlines)
    if against is not None:
        check_choice("--against", against, models)
    with user_errors(ValueError, ArithmeticError, LookupError, TypeError, saying=saying):
        report.write(config.out, written)
    print(terminal, files(config.out), sep="\n")


main = command(RedrawConfig, redraw, "compare.redraw", __doc__)

if __name__ == "__main__":
    start(main)
