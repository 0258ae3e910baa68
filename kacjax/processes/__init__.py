"""One-dimensional noising processes, applied to each component of the data."""

from kacjax.processes.base import Process
from kacjax.processes.checks import Finding, Report, check
from kacjax.processes.kac import KacProcess
from kacjax.processes.quantile import QuantileProcess
from kacjax.processes.uniform import UniformProcess
from kacjax.processes.wiener import WienerProcess

__all__ = [
    "Finding",
    "KacProcess",
    "Process",
    "QuantileProcess",
    "Report",
    "UniformProcess",
    "WienerProcess",
    "check",
]
