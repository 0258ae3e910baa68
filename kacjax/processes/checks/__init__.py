"""A checker of processes, for those who write their own."""

from kacjax.processes.checks.report import Finding, Report, check

__all__ = ["Finding", "Report", "check"]
