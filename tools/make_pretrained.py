"""Trains the velocities of `kacjax.load_pretrained`: `python -m tools.make_pretrained`.

A teacher of the digits with classes, and by distillation students of 4 steps and of one; some minutes on two
cores. Prints their figures and replaces `kacjax/export/pretrained`.
"""

import pathlib
import shutil
import sys
import tempfile

from experiments import distill, train

TARGET = pathlib.Path(__file__).parents[1] / "kacjax" / "export" / "pretrained"
_FILE = "velocity.safetensors"


def main() -> int:
    """Trains and copies; the status of what failed."""
    with tempfile.TemporaryDirectory() as name:
        run, students = pathlib.Path(name, "run"), pathlib.Path(name, "students")
        flags = ["digits", "--conditional", "--width", "128", "--steps", "11000", "--out", str(run)]
        status = train.main(flags)
        status = status or distill.main(
            ["--run", str(run), "--steps", "4", "1", "--out", str(students)]
        )
        if status:
            return status
        TARGET.mkdir(exist_ok=True)
        shutil.copy(run / _FILE, TARGET / "digits-teacher.safetensors")
        for steps in (4, 1):
            file = students / f"steps-{steps}" / _FILE
            shutil.copy(file, TARGET / f"digits-student-{steps}.safetensors")
    print(*sorted(TARGET.iterdir()), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
