"""Checks of the values of flags, by the names and types of their fields."""

import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from experiments.command import LARGEST, UserError, check_choice, check_count, check_range

# Ranges of numbers by the name of their field; counts lie between 1 and 2^31 - 1 unless given here.
_COUNTS: dict[str, tuple[int, int]] = {
    "fourier": (0, 100_000),
    "warmup": (0, LARGEST),
    "seed": (0, LARGEST),
    "process_id": (0, 100_000),
    **dict.fromkeys(("width", "channels", "head_channels"), (1, 100_000)),
    **dict.fromkeys(("depth", "blocks", "multipliers"), (1, 100)),
    **dict.fromkeys(("image_size", "attention"), (1, 8192)),
    "seeds": (1, 1000),
    "times": (2, 10_000),
    "trajectories": (1, 1_000_000),
    **dict.fromkeys(("epochs", "num_paths"), (1, 10_000)),
    **dict.fromkeys(
        ("solver_steps", "student_steps", "students", "teacher_steps", "nfe"), (1, 1_000_000)
    ),
}
_RANGES = {
    **dict.fromkeys(("a", "c", "sigma", "T", "sigma_data", "noise_std"), (1e-6, 1e6)),
    **dict.fromkeys(("beta_min", "beta_max"), (1e-6, 1e3)),
    "sigma_max": (1e-2, 1e4),
    "noise_mean": (-20.0, 20.0),
    **dict.fromkeys(("grid_power", "time_power"), (0.1, 20.0)),
    "tolerance": (1e-7, 1.0),
    "learning_rate": (1e-12, 100.0),
    "clip": (1e-12, 1e12),
    "held_out": (0.001, 0.9),
    "earliest": (1e-12, 0.999),
    "guidance": (0.0, 1000.0),
}
_SHARES = ("ema_decay", "b2", "label_dropout", "dropout")


def check_group(group: Any) -> None:
    """Checks that flags are of their field's type and in its range, those of groups in it too.

    Values that come from a file may be anything.
    """
    for name, kind in get_type_hints(type(group)).items():
        value = getattr(group, name)
        if dataclasses.is_dataclass(value):
            check_group(value)
            continue
        _check_type(name, value, kind)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, bool) or not isinstance(each, int | float):
                continue
            if name in _SHARES and not 0 <= each < 1:
                raise UserError(f"{flag(name)} must lie in [0, 1), got {each}.")
            if name in _RANGES:
                check_range(flag(name), each, *_RANGES[name])
            elif isinstance(each, int) and name not in _SHARES:
                check_count(flag(name), each, *_COUNTS.get(name, (1,)))


def _check_type(name: str, value: Any, kind: Any) -> None:
    kinds = [each for each in get_args(kind) if each is not type(None)]
    if type(None) in get_args(kind):
        if value is not None:
            _check_type(name, value, kinds[0])
    elif get_origin(kind) is Literal:
        check_choice(flag(name), value, kinds)
    elif get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise UserError(f"{flag(name)} must be a list, got {value!r}.")
        for each in value:
            _check_type(name, each, kinds[0])
    elif not isinstance(value, int | float if kind is float else kind) or (
        isinstance(value, bool) and kind is not bool
    ):
        raise UserError(f"{flag(name)} must be of type {kind.__name__}, got {value!r}.")


def flag(name: str) -> str:
    """The command line's spelling of a field."""
    return "--" + name.replace("_", "-")
