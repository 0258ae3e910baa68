"""What a profile of a program says: the device's time by kind of operation, and its longest ones."""

import collections
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax

# What an operation is by its own name or, for a fusion, by what it was made of; the first that fits.
_KINDS = (
    ("between devices", r"all-reduce|all-gather|reduce-scatter|all-to-all|nccl|collective"),
    ("convolution", r"conv(?!ert)"),
    ("attention", r"fmha|flash|attention"),
    ("matrix product", r"gemm|cublas|cutlass|dot|nvjet|wgmma|ynn"),
    ("copy or transpose", r"copy|transpose|concatenate|memcpy|pad"),
    ("look-up or scatter", r"gather|scatter"),
    ("random bits", r"threefry|random|rng|shift"),
    ("reduction", r"reduce(?!.?precision)"),
)
_CONTROL = r"^(while|conditional|call|tuple)\b"


def operations(folder: str | pathlib.Path) -> Iterator[tuple[str, str, float]]:
    """Name in the program, name on the device, and nanoseconds of what a device did."""
    files = sorted(pathlib.Path(folder).glob("plugins/profile/*/*.xplane.pb"))
    planes = [
        plane
        for file in files[-1:]
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes
    ]
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    on_device = any(
        line.name.startswith(("Stream", "XLA Ops")) for p in devices for line in p.lines
    )
    for plane in devices if on_device else planes:
        for line in plane.lines:
            if on_device and not line.name.startswith(("Stream", "XLA Ops")):
                continue
            for event in line.events:
                own = dict(event.stats)
                if on_device or "hlo_op" in own:
                    name = str(own.get("hlo_op", event.name))
                    if not re.match(_CONTROL, name):
                        yield name, event.name, float(event.duration_ns)


def kind_of(text: str) -> str:
    """The kind of an operation, by its names in small letters."""
    return next((kind for kind, fits in _KINDS if re.search(fits, text)), "elementwise")


def summarize(
    folder: str | pathlib.Path, program: str, steps: int, count: int = 30
) -> dict[str, Any]:
    """Milliseconds of a step by kind, and of the longest operations, from a profile of `steps`.

    Args:
        folder: Where `jax.profiler.trace` wrote.
        program: The compiled program as text, which says what a fusion was made of.
        steps: Steps that the profile holds.
        count: Operations to name.
    """
    made_of = {}
    for line in program.splitlines():
        found = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = .*op_name=\"([^\"]*)\"", line)
        if found:
            made_of[found[1]] = found[2]
    kinds: collections.Counter = collections.Counter()
    longest: collections.Counter = collections.Counter()
    counts: collections.Counter = collections.Counter()
    for name, kernel, nanoseconds in operations(folder):
        source = made_of.get(name, "")
        text = f"{name} {kernel} {source.rsplit('/', 1)[-1]}".lower()
        kinds[kind_of(text)] += nanoseconds
        row = name, kernel if kernel != name else "", "/".join(source.split("/")[-3:])
        longest[row] += nanoseconds
        counts[row] += 1
    scale = 1e-6 / steps
    return {
        "milliseconds of a step": scale * sum(kinds.values()),
        "launches of a step": sum(counts.values()) / steps,
        "by kind": {kind: scale * spent for kind, spent in kinds.most_common()},
        "longest": [
            {"name": row[0], "kernel": row[1], "of": row[2], "ms": scale * spent}
            | {"launches": counts[row] / steps}
            for row, spent in longest.most_common(count)
        ],
    }


def show(profile: dict[str, Any]) -> str:
    """A summary as a table."""
    total = profile["milliseconds of a step"]
    lines = [f"device time {total:.2f} ms a step, {profile['launches of a step']:.0f} launches"]
    lines += [f"  {spent:9.3f} ms  {kind}" for kind, spent in profile["by kind"].items()]
    for row in profile["longest"]:
        name = f"{row['name'][:34]:<34} {row['kernel'][:40]}"
        lines.append(f"  {row['ms']:9.3f} ms {row['launches']:5.0f}  {name}  {row['of'][-48:]}")
    return "\n".join(lines)
