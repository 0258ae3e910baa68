"""One-dimensional noising processes, applied to each component of the data."""

from kacjax.processes.base import Process
from kacjax.processes.kac import KacProcess
from kacjax.processes.wiener import WienerProcess

PROCESSES: dict[str, type[Process]] = {"kac": KacProcess, "wiener": WienerProcess}
"""Processes by the name that files call them."""

__all__ = ["PROCESSES", "KacProcess", "Process", "WienerProcess"]
