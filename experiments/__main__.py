"""The commands, a line each; `python -m experiments NAME ...` runs one.

python -m experiments
python -m experiments train digits
"""

import importlib
from collections.abc import Sequence

from experiments.command import check_choice, run, start

COMMANDS = {
    "train": "train a model on a data set, generate, and judge the samples",
    "distill": "train students that draw in a few steps from a run",
    "generate": "draw samples from a run or from a velocity's file",
    "evaluate": "judge samples from anywhere beside real data",
    "compare": "train and judge Kac, diffusion and flow matching alike",
    "compare.redraw": "make tables and curves of a comparison again",
    "gallery": "set finished runs side by side",
    "features": "train a classifier of images, which judges samples",
    "explosion": "measure velocities and their gradients toward the data",
    "process": "draw the Kac process: its paths, law and velocity",
}


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        return run(_list)
    name, *rest = argv
    if status := run(lambda: check_choice("the command", name, COMMANDS)):
        return status
    module = name + ".__main__" * (name == "compare")
    return importlib.import_module(f"experiments.{module}").main(rest)


def _list() -> None:
    width = max(map(len, COMMANDS))
    print("usage: python -m experiments COMMAND [flags], each with --help\n")
    print("\n".join(f"  {name:<{width}}  {about}" for name, about in COMMANDS.items()))


if __name__ == "__main__":
    start(main)
