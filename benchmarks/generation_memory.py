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


def generate(num: int, chunk_size: int = 1000) -> tuple[float, float]:
    """Generates in this process: seconds, and the process's peak size in MiB."""
    path = kacjax.kac_path()
    velocity = kacjax.Velocity(kacjax.models.MLP(dim=64, rngs=nnx.Rngs(0)), path)
    start = time.perf_counter()
    samples = kacjax.generate(
        velocity, path, jax.random.key(0), (num, 64), 10, solver="heun", chunk_size=chunk_size
    )
    assert samples.shape == (num, 64)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return time.perf_counter() - start, peak


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--one", type=int, metavar="NUM", help="one run, here")
    arguments = parser.parse_args()
    if arguments.one:
        print(*generate(arguments.one))
        return
    result = {}
    for num in COUNTS:
        command = [sys.executable, "-m", "benchmarks.generation_memory", "--one", str(num)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak = map(float, done.stdout.split())
        result[f"{num}"] = {"peak MiB": peak, "seconds": seconds}
        size = np.dtype(np.float32).itemsize * 64 * num / 2**20
        print(f"{num:>8}: peak {peak:.0f} MiB, samples {size:.1f} MiB, {seconds:.1f} s")
    file = write_result("generation_memory", {"array": result} | surroundings("flax"))
    print("written:", file.name)


if __name__ == "__main__":
    main()
