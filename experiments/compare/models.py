"""The models of a comparison: every combination of rates, speeds and clocks."""

import dataclasses
import itertools
from typing import Literal, NamedTuple

from experiments.config import PathConfig

Clock = Literal["t", "t2"]


class Model(NamedTuple):
    """One line of the table: a path under a short name."""

    name: str
    path: PathConfig


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
    """Models; every combination of the values is one."""

    a: tuple[float, ...] = (9.0,)
    """Kac: rates of jumps."""
    c: tuple[float, ...] = (3.0,)
    """Kac: speeds."""
    clock: tuple[Clock, ...] = ("t", "t2")
    """Clocks of every model; diffusion with t2 is flow matching."""
    matched: bool = False
    """Wiener models also with sigma = c / sqrt(a)."""


def make_models(config: ModelsConfig) -> list[Model]:
    """The models: Kac for every `a`, `c` and clock, then Wiener for every clock.

    The rate and the speed are part of a Kac model's name where there are several.
    """
    several = len(set(config.a)) * len(set(config.c)) > 1
    kac = [
        Model(
            f"kac-{clock}" + f"-a{a:g}-c{c:g}" * several,
            PathConfig(path="kac", a=a, c=c, clock=clock),
        )
        for a, c, clock in itertools.product(config.a, config.c, config.clock)
    ]
    sigmas = [1.0]
    if config.matched:
        sigmas += [c / a**0.5 for a, c in itertools.product(config.a, config.c)]
    wiener = [
        _wiener(sigma, clock)
        for sigma, clock in itertools.product(dict.fromkeys(sigmas), config.clock)
    ]
    return list(dict.fromkeys([*kac, *wiener]))


def _wiener(sigma: float, clock: Clock) -> Model:
    suffix = "" if sigma == 1 else f"-sigma{sigma:.3g}"
    if clock == "t2":
        return Model("flow-matching" + suffix, PathConfig(path="flow-matching", sigma=sigma))
    return Model("diffusion" + suffix, PathConfig(path="diffusion", sigma=sigma))
