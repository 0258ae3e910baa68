"""What one wants to know of an accelerator, in one command: `python -m benchmarks.accelerator --minutes 14`.

Stages, in order of worth, each in a process of its own with a time limit of its own:

- `law`: the law, the samplers and the solvers against the oracle, on the device
- `noise`: `benchmarks.process_speed`
- `train`: `benchmarks.train_speed`, the U-Net of CIFAR-10 in bfloat16 against PyTorch, with a profile
- `generation`: `benchmarks.generation_speed`, images per second of the same network
- `plane`: `benchmarks.grid2d_speed`, steps per second in two dimensions
- `mnist`: Kac, matched flow matching and variance preserving diffusion on equal terms
- `judge`: a classifier of CIFAR-10, which the next stage needs
- `cifar10`: Kac against matched flow matching, for the time that is left

Results are copied to `--out`, with a log of each stage; `accelerator.json` there is written after each.
`--dry-run` tries every stage on the CPU with tiny sizes. The last three need the data sets' files, in
`--data-root` or `$KACJAX_DATA`.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

_ROOT = pathlib.Path(__file__).parents[1]
# Seconds for the last line, and for a stage to begin at all.
_RESERVE, _LEAST = 5.0, 20.0


class Stage(NamedTuple):
    """A command and its tiny version, the seconds it may take, and what its results say in a line."""

    name: str
    command: list[str]
    tiny: list[str]
    seconds: float
    headline: Callable[[dict[str, Any]], str]
    results: str = ""
    data: str = ""


def _module(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", name, *arguments]


def _noise(result: dict[str, Any]) -> str:
    ratios = {shape: row["ratio to wiener"]["kac"] for shape, row in result["shapes"].items()}
    return "kac / wiener " + ", ".join(f"{ratio:.2f} at {shape}" for shape, ratio in ratios.items())


def _train(result: dict[str, Any]) -> str:
    (entry,) = list(result["sizes"].values())[-1:]
    return ", ".join(
        f"{max(row['images per second']['kacjax']):.0f} images/s at {batch} "
        f"({row['share of the matrix peak']:.0%} of the peak)"
        for batch, row in entry["batches"].items()
    )


def _generation(result: dict[str, Any]) -> str:
    return f"{result['images per second']['generate']:.0f} images/s of {result['steps']} steps"


def _compare(result: dict[str, Any]) -> str:
    models = dict.fromkeys(judgement["model"] for judgement in result["judgements"])
    return f"{len(models)} models after {result['training']['steps']:,} steps"


def make_stages(out: pathlib.Path, data: str) -> list[Stage]:
    """The stages, in order of worth."""
    tests = [
        *("tests/processes/test_kac_law.py", "tests/processes/test_kac_sampling.py"),
        *("tests/generation/test_solvers.py", "tests/test_exact.py"),
    ]
    # Most of its time is spent compiling, on the host.
    workers = str(min(6, max(1, (os.cpu_count() or 1) // 2)))
    pytest = _module("pytest", "-n", workers, "-p", "no:cacheprovider", "-q")
    source = ["--data-root", data] if data else []
    compare = ["--clock", "t2", "--seeds", "1", "--checkpoints", "1", "--adaptive", "--overwrite"]
    tiny = [*("--size", "tiny", "--steps", "2", "--batch-size", "8", "--num-samples", "8")]
    tiny += ["--nfe", "1", *compare, *source]
    mnist = [
        *("--size", "mnist", "--dtype", "bfloat16", "--steps", "3000", "--nfe", "10", "20", "50")
    ]
    mnist += ["--a", "25", "--c", "2", "--baselines", "vp", *compare, *source]
    cifar = [*("--size", "cifar10", "--dtype", "bfloat16", "--steps", "6000", "--nfe", "10", "50")]
    cifar += ["--a", "25", "--c", "2", *compare, *source]
    torch = importlib.util.find_spec("torch") is not None
    judged = out / "features" / "classifier.safetensors"
    judge = ["--classifier", str(judged)]
    features = ["cifar10", *source, "--out", str(judged.parent)]
    profile = ["--trace", str(out / "profile")]
    return [
        Stage(
            "law",
            [*pytest, *tests],
            [*pytest, f"{tests[0]}::test_oracle"],
            120,
            lambda result: "",
        ),
        Stage(
            "noise",
            _module("benchmarks.process_speed", "--seconds", "5"),
            _module("benchmarks.process_speed", "--seconds", "0.1"),
            75,
            _noise,
            "process_speed-*.json",
        ),
        Stage(
            "train",
            _module(
                "benchmarks.train_speed", "--size", "cifar10", "--batch", "128", "512", *profile
            ),
            _module(
                *("benchmarks.train_speed", "--size", "tiny", "--batch", "2", "--steps", "1"),
                *("--turns", "1", "--no-torch"),
            ),
            330,
            _train,
            "train_speed-*.json",
        ),
        Stage(
            "generation",
            _module("benchmarks.generation_speed", "--seconds", "6"),
            _module(
                *("benchmarks.generation_speed", "--size", "tiny", "--batch", "2"),
                *("--steps", "2", "--seconds", "0"),
            ),
            100,
            _generation,
            "generation_speed-*.json",
        ),
        Stage(
            "plane",
            _module("benchmarks.grid2d_speed"),
            _module("benchmarks.grid2d_speed", "--steps", "20", "--turns", "1") if torch else [],
            120,
            lambda result: f"ratio to PyTorch {statistics.median(result['ratio']):.2f}",
            "grid2d_speed-*.json",
        ),
        Stage(
            "mnist",
            _module("experiments.compare", "mnist", *mnist, "--out", str(out / "mnist")),
            _module("experiments.compare", "mnist", *tiny, "--out", str(out / "mnist")),
            240,
            _compare,
            "mnist/results.json",
            "mnist",
        ),
        Stage(
            "judge",
            _module("experiments.features", *features),
            [],
            120,
            lambda result: "",
            "features/features.json",
            "cifar10",
        ),
        Stage(
            "cifar10",
            _module(
                "experiments.compare", "cifar10", *cifar, *judge, "--out", str(out / "cifar10")
            ),
            _module("experiments.compare", "cifar10", *tiny, *judge, "--out", str(out / "cifar10")),
            600,
            _compare,
            "cifar10/results.json",
            "cifar10",
        ),
    ]


def run_stage(stage: Stage, command: list[str], limit: float, out: pathlib.Path) -> dict[str, Any]:
    """Runs a command within a time limit; what it has written by then is kept."""
    environment = {
        **os.environ,
        "KACJAX_RESULTS": str(out),
        # Stages come one after the other, and PyTorch beside ours.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
    }
    begin, started = time.monotonic(), time.time()
    with (out / f"{stage.name}.log").open("w") as log:
        options: dict[str, Any] = {"stdout": log, "stderr": subprocess.STDOUT, "env": environment}
        process = subprocess.Popen(command, cwd=_ROOT, start_new_session=True, **options)
        try:
            status = f"status {process.wait(limit)}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    entry: dict[str, Any] = {"stage": stage.name, "command": " ".join(command[1:])}
    entry |= {"status": status, "seconds": round(time.monotonic() - begin, 1), "headline": ""}
    found = sorted(out.glob(stage.results)) if stage.results else []
    # Not those of an earlier call.
    if found := [file for file in found if file.stat().st_mtime >= started - 1]:
        entry["results"] = found[-1].name
        try:
            entry["headline"] = stage.headline(json.loads(found[-1].read_text()))
        except (KeyError, ValueError, IndexError) as error:
            entry["headline"] = f"no headline: {error!r}"
    return entry


def device() -> str:
    """What JAX finds, asked in another process: this one must not hold the device."""
    code = "import jax; d = jax.devices(); print(len(d), 'x', d[0].device_kind, jax.__version__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return found.stdout.strip() or "none"


def main() -> int:
    """Runs the stages; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=14.0, help="time for all stages (14)")
    parser.add_argument("--stages", nargs="+", metavar="NAME", help="some of them; all by default")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/accelerator"))
    parser.add_argument("--data-root", default=os.environ.get("KACJAX_DATA", ""))
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes, on the CPU")
    arguments = parser.parse_args()
    if arguments.dry_run:
        os.environ["JAX_PLATFORMS"] = "cpu"
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    stages = make_stages(out, arguments.data_root)
    unknown = set(arguments.stages or ()) - {stage.name for stage in stages}
    if unknown:
        parser.error(f"--stages must be among {', '.join(s.name for s in stages)}; got {unknown}.")
    end = time.monotonic() + 60 * arguments.minutes
    report: dict[str, Any] = {"device": device(), "minutes": arguments.minutes, "stages": []}
    for stage in stages:
        left = end - time.monotonic() - _RESERVE
        entry: dict[str, Any] = {"stage": stage.name, "seconds": 0.0, "headline": ""}
        if arguments.stages and stage.name not in arguments.stages:
            continue
        if stage.data and not arguments.data_root:
            entry["status"] = "no data"
        elif arguments.dry_run and not stage.tiny:
            entry["status"] = "not in a dry run"
        elif stage.name == "cifar10" and not (out / "features" / "classifier.safetensors").exists():
            entry["status"] = "no judge"
        elif left < _LEAST:
            entry["status"] = "no time"
        else:
            command = stage.tiny if arguments.dry_run else stage.command
            seconds = (4 if arguments.dry_run else 1) * stage.seconds
            entry = run_stage(stage, command, min(seconds, left), out)
        report["stages"].append(entry)
        (out / "accelerator.json").write_text(json.dumps(report, indent=2) + "\n")
    print(f"{report['device']}: {out / 'accelerator.json'}")
    for entry in report["stages"]:
        name, status, seconds = entry["stage"], entry["status"], entry["seconds"]
        print(f"{name:<8} {status:<20} {seconds:>6.0f} s  {entry['headline']}")
    statuses = [entry["status"] for entry in report["stages"]]
    return int(any(s.startswith("status") and s != "status 0" for s in statuses))


if __name__ == "__main__":
    sys.exit(main())
