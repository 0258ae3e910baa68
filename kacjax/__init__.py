"""kacjax: generative models whose noise is the Kac process, in JAX."""

from kacjax.paths import (
    PathSample,
    ProbabilityPath,
    diffusion_path,
    flow_matching_path,
    kac_path,
)
from kacjax.processes import KacProcess, Process, WienerProcess
from kacjax.schedules import time_grid

__version__ = "0.1.0"

__all__ = [
    "KacProcess",
    "PathSample",
    "ProbabilityPath",
    "Process",
    "WienerProcess",
    "diffusion_path",
    "flow_matching_path",
    "kac_path",
    "time_grid",
]
