"""kacjax: generative models whose noise is the Kac process, in JAX."""

import importlib
from typing import TYPE_CHECKING, Any

from kacjax.exact import ExactVelocity, exact_velocity
from kacjax.export import load_pretrained, load_velocity, register, save_velocity
from kacjax.few_step import DistillResult, distill
from kacjax.generation import (
    decode,
    encode,
    generate,
    initial_noise,
    interpolate,
    log_density,
    trajectory,
)
from kacjax.losses import flow_matching_loss
from kacjax.paths import (
    PathSample,
    ProbabilityPath,
    diffusion_path,
    edm_path,
    flow_matching_path,
    kac_path,
    vp_path,
)
from kacjax.processes import KacProcess, Process, QuantileProcess, UniformProcess, WienerProcess
from kacjax.training import FitResult, Trainer, TrainState, fit
from kacjax.velocity import Velocity, guided

if TYPE_CHECKING:
    from kacjax import checkpoints as checkpoints
    from kacjax import couplings as couplings
    from kacjax import data as data
    from kacjax import diagnostics as diagnostics
    from kacjax import few_step as few_step
    from kacjax import losses as losses
    from kacjax import metrics as metrics
    from kacjax import models as models
    from kacjax import plots as plots
    from kacjax import predictions as predictions
    from kacjax import schedules as schedules
    from kacjax import sharding as sharding
    from kacjax import training as training

__version__ = "0.1.0"

# The others are imported above.
_MODULES = ("checkpoints", "data", "diagnostics", "metrics", "models", "plots")

__all__ = [
    "DistillResult",
    "ExactVelocity",
    "FitResult",
    "KacProcess",
    "PathSample",
    "ProbabilityPath",
    "Process",
    "QuantileProcess",
    "TrainState",
    "Trainer",
    "UniformProcess",
    "Velocity",
    "WienerProcess",
    "decode",
    "diffusion_path",
    "distill",
    "edm_path",
    "encode",
    "exact_velocity",
    "fit",
    "flow_matching_loss",
    "flow_matching_path",
    "generate",
    "guided",
    "initial_noise",
    "interpolate",
    "kac_path",
    "load_pretrained",
    "load_velocity",
    "log_density",
    "register",
    "save_velocity",
    "trajectory",
    "vp_path",
]


def __getattr__(name: str) -> Any:
    """Submodules, which are imported when they are first used."""
    if name in _MODULES:
        return importlib.import_module(f"kacjax.{name}")
    raise AttributeError(f"module 'kacjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_MODULES]
