"""Compares Kac, diffusion and flow matching on one data set, on equal terms.

python -m experiments.compare grid2d --quick
python -m experiments.compare grid2d --a 9 25 --c 3 5 --solver euler heun --grid-power 2 3 --out runs/ac
"""

import sys
from collections.abc import Sequence

import tyro

from experiments.command import MARKERS, parse, run, user_errors
from experiments.compare import cells, report
from experiments.compare.config import CompareConfig, EvaluationConfig, ImageCompareConfig
from experiments.compare.subjects import make_subject
from experiments.compare.work import complete
from experiments.config import TrainConfig
from experiments.defaults import DEFAULTS
from experiments.images.config import KnownSetConfig


def defaults() -> dict[str, tuple[str, CompareConfig]]:
    """A line about each data set, and its comparison unless flags say otherwise."""
    known: dict[str, tuple[str, CompareConfig]] = {}
    for name, (about, config) in DEFAULTS.items():
        if isinstance(config, TrainConfig):
            whole = CompareConfig(name, network=config.network, training=config.training)
        elif isinstance(config.source, KnownSetConfig):
            whole = ImageCompareConfig(
                name,
                network=config.network,
                training=config.training,
                evaluation=EvaluationConfig(num_samples=2000, chunk_size=500),
                source=config.source,
            )
        else:
            continue
        known[name] = about, whole
    return known


def compare(config: CompareConfig) -> None:
    """Completes a comparison and writes its table and figures.

    Raises:
        UserError: If a flag does not make sense, a folder cannot be used, a file in it is damaged,
            or a loss stops being finite. What is finished stays.
    """
    with user_errors(ValueError):
        config.check()
    subject = make_subject(config)
    say = report.Log(config.folder())
    others = cells.strangers(config)
    if others:
        say(f"note: {len(others)} cells of other configurations lie here and are not used.")

    def after_seed(line: str) -> None:
        say(line)
        report.write_after_seed(config, subject.dataset)

    complete(config, subject, say, after_seed)
    for line in report.write_all(config, subject.dataset):
        print(line)


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""

    def body() -> None:
        known = defaults()
        config = parse(
            lambda: tyro.extras.overridable_config_cli(
                known,
                args=argv,
                prog="python -m experiments.compare",
                description="Compares Kac, diffusion and flow matching on equal terms.",
                config=MARKERS,
            )
        )
        compare(config.quickened(known[config.data][1]))

    return run(body, "interrupted: what is finished stays, and the same command continues.")


if __name__ == "__main__":
    sys.exit(main())
