"""Time until something runs: `python -m benchmarks.compile_time`.

Of training and generation by their public functions, each once, and once more with another key, other
numbers of the path or another guidance scale, which must not compile again. Nothing is read from a
persistent cache. Beside wall time there is the processor's, of all threads, which a busy machine
changes less. What a call takes without compiling is part of both: a step of training, or two of
generation. Writes `benchmarks/results/compile_time-DEVICE.json`.

    python -m benchmarks.compile_time --sizes tiny mnist cifar10
"""

import argparse
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from benchmarks.common import device_name, surroundings, write_result
from benchmarks.train_speed import SHAPES
from kacjax.models import MLP, UNet, blank, unet_size

_CLASSES, _IMAGES = 3, 16


def measure(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds of a call by the clock and of the processor."""
    clock, processor = time.perf_counter(), time.process_time()
    jax.block_until_ready(call())
    now = time.perf_counter(), time.process_time()
    return {"seconds": now[0] - clock, "processor seconds": now[1] - processor}


def measure_pair(network: Any, shape: tuple[int, ...], batch: int) -> dict[str, dict[str, float]]:
    """Training and generation of a network with classes, each first and again."""
    data = np.zeros((2 * batch, *shape), np.float32)
    labels = np.arange(2 * batch) % _CLASSES

    def train(seed: int, a: float) -> Any:
        path, key = kacjax.kac_path(a=a), jax.random.key(seed)
        options = {"labels": labels, "classes": _CLASSES, "label_dropout": 0.1, "progress": False}
        return kacjax.fit(network, path, data, key, 1, batch, **options).state.params

    def generate(seed: int, a: float, scale: float) -> Any:
        path = kacjax.kac_path(a=a)
        velocity = kacjax.guided(kacjax.Velocity(network, path, classes=_CLASSES), scale, _CLASSES)
        options = {"steps": 2, "labels": jnp.zeros(batch, jnp.int32)}
        return kacjax.generate(velocity, path, jax.random.key(seed), (batch, *shape), **options)

    return {
        "fit": measure(lambda: train(0, 25.0)),
        "fit, another key and path": measure(lambda: train(1, 9.0)),
        "generate": measure(lambda: generate(0, 25.0, 1.5)),
        "generate, another key, path and scale": measure(lambda: generate(1, 9.0, 3.0)),
    }


def _make(kind: Any, keywords: dict[str, Any]) -> Any:
    return kind(**keywords, classes=_CLASSES, rngs=nnx.Rngs(0))


def main() -> None:
    """Measures networks of vectors and of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="*", choices=sorted(SHAPES), default=["tiny", "cifar10"])
    arguments = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    jax.block_until_ready(jnp.zeros(1) + 1)  # The device starts.
    networks: dict[str, Any] = {"MLP": (MLP, {"dim": 2}, (2,), 256)}
    for size in arguments.sizes:
        keywords = {"shape": SHAPES[size], **unet_size(size)}
        networks[f"U-Net {size}"] = UNet, keywords, SHAPES[size], _IMAGES
    results: dict[str, Any] = {}
    for name, (kind, keywords, shape, batch) in networks.items():
        make = functools.partial(_make, kind, keywords)
        results[name] = measure_pair(blank(make), shape, batch)
        for what, row in results[name].items():
            spent = row["processor seconds"]
            print(f"{name:15} {what:38} {row['seconds']:6.1f} s, {spent:6.1f} s of the processor")
    about = surroundings("jaxlib", "flax", "optax", "diffrax", "kacjax")
    result = {"what": "until something runs, compilation included", "results": results, **about}
    write_result(f"compile_time-{device_name()}", result)


if __name__ == "__main__":
    main()
