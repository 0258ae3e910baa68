"""A checker of processes, for those who write their own, and its report."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from kacjax._typing import Scalar
from kacjax._validation import check_choice, check_positive
from kacjax.processes.base import Process
from kacjax.processes.checks._probe import Probe
from kacjax.processes.checks.properties import PROPERTIES

__all__ = ["Finding", "Report", "check"]


class Finding(NamedTuple):
    """A fault: the property that fails, and in words where and by how much."""

    property: str
    message: str


class Report(NamedTuple):
    """What `check` found.

    Attributes:
        process: The process, as it is shown.
        checked: The properties that were tried.
        findings: The faults.
    """

    process: str
    checked: tuple[str, ...]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no fault."""
        return not self.findings

    def __repr__(self) -> str:
        head = f"{self.process}: {len(self.checked)} properties tried, {len(self.findings)} faults"
        return "\n".join([head, *(f"- {name}: {message}" for name, message in self.findings)])


def check(process: Process, T: Scalar = 1.0, *, properties: Sequence[str] | None = None) -> Report:
    """Tries out what the interface of a process promises, and says in words what is wrong.

    The methods are compared with each other, with differences and with samples, at times from
    `1e-3 T` to `T`, where paths begin, and in the tails; `Report.checked` lists the properties. Samples
    have a fixed key, and right ones fail with probability below 1e-5. What is found are faults of some
    percent, not of rounding. It takes seconds, most of them compiling.

    Args:
        process: The process; its numbers may be arrays, of one value for each component.
        T: Last process time that will be used.
        properties: Names of the properties to look at, as in `Report.checked`; all if missing.

    Returns:
        The report, which is shown as text; `report.ok` is whether there is no fault.

    Raises:
        ValueError: If `T` is not positive, `process` is none, or a name is unknown.

    Example:
        >>> class Wrong(kacjax.Process):
        ...     def from_normal(self, s, n):
        ...         return s * n
        ...     def variance(self, s):
        ...         return s
        >>> report = kacjax.processes.check(Wrong(), properties=("variance",))
        >>> for finding in report.findings:
        ...     print(f"{finding.property}: {finding.message}")
        variance: variance is 0.001, but the map has 1e-06, at s = 0.001
        >>> kacjax.processes.check(kacjax.WienerProcess(), properties=("tails",)).ok
        True
    """
    check_positive("T", T)
    if not callable(getattr(process, "from_normal", None)):
        raise ValueError(f"process must be a kacjax.Process, got {process!r:.100}.")
    names = tuple(PROPERTIES) if properties is None else tuple(properties)
    for name in names:
        check_choice("properties", name, PROPERTIES)
    findings: list[Finding] = []
    with np.errstate(all="ignore"):
        try:
            probe = Probe(process, float(T))
        except Exception as error:  # It is the user's code that runs.
            names = ("map",)
            findings.append(Finding("map", _describe(error)))
        else:
            for name in names:
                try:
                    findings += [Finding(name, text) for text in PROPERTIES[name](probe)]
                except Exception as error:
                    findings.append(Finding(name, _describe(error)))
    shown = " ".join(repr(process).split())
    return Report(f"{shown:.100}", names, tuple(findings))


def _describe(error: Exception) -> str:
    text = str(error).strip().split("\n")[0]
    return f"raises {type(error).__name__}: {text:.200}"
