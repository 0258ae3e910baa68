"""The Kac (telegraph) process: its law, sampler and paths."""

from kacjax.processes.kac.process import KacProcess

__all__ = ["KacProcess"]
