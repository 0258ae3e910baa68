"""What a run learns: its network, its objective and the teacher of a student; what they take."""

from typing import Any

import jax
import numpy as np
from flax import nnx

import kacjax
from experiments.command import UserError, available_memory, user_errors
from experiments.config import RunConfig
from experiments.datasets import Dataset
from kacjax import Velocity, few_step, losses


def make_network(config: RunConfig, dataset: Dataset) -> nnx.Module:
    """The untrained network of a run; a `UserError` if it does not fit the data."""
    options: dict[str, Any] = {"T": float(config.model.make().T)}
    options["classes"] = len(dataset.classes) if config.network.conditional else None
    if config.training.is_map:
        options["second_time"] = True
    if config.model.prediction(config.network.prediction) == "bounded":
        if config.model.path != "kac":
            raise UserError(f"--prediction bounded needs --path kac, got {config.model.path}.")
        options["outputs"] = 2
    flags = "--image-size or --size and the flags after it: " * (len(dataset.event) > 1)
    with user_errors(ValueError, saying=flags):
        return config.network.make(dataset.event, config.training.seed, **options)


def make_objective(config: RunConfig, dataset: Dataset) -> Any:
    """What a run minimizes, None for flow matching."""
    student, kind = config.student, config.training.objective
    if student is None:
        if kind == "sign" and config.network.prediction != "bounded":
            raise UserError("--objective sign needs --prediction bounded.")
        if kind != "flow" and config.training.coupling != "independent":
            raise UserError(f"--coupling {config.training.coupling} needs --objective flow.")
        power = config.training.time_power
        if kind == "flow":
            return None
        if kind == "sign":
            return losses.SignMatching(time_power=power)
        return few_step.FlowMapLoss(kind, time_power=power)
    teacher = load_teacher(config, dataset)
    if student.guidance != 1:
        if teacher.classes is None:
            raise UserError("--guidance needs a teacher that has learned classes.")
        teacher = kacjax.guided(teacher, student.guidance, teacher.classes)
    steps = student.student_steps, student.substeps
    return few_step.Distillation(teacher, *steps, student.teacher_solver)


def load_teacher(config: RunConfig, dataset: Dataset) -> Velocity:
    """The velocity that a student learns from, and begins with."""
    file = config.student.teacher
    with user_errors(ValueError, OSError, saying="the teacher: "):
        teacher = kacjax.load_velocity(file)
    blank, own = make_network(config, dataset), teacher.network.config
    if own != blank.config:
        differing = [name for name in blank.config if own.get(name) != blank.config[name]]
        name = differing[0] if differing else "kind"
        was, asked = own.get(name), blank.config.get(name)
        raise UserError(f"the teacher {file} has a network of {name} {was}, not {asked}.")
    path = config.model.make()
    (leaves, kind), (others, asked) = jax.tree.flatten(teacher.path), jax.tree.flatten(path)
    if kind != asked or not np.allclose(leaves, others, rtol=1e-6, atol=0):
        raise UserError(f"the teacher {file} has another path, {teacher.path}, not {path}.")
    return teacher


def parameters_of(config: RunConfig, dataset: Dataset) -> int:
    """The number of parameters of a run's network, which is not made for that."""
    with user_errors(ValueError):
        shapes = nnx.state(nnx.eval_shape(lambda: make_network(config, dataset)), nnx.Param)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def memory_of(config: RunConfig, dataset: Dataset) -> int:
    """Bytes that a run takes at least: parameters, their average, gradient and two moments; a batch."""
    event = int(np.prod(dataset.event))
    width = getattr(config.network, "width", 8 * event)
    batch = config.training.batch_size // config.training.accumulate
    return 4 * (5 * parameters_of(config, dataset) + batch * (8 * event + 4 * width))


def check_memory(config: RunConfig, dataset: Dataset) -> None:
    """Refuses a run that takes more memory than there is, before anything of it is made."""
    needed, there = memory_of(config, dataset), available_memory() * jax.device_count()
    if needed > there:
        raise UserError(
            f"this run needs at least {needed / 2**30:,.0f} GiB, and there are "
            f"{there / 2**30:.0f}: lower the size of the network or --batch-size."
        )
