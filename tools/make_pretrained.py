"""Trains the velocities of `kacjax.load_pretrained`: `python -m tools.make_pretrained [digits] [mnist]`.

For each data set a teacher with classes, and by distillation students of 4 steps and of one: some minutes on
two cores for the digits, half an hour for MNIST, whose files `$KACJAX_DATA` holds. Prints their
figures and replaces the files in `kacjax/export/pretrained`, whose numbers have 16 bits. With a folder,
`--keep DIR`, the runs stay there, and one that was stopped goes on.
"""

import argparse
import dataclasses
import pathlib
import sys
import tempfile

import jax
import jax.numpy as jnp

import kacjax
from experiments import distill, train

TARGET = pathlib.Path(__file__).parents[1] / "kacjax" / "export" / "pretrained"
# Flags of the teacher, and of its students.
RECIPES = {
    "digits": ("--conditional --width 128 --steps 11000", ""),
    "mnist": (
        "--conditional --size tiny --clock t2 --prediction x0 --time-power 2 "
        "--batch-size 16 --steps 12000 --learning-rate 2e-3 --warmup 50 --schedule cosine",
        "--teacher-steps 16 --training-steps 1500 --guidance 2",
    ),
}


def copy(run: pathlib.Path, name: str) -> None:
    """Copies a run's velocity with floats of 16 bits."""
    velocity, notes = kacjax.load_velocity(run), kacjax.export.load_notes(run)
    halve = lambda x: x.astype(jnp.float16) if x.dtype == jnp.float32 else x  # noqa: E731
    velocity = dataclasses.replace(velocity, network=jax.tree.map(halve, velocity.network))
    kacjax.save_velocity(TARGET / f"{name}.safetensors", velocity, notes)


def make(name: str, folder: pathlib.Path) -> int:
    """Trains and copies; the status of what failed."""
    run, students = folder / name, folder / f"{name}-students"
    teach, learn = (flags.split() for flags in RECIPES[name])
    status = train.main([name, *teach, "--resume", "--out", str(run)])
    flags = ["--run", str(run), "--steps", "4", "1", *learn]
    status = status or distill.main([*flags, "--resume", "--out", str(students)])
    if not status:
        copy(run, f"{name}-teacher")
        for steps in (4, 1):
            copy(students / f"steps-{steps}", f"{name}-student-{steps}")
    return status


def main() -> int:
    """Makes what is asked for; the status of what failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=[*RECIPES], help="digits, mnist (both)")
    parser.add_argument("--keep", help="folder of the runs (none)", metavar="DIR")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.names:
            if name not in RECIPES:
                parser.error(f"names must be of {', '.join(RECIPES)}, got {name!r}")
            if status := make(name, pathlib.Path(options.keep or folder)):
                return status
    for file in sorted(TARGET.iterdir()):
        print(f"{file.name}: {file.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
