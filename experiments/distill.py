"""Distills a run into students of few steps, each taught by the one before.

python -m experiments.distill --run runs/digits-kac --steps 4 1
python -m experiments.distill --run runs/mnist-kac --steps 8 2 --guidance 3 --out runs/students
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments import runs
from experiments.checks import check_group
from experiments.command import (
    INTERRUPTED,
    STOPPED,
    UserError,
    check_ladder,
    continuing,
    optional,
    parse,
    run,
    start,
)
from experiments.config import DeviceConfig, RecordConfig, RunConfig, SamplingConfig, StudentConfig
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
    place: runs.PlaceConfig = dataclasses.field(default_factory=runs.PlaceConfig)
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
    """The training runs of the students, in order."""
    check_group(config)
    run = config.run
    _, notes = load(run)  # What is wrong with it is said here.
    if not run.is_dir():
        raise UserError(f"--run must be the folder of a run, got the file {config.run}.")
    teacher = config.place.of(runs.load_config(run))
    if teacher.training.is_map:
        raise UserError(f"--run must be no flow map, got --objective {teacher.training.objective}.")
    if not (run / runs.METRICS).is_file():
        last, steps = notes.get("step", 0), teacher.training.steps
        raise UserError(
            f"--run must be a finished run; the network in {config.run} is of step {last:,} of "
            f"{steps:,}: train it on with --resume."
        )
    own = teacher.student
    usual = 32 if own is None else own.student_steps
    first = config.teacher_steps or usual
    if own is not None and first != usual:
        raise UserError(f"--teacher-steps of this student must be {usual}, got {first}.")
    if not config.steps:
        raise UserError("--steps needs at least one value.")
    check_ladder("--steps", config.steps, "--teacher-steps", first)
    if config.guidance != 1 and not teacher.network.conditional:
        raise UserError("--guidance needs a run that has learned classes.")
    steps = config.training_steps or max(1, teacher.training.steps // 2)
    num = config.num_samples or teacher.sampling.num_samples
    same = ("record", "devices", "resume", "overwrite", "dry_run")
    common: dict[str, Any] = {name: getattr(config, name) for name in same}
    common["training"] = dataclasses.replace(teacher.training, steps=steps)
    # A student is right on the steps of its training only.
    common["sampling"] = SamplingConfig(num, chunk_size=teacher.sampling.chunk_size)
    folder = config.out or run.with_name(run.name + "-students")
    file, guidance = run.resolve() / runs.VELOCITY, config.guidance
    solver, found = ("ab2" if own is None else "euler"), []
    for above, below in itertools.pairwise((first, *config.steps)):
        out = folder / f"steps-{below}"
        student = StudentConfig(file, below, above // below, solver, guidance)
        found.append(dataclasses.replace(teacher, student=student, out=out, **common))
        file, solver, guidance = out.resolve() / runs.VELOCITY, "euler", 1.0
    return found


def distill(config: DistillConfig, command: str) -> int:
    """Trains and judges the students; 75 if a signal stopped it."""
    for stage in stages(config):
        # One that is finished has its data and its teacher compared, and is judged again.
        if not train(stage, command):
            return STOPPED
        if stage.dry_run:
            break
    return 0


def main(argv: Sequence[str]) -> int:
    """The command; returns its exit status."""
    again = continuing("distill", argv)
    return run(lambda: distill(parse(DistillConfig, argv, "distill", __doc__), again), INTERRUPTED)


if __name__ == "__main__":
    start(main)
