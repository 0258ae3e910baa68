"""Images a second that a U-Net generates: `python -m benchmarks.generation_speed`.

Times `kacjax.generate` on the Kac path with fixed steps, and as many evaluations of the network
alone: what is between is the solver's. Writes `benchmarks/results/generation_speed-DEVICE.json`.

    python -m benchmarks.generation_speed --size cifar10 --batch 512 --steps 50
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import kacjax
from benchmarks.common import device_name, surroundings, time_calls, write_result
from benchmarks.train_speed import SHAPES
from benchmarks.unet_flops import forward_flops, matrix_peak
from kacjax.models import UNet, unet_size


def measure(size: str, batch: int, steps: int, dtype: str, seconds: float) -> dict[str, Any]:
    """Seconds of both, and what follows from them."""
    shape = SHAPES[size]
    model = UNet(shape, rngs=nnx.Rngs(0), **unet_size(size) | {"dtype": dtype})
    path = kacjax.kac_path()
    velocity = kacjax.Velocity(model, path)
    graphdef, state = nnx.split(model)

    @jax.jit
    def evaluations(state, x):
        def body(x, t):
            return x - nnx.merge(graphdef, state)(jnp.full(batch, t), x) / steps, None

        return jax.lax.scan(body, x, jnp.linspace(1, 0.1, steps))[0]

    keys = iter(range(1_000_000))
    x = jax.random.normal(jax.random.key(0), (batch, *shape))
    calls = {
        "generate": lambda: kacjax.generate(
            velocity, path, jax.random.key(next(keys)), (batch, *shape), steps
        ),
        "network alone": lambda: evaluations(state, x),
    }
    # Calls that take this long need not follow one another.
    times = time_calls(calls, seconds, repeats=1)
    peak, flops = max(matrix_peak(dtype).values()), forward_flops(model.config) * steps * batch
    return {
        "what": "seconds of generating a batch of images, and of as many evaluations of the network",
        "size": size,
        "dtype": dtype,
        "batch": batch,
        "steps": steps,
        "seconds": times,
        "images per second": {name: batch / s for name, s in times.items()},
        "share of the matrix peak": {name: flops / s / peak for name, s in times.items()},
        **surroundings("jaxlib", "flax", "diffrax", "kacjax"),
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SHAPES), default="cifar10")
    parser.add_argument("--batch", type=int, default=512, help="images at a time (512)")
    parser.add_argument("--steps", type=int, default=50, help="steps of ab2, evaluations (50)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="default: by the device")
    parser.add_argument("--seconds", type=float, default=20.0, help="time to spend (20)")
    arguments = parser.parse_args()
    dtype = arguments.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    choices = arguments.size, arguments.batch, arguments.steps, dtype, arguments.seconds
    result = measure(*choices)
    for name, speed in result["images per second"].items():
        share = result["share of the matrix peak"][name]
        print(f"{name:<14} {speed:9.1f} images/s, {share:.1%} of the matrix peak")
    print("written:", write_result(f"generation_speed-{device_name()}", result).name)


if __name__ == "__main__":
    main()
