"""Memory of generation against the number of samples: `python -m benchmarks.generation_memory`.

Digits (64 pixels) by the default network, 10 Heun steps, in chunks of 1,000; each count in a process of
its own, whose peak resident size is read at the end. Writes `benchmarks/results/generation_memory.json`.
"""

import argparse
import resource
import subprocess
import sys
import time

import jax
import numpy as np
from flax import nnx

import kacjax
from benchmarks.common import surroundings, write_result

COUNTS = (1_000, 10_000, 100_000)


def generate(num: int, mode: str) -> None:
    """Generates in this process, and prints its seconds and its peak size in MiB."""
    path = kacjax.kac_path()
    model = kacjax.models.MLP(dim=64, rngs=nnx.Rngs(0))
    start = time.perf_counter()
    arguments = (model, path, jax.random.key(0), (num, 64), 10)
    if mode == "array":
        samples = kacjax.generate(*arguments, solver="heun", chunk_size=1000)
        assert samples.shape == (num, 64)
    else:
        chunks = kacjax.generate_chunks(*arguments, solver="heun", chunk_size=1000)
        assert sum(len(chunk) for chunk in chunks) == num
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(time.perf_counter() - start, peak)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", nargs=2, metavar=("NUM", "MODE"), help="one run, here")
    arguments = parser.parse_args()
    if arguments.one:
        generate(int(arguments.one[0]), arguments.one[1])
        return
    result: dict = {}
    for mode in ("array", "chunks"):
        for num in COUNTS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.generation_memory",
                "--one",
                str(num),
                mode,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, peak = map(float, done.stdout.split())
            result.setdefault(mode, {})[f"{num}"] = {"peak MiB": peak, "seconds": seconds}
            size = np.dtype(np.float32).itemsize * 64 * num / 2**20
            print(
                f"{mode:>7} {num:>8}: peak {peak:.0f} MiB, samples {size:.1f} MiB, {seconds:.1f} s"
            )
    print("written:", write_result("generation_memory", result | surroundings("flax")).name)


if __name__ == "__main__":
    main()
