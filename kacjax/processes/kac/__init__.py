"""The Kac (telegraph) process: its law, samplers and paths."""

from kacjax.processes.kac.jumps import jump_bound
from kacjax.processes.kac.process import KacProcess

__all__ = ["KacProcess", "jump_bound"]
