"""Timing and result files that the benchmarks share."""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from experiments.report import commit

# Elsewhere for a run that is not to replace what is committed.
RESULTS = pathlib.Path(os.environ.get("KACJAX_RESULTS", pathlib.Path(__file__).parent / "results"))


def time_calls(
    calls: Mapping[str, Callable[[], Any]], seconds: float, repeats: int | None = None
) -> dict[str, float]:
    """Median seconds of each call, measured in turns so that all meet the same machine.

    A call runs once more, untimed, before each measurement: what it takes must not depend on whose
    buffers and threads it comes after. On an accelerator, where a call returns before its work is
    done, calls follow one another and the clock stops after the last.

    Args:
        calls: Functions of no argument, of JAX or PyTorch.
        seconds: Time to spend, about.
        repeats: Calls between two looks at the clock; by default 1 on a CPU, and else 20.
    """
    repeats = repeats or (1 if jax.default_backend() == "cpu" else 20)
    for call in calls.values():
        _finish(call())
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < 5:
        for name, call in calls.items():
            _finish(call())
            begin = time.perf_counter()
            for _ in range(repeats):
                result = call()
            _finish(result)
            times[name].append((time.perf_counter() - begin) / repeats)
    return {name: statistics.median(values) for name, values in times.items()}


def _finish(result: Any) -> None:
    """Waits for the device that a result of JAX or PyTorch is made on."""
    jax.block_until_ready(result)
    if any(getattr(leaf, "is_cuda", False) for leaf in jax.tree.leaves(result)):
        sys.modules["torch"].cuda.synchronize()


def mean_and_half(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half-width of a 95 % t-interval over three seeds; None for another number."""
    # Student's t at 97.5 % with two degrees of freedom.
    half = 4.303 * statistics.stdev(values) / math.sqrt(3) if len(values) == 3 else None
    return statistics.mean(values), half


def show_interval(mean: float, half: float | None) -> str:
    """A mean with its interval, if it has one."""
    return f"{mean:.3g}" if half is None else f"{mean:.3g} ± {half:.1g}"


def surroundings(*packages: str) -> dict[str, Any]:
    """Device, versions and commit, for a result file."""
    return {
        "device": jax.devices()[0].device_kind,
        "platform": platform.platform(terse=True),
        "commit": commit(),
        "versions": {name: _version(name) for name in ("jax", *packages)},
    }


def _version(package: str) -> str:
    """The installed version; a package may be on the path without being installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def device_name() -> str:
    """The device for the name of a result file: `cpu`, or the model of the accelerator."""
    device = jax.devices()[0]
    if device.platform == "cpu":
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", device.device_kind.lower()).strip("-")


def write_result(name: str, result: Mapping[str, Any]) -> pathlib.Path:
    """Writes a result file."""
    RESULTS.mkdir(exist_ok=True)
    target = RESULTS / f"{name}.json"
    target.write_text(json.dumps(result, indent=2) + "\n")
    return target
