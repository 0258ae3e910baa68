"""kacjax: generative models whose noise is the Kac process, in JAX."""

from kacjax import models
from kacjax.exact import ExactVelocity, exact_velocity
from kacjax.export import load_velocity, save_velocity
from kacjax.generation import (
    decode,
    encode,
    generate,
    generate_chunks,
    guided,
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
    flow_matching_path,
    kac_path,
)
from kacjax.processes import KacProcess, Process, WienerProcess
from kacjax.schedules import time_grid
from kacjax.training import FitResult, Trainer, TrainState, fit, train_step

__version__ = "0.1.0"

__all__ = [
    "ExactVelocity",
    "FitResult",
    "KacProcess",
    "PathSample",
    "ProbabilityPath",
    "Process",
    "TrainState",
    "Trainer",
    "WienerProcess",
    "decode",
    "diffusion_path",
    "encode",
    "exact_velocity",
    "fit",
    "flow_matching_loss",
    "flow_matching_path",
    "generate",
    "generate_chunks",
    "guided",
    "initial_noise",
    "interpolate",
    "kac_path",
    "load_velocity",
    "log_density",
    "models",
    "save_velocity",
    "time_grid",
    "train_step",
    "trajectory",
]
