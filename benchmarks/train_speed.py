"""Training speed of the U-Net against PyTorch: `python -m benchmarks.train_speed`.

A step is forward, backward, clipping, Adam and average. kacjax trains on the Kac process; PyTorch
the same network (`benchmarks/torch_unet.py`) on plain Gaussian noise, with `torch.compile`,
`channels_last`, and autocast where the type is bfloat16. They run in turns in one call, each in its
own process. Needs the extra `torch-baseline`, unless `--no-torch`. Writes, for each size,
`benchmarks/results/train_speed-DEVICE.json`.

    python -m benchmarks.train_speed --size cifar10 --batch 128 512
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

import jax
from flax import nnx

import kacjax
from benchmarks.common import RESULTS, device_name, surroundings, write_result
from benchmarks.unet_flops import forward_flops, matrix_peak
from kacjax.models import UNet, unet_size
from kacjax.training import NetworkVelocity, init_state, make_optimiser, train_step

SHAPES = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1), "tiny": (32, 32, 3)}


class JaxTraining:
    """The kacjax side at one batch size: a compiled step and its state."""

    def __init__(self, model: UNet, batch: int):
        graphdef, parameters = nnx.split(model)
        velocity = NetworkVelocity(parameters, kacjax.kac_path(), graphdef)
        optimiser = make_optimiser(2e-4, 400_000, 5000, 1.0)
        self.batch, self.state = batch, init_state(parameters, optimiser, jax.random.key(0))
        self.images = jax.random.uniform(
            jax.random.key(1), (batch, *model.shape), minval=-1.0, maxval=1.0
        )

        def step(state, images):
            key = jax.random.fold_in(state.key, state.step)
            return train_step(
                state, images, key, velocity=velocity, optimiser=optimiser, ema_decay=0.9999
            )

        lowered = jax.jit(step, donate_argnums=0).lower(self.state, self.images)
        begin = time.perf_counter()
        self.program = lowered.compile()
        self.compile_seconds = time.perf_counter() - begin
        # Of the program as written: libraries that the device calls hide their operations.
        self.flops = (lowered.cost_analysis() or {}).get("flops")

    def run(self, steps: int) -> float:
        """Seconds of `steps` steps."""
        begin = time.perf_counter()
        for _ in range(steps):
            self.state, _ = self.program(self.state, self.images)
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

    def _send(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def run(self, batch: int, steps: int) -> dict[str, Any]:
        """What the worker answers."""
        assert self.process.stdout is not None
        self._send({"batch": batch, "steps": steps})
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
    model: UNet, batch: int, torch: TorchTraining | None, steps: int, turns: int, trace: str | None
) -> dict[str, Any]:
    """Images per second of both, in turns."""
    ours = JaxTraining(model, batch)
    ours.run(2)
    theirs = torch.run(batch, 3) if torch else {}
    speeds: dict[str, list[float]] = {"kacjax": [], "torch": []}
    for _ in range(turns):
        speeds["kacjax"].append(batch * steps / ours.run(steps))
        if torch:
            theirs = torch.run(batch, steps)
            speeds["torch"].append(batch * steps / theirs["seconds"])
    if trace:
        with jax.profiler.trace(trace):
            ours.run(3)
    result = {
        "images per second": {name: values for name, values in speeds.items() if values},
        "compile seconds": ours.compile_seconds,
        "bytes": ours.memory(),
        "step flops per image, XLA": ours.flops and ours.flops / batch,
    }
    if torch:
        pairs = zip(speeds["kacjax"], speeds["torch"], strict=True)
        result["ratio"] = statistics.median(ours / theirs for ours, theirs in pairs)
        result["torch"] = {name: theirs[name] for name in ("bytes", "version", "device")}
        result["torch"]["parameters"] = theirs["parameters"]
    return result


def parse_arguments() -> argparse.Namespace:
    """Reads the flags."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SHAPES), default="cifar10")
    parser.add_argument("--batch", type=int, nargs="+", default=[128], help="batch sizes (128)")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn (20)")
    parser.add_argument("--turns", type=int, default=3, help="turns (3)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by the device")
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
    measure = partial(
        measure_batch, model, torch=torch, steps=arguments.steps, turns=arguments.turns
    )
    batches = {}
    for batch in arguments.batch:
        row = measure(batch, trace=arguments.trace)
        speed = statistics.median(row["images per second"]["kacjax"])
        row["share of the matrix peak"] = speed * flops / peak
        batches[str(batch)] = row
        print(f"batch {batch}: kacjax {speed:.1f} images/s, {speed * flops / peak:.1%} of the peak")
        if torch:
            theirs = statistics.median(row["images per second"]["torch"])
            assert row["torch"]["parameters"] == count
            print(f"batch {batch}: torch  {theirs:.1f} images/s, ratio {row['ratio']:.2f}")
    if torch:
        torch.close()
    entry = {
        "config": model.config,
        "parameters": count,
        "torch.compile": mode,
        "matrix products, flops per second by side": peaks,
        "step flops per image, by hand": flops,
        "batches": batches,
        **surroundings("jaxlib", "flax", "optax", "kacjax"),
    }
    name = f"train_speed-{device_name()}"
    old = RESULTS / f"{name}.json"
    sizes = json.loads(old.read_text())["sizes"] if old.exists() else {}
    what = "training the U-Net: forward, backward, clipping, Adam, average"
    result = {"what": what, "sizes": sizes | {arguments.size: entry}}
    print("written:", write_result(name, result).name)


if __name__ == "__main__":
    main()
