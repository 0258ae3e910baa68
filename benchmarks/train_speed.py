"""Training speed of the U-Net against PyTorch: `python -m benchmarks.train_speed`.

A step is forward, backward, clipping, Adam and average. kacjax trains on the Kac process; PyTorch
the same network (`benchmarks/torch_unet.py`) on plain Gaussian noise, with `torch.compile`,
`channels_last`, and autocast where the type is bfloat16. They run in turns in one call, each in its
own process. Needs the extra `torch-baseline`, unless `--no-torch`. Writes
`benchmarks/results/train_speed-DEVICE.json` after each batch size.

    python -m benchmarks.train_speed --size cifar10 --batch 128 512
    python -m benchmarks.train_speed --no-torch --xla-options xla_gpu_graph_min_graph_size=2
"""

import argparse
import contextlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from benchmarks import profile_table
from benchmarks.common import RESULTS, device_name, surroundings, write_result
from benchmarks.unet_flops import forward_flops, matrix_peak
from kacjax.models import UNet, unet_size
from kacjax.training.step import programs_of

SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1), "tiny": (32, 32, 3)}


class JaxTraining:
    """The kacjax side at one batch size: the program that `Trainer.run` calls, and its state.

    Args:
        model: The network.
        batch: Images in a step.
        options: Options of the compiler, by name.
        steps_per_call: Steps in one call of the device; as `fit` chooses if missing.
    """

    def __init__(
        self,
        model: UNet,
        batch: int,
        options: Mapping[str, Any] | None = None,
        steps_per_call: int | None = None,
    ):
        trainer = kacjax.Trainer(
            model,
            kacjax.kac_path(),
            steps=400_000,
            batch_size=batch,
            optimizer=kacjax.training.default_optimizer(400_000, 2e-4, 5000),
            ema_decay=0.9999,
            steps_per_call=steps_per_call,
        )
        rng = np.random.default_rng(0)
        images = rng.uniform(-1, 1, (4 * batch, *model.shape)).astype(np.float32)
        self.state, self.source = trainer.init(jax.random.key(0)), trainer.device_data(images)
        # No public name gives the program of a run with options of the compiler.
        _, self.path, plan = trainer._parts
        self.cursor = trainer._cursor(self.state, self.source, 0)
        self.steps_per_call = trainer._capacity(self.source)
        programs = programs_of(plan, self.steps_per_call)
        if self.steps_per_call > 1:
            count = jnp.zeros((), jnp.int32)
            lowered = programs.loop.lower(self.state, self.cursor, self.path, self.source, count)
        else:
            self.going = jnp.asarray(True)
            arguments = self.state, self.cursor, self.going, self.path, self.source
            lowered = programs.step.lower(*arguments)
        begin = time.perf_counter()
        self.program = lowered.compile(compiler_options=dict(options or {}))
        self.compile_seconds = time.perf_counter() - begin
        # Of one step of the program as written: libraries that the device calls hide theirs.
        self.flops = (lowered.cost_analysis() or {}).get("flops")

    def run(self, steps: int) -> float:
        """Seconds of `steps` steps."""
        begin, left = time.perf_counter(), steps
        while left:
            if self.steps_per_call > 1:
                count = min(left, self.steps_per_call)
                self.state, self.cursor, _, _ = self.program(
                    self.state, self.cursor, self.path, self.source, np.asarray(count, np.int32)
                )
            else:
                count = 1
                self.state, self.cursor, self.going, _ = self.program(
                    self.state, self.cursor, self.going, self.path, self.source
                )
            left -= count
        jax.block_until_ready(self.state)
        return time.perf_counter() - begin

    def memory(self) -> dict[str, int | None]:
        """Bytes: of the state; of the program, by the compiler; at the peak, by the device."""
        analysis = self.program.memory_analysis()
        sizes = (
            analysis.argument_size_in_bytes,
            analysis.output_size_in_bytes,
            analysis.temp_size_in_bytes,
            -analysis.alias_size_in_bytes,
        )
        statistics = jax.devices()[0].memory_stats() or {}
        state = [leaf for leaf in jax.tree.leaves(self.state) if leaf.dtype != self.state.key.dtype]
        return {
            "state": sum(leaf.nbytes for leaf in state),
            "program": sum(sizes),
            "peak": statistics.get("peak_bytes_in_use"),
        }


