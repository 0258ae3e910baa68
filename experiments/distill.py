"""Distills a run into students of few steps, each taught by the one before.

python -m experiments.distill --run runs/digits-kac --steps 4 1
python -m experiments.distill --run runs/mnist-kac --steps 8 2 --guidance 3 --out runs/students
"""

import dataclasses
import itertools
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from experiments import runs
from experiments.checks import check_group
from experiments.command import (
    STOPPED,
    UserError,
    check_count,
    check_ladder,
    check_range,
    optional,
    parse,
    run,
)
from experiments.config import (
    DeviceConfig,
    RecordConfig,
    RunConfig,
    SamplingConfig,
    StudentConfig,
)
from experiments.generate import load
from experiments.train import train


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Students of a finished run, each a run of its own in OUT/steps-K."""

    run: Annotated[Path, tyro.conf.arg(metavar="DIR")]
    """Folder of the teacher's run."""
    steps: tuple[int, ...] = (4, 1)
    """Steps of the students, falling; each divides the one before."""
    teacher_steps: Annotated[int | None, optional("INT", "32; of a student its own")] = None
    """Steps of the teacher; a multiple of the first of those."""
    training_steps: Annotated[int | None, optional("INT", "half of the run's")] = None
    """Optimizer steps of each student."""
    guidance: float = 1.0
    """Scale of classifier-free guidance of the teacher, which is learned."""
    num_samples: Annotated[int | None, optional("INT", "the run's")] = None
    """Samples to generate and judge."""
    record: RecordConfig = dataclasses.field(default_factory=RecordConfig)
    devices: DeviceConfig = dataclasses.field(default_factory=DeviceConfig)
    out: Annotated[Path | None, optional("DIR", "RUN-students")] = None
    """Folder of the students."""
    resume: bool = False
    """Go on where an earlier distillation there stopped."""
    overwrite: bool = False
    """Replace earlier students in that folder."""
    dry_run: bool = False
    """Say what the first student would take, and touch nothing."""


def stages(config: DistillConfig) -> list[RunConfig]:
    """The training runs of the students, in order.

    Raises:
        UserError: If a flag does not make sense, or the run is missing, damaged or not finished.
    """
    check_group(config.record)
    check_group(config.devices)
    check_range("--guidance", config.guidance, 0, 1000)
    load(config.run)  # What is wrong with it is said here.
    if not config.run.expanduser().is_dir():
        raise UserError(f"--run must be the folder of a run, got the file {config.run}.")
    teacher = runs.load_config(config.run.expanduser())
    if teacher.training.is_map:
        raise UserError(f"--run must be no flow map, got --objective {teacher.training.objective}.")
    own = teacher.student
    first = 32 if own is None else own.student_steps
    first = first if config.teacher_steps is None else config.teacher_steps
    if own is not None and first != own.student_steps:
        raise UserError(
            f"--teacher-steps of this student must be {own.student_steps}, got {first}."
        )
    if not config.steps:
        raise UserError("--steps needs at least one value.")
    check_ladder("--steps", config.steps, "--teacher-steps", first)
    steps, num = max(1, teacher.training.steps // 2), teacher.sampling.num_samples
    steps = steps if config.training_steps is None else config.training_steps
    num = num if config.num_samples is None else config.num_samples
    check_count("--training-steps", steps)
    check_count("--num-samples", num)
    if config.guidance != 1 and not teacher.network.conditional:
        raise UserError("--guidance needs a run that has learned classes.")
    # A student is right on the steps of its training only.
    sampling = SamplingConfig(num, chunk_size=teacher.sampling.chunk_size)
    folder = (config.out or config.run.with_name(config.run.name + "-students")).expanduser()
    file, guidance = config.run.expanduser().resolve() / runs.VELOCITY, config.guidance
    solver, found = ("ab2" if own is None else "euler"), []
    for above, below in itertools.pairwise((first, *config.steps)):
        out = folder / f"steps-{below}"
        found.append(
            dataclasses.replace(
                teacher,
                training=dataclasses.replace(teacher.training, steps=steps),
                sampling=sampling,
                record=config.record,
                devices=config.devices,
                student=StudentConfig(file, below, above // below, solver, guidance),
                out=out,
                resume=config.resume,
                overwrite=config.overwrite,
                dry_run=config.dry_run,
            )
        )
        file, solver, guidance = out.resolve() / runs.VELOCITY, "euler", 1.0
    return found


def distill(config: DistillConfig, command: str = "") -> int:
    """Trains and judges the students; 75 if a signal stopped it.

    Raises:
        UserError: As `stages`, and as `train`.
    """
    for stage in stages(config):
        folder = stage.folder()
        if stage.resume and (folder / runs.METRICS).exists():
            runs.check_destination(folder, stage)
            print(f"{stage.shown_folder()} is finished.")
        elif not train(stage, command):
            return STOPPED
        if stage.dry_run:
            break
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)

    def body() -> int:
        about, _, examples = str(__doc__).strip().partition("\n\n")
        config = parse(DistillConfig, argv, "python -m experiments.distill", about, examples)
        flags = [each for each in argv if each not in ("--overwrite", "--resume")]
        return distill(
            config, shlex.join(["python", "-m", "experiments.distill", *flags, "--resume"])
        )

    return run(body, "interrupted: --resume goes on from the newest checkpoint.")


if __name__ == "__main__":
    sys.exit(main())