class TorchTraining:
    """The PyTorch side, in a process of its own."""

    def __init__(self, python: str, config: dict[str, Any], dtype: str, compile: str | None):
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.torch_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._send({"config": config, "dtype": dtype, "compile": compile})

    def compile(self, batch: int) -> None:
        """Begins to compile for a batch size; the answer to be read before anything else."""
        self._send({"batch": batch, "steps": 3})

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def run(self, batch: int, steps: int) -> dict[str, Any]:
        """What the worker answers."""
        self._send({"batch": batch, "steps": steps})
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """The answer to what was asked last."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The PyTorch process ended with status {self.process.wait()}.")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure_batch(
    ours: JaxTraining,
    batch: int,
    torch: TorchTraining | None = None,
    steps: int = 20,
    turns: int = 3,
    trace: str | None = None,
) -> dict[str, Any]:
    """Images per second of both, in turns, when PyTorch has compiled."""
    theirs = torch.answer() if torch else {}
    ours.run(2)
    speeds: dict[str, list[float]] = {"kacjax": [], "torch": []}
    for _ in range(turns):
        speeds["kacjax"].append(batch * steps / ours.run(steps))
        if torch:
            theirs = torch.run(batch, steps)
            speeds["torch"].append(batch * steps / theirs["seconds"])
    profile = {}
    if trace:
        with jax.profiler.trace(trace):
            ours.run(3)
        program = ours.program.as_text()
        pathlib.Path(trace, f"program-{batch}.txt").write_text(program)
        profile = profile_table.summarize(trace, program, steps=3)
        print(profile_table.show(profile), flush=True)
    result = {
        "images per second": {name: values for name, values in speeds.items() if values},
        "steps per call": ours.steps_per_call,
        "compile seconds": ours.compile_seconds,
        "bytes": ours.memory(),
        "step flops per image, XLA": ours.flops and ours.flops / batch,
        "profile": profile,
    }
    if torch:
        pairs = zip(speeds["kacjax"], speeds["torch"], strict=True)
        result["ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
        result["torch"] = {name: theirs[name] for name in ("bytes", "version", "device")}
        result["torch"]["parameters"] = theirs["parameters"]
    return result


def read_option(text: str) -> tuple[str, bool | int | float | str]:
    """Name and value of a compiler's option, `NAME=VALUE`."""
    name, separator, value = text.partition("=")
    if not (name and separator):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE.")
    if value.lower() in ("true", "false"):
        return name, value.lower() == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return name, kind(value)
    return name, value


def parse_arguments() -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SHAPES), default="cifar10")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="batch sizes (128)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn (20)")
    parser.add_argument("--turns", type=int, default=3, help="turns (3)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by the device")
    parser.add_argument(
        "--xla-options",
        nargs="+",
        default=[],
        type=read_option,
        metavar="NAME=VALUE",
        help="options of the compiler for kacjax's step, xla_gpu_autotune_level=4 for instance",
    )
    parser.add_argument("--steps-per-call", type=int, help="default: as kacjax.fit chooses")
    parser.add_argument("--remat", action="store_true", help="rematerialise residual blocks")
    parser.add_argument("--no-torch", action="store_true", help="kacjax alone")
    parser.add_argument("--no-compile", action="store_true", help="no torch.compile")
    parser.add_argument("--compile-mode", default="default", help="mode of torch.compile (default)")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with PyTorch")
    parser.add_argument("--trace", metavar="FOLDER", help="also write a profile of kacjax's steps")
    return parser.parse_args()


def main() -> None:
    """Runs the benchmark."""
    arguments = parse_arguments()
    # The other process needs memory too; read when the device is first used.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    on_cpu = jax.default_backend() == "cpu"
    dtype = arguments.dtype or ("float32" if on_cpu else "bfloat16")
    options = unet_size(arguments.size) | {"dtype": dtype, "remat": arguments.remat}
    model = UNet(SHAPES[arguments.size], rngs=nnx.Rngs(0), **options)
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model)))
    peaks = matrix_peak(dtype)
    peak, flops = max(peaks.values()), 3 * forward_flops(model.config)
    mode = None if arguments.no_compile else arguments.compile_mode
    torch = None
    if not arguments.no_torch:
        torch = TorchTraining(arguments.torch_python, model.config, dtype, mode)
    xla_options = dict(arguments.xla_options)
    name = " ".join([arguments.size, *(f"{key}={value}" for key, value in xla_options.items())])
    entry = {
        "config": model.config,
        "parameters": count,
        "torch.compile": mode if torch else None,
        "XLA options": xla_options,
        "matrix products, flops per second by side": peaks,
        "step flops per image, by hand": flops,
        "batches": {},
        **surroundings("jaxlib", "flax", "optax", "kacjax"),
    }
    for batch in arguments.batch:
        if torch:
            torch.compile(batch)  # While ours compiles too.
        ours = JaxTraining(model, batch, xla_options, arguments.steps_per_call)
        row = measure_batch(ours, batch, torch, arguments.steps, arguments.turns, arguments.trace)
        speed = statistics.median(row["images per second"]["kacjax"])
        row["share of the matrix peak"] = speed * flops / peak
        print(f"batch {batch}: kacjax {speed:.1f} images/s, {speed * flops / peak:.1%} of the peak")
        if torch:
            theirs = statistics.median(row["images per second"]["torch"])
            assert row["torch"]["parameters"] == count
            print(f"batch {batch}: torch  {theirs:.1f} images/s, ratio {row['ratio']:.2f}")
        entry["batches"][str(batch)] = row
        # A command that is cut off keeps the batch sizes that it has done.
        print("written:", write_size(name, entry).name, flush=True)
    if torch:
        torch.close()


def write_size(name: str, entry: Mapping[str, Any]) -> pathlib.Path:
    """Writes the results of one size, and its options, to the device's file beside the others."""
    file = f"train_speed-{device_name()}"
    old = RESULTS / f"{file}.json"
    sizes = json.loads(old.read_text())["sizes"] if old.exists() else {}
    what = "training the U-Net: forward, backward, clipping, Adam, average"
    return write_result(file, {"what": what, "sizes": sizes | {name: entry}})


if __name__ == "__main__":
    main()
