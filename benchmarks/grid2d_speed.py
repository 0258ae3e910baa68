"""Training speed in two dimensions against PyTorch: `python -m benchmarks.grid2d_speed`.

The same loop (batch 256, perceptron of three layers of 256, Adam, clipping, EMA) by `kacjax.fit` and
by `benchmarks/torch_loop.py`, in turns in one call; and the share of a step that the noise takes.
Needs the extra `torch-baseline`. Writes `benchmarks/results/grid2d_speed-DEVICE.json`.
"""

import argparse
import itertools
import statistics

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import kacjax
from benchmarks import table_method
from benchmarks.common import device_name, surroundings, time_calls, write_result

A, C, BATCH = 9.0, 3.0, 256
SINUSOIDS = 64


class Perceptron(nnx.Module):
    """Three hidden layers of 256 units on the point and 64 sinusoids of the time."""

    def __init__(self, rngs: nnx.Rngs):
        sizes = [2 + SINUSOIDS, 256, 256, 256, 2]
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([nnx.Linear(i, o, rngs=rngs) for i, o in pairs])

    def __call__(self, t, x):
        """The velocity."""
        frequencies = 1000 * jnp.geomspace(1, 1e-4, SINUSOIDS // 2, endpoint=False)
        angles = t[:, None] * frequencies[None].astype(t.dtype)
        h = jnp.concatenate([x, jnp.sin(angles), jnp.cos(angles)], axis=-1)
        for layer in list(self.layers)[:-1]:
            h = jax.nn.silu(layer(h))
        return self.layers[-1](h)


def noise_share(dim: int, batch: int, step_seconds: float) -> float:
    """Time of drawing the path's points, as a share of a training step."""
    path = kacjax.kac_path(A, C)
    t, x0 = jnp.linspace(0.01, 1, batch), jnp.zeros((batch, dim))

    @jax.jit
    def many(key):
        def body(total, key):
            point = path.sample(key, t, x0)
            return total + jnp.sum(point.x_t * point.velocity), None

        return jax.lax.scan(body, 0.0, jax.random.split(key, 200))[0]

    seconds = time_calls({"noise": lambda: many(jax.random.key(0))}, 3)["noise"] / 200
    return seconds / step_seconds


def default_step_seconds(dim: int, batch: int, width: int, steps: int) -> float:
    """Seconds of a step of `fit` with the library's network, as the experiments train it."""
    model = kacjax.models.MLP(dim, rngs=nnx.Rngs(0), width=width)
    data = np.zeros((64, dim), np.float32)
    run = kacjax.fit(
        model, kacjax.kac_path(A, C), data, jax.random.key(0), steps, batch, progress=False
    )
    return 1 / run.steps_per_second


def main() -> None:
    """Runs the benchmark."""
    from benchmarks import torch_loop  # Needs an extra.

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="steps of a turn (2000)")
    parser.add_argument("--turns", type=int, default=3, help="turns (3)")
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    data = generator.integers(-1, 2, (100_000, 2)) + 1e-4 * generator.standard_normal((100_000, 2))
    data = data.astype(np.float32)
    table = np.array(table_method.build_table(A, C, 1.0))
    speeds: dict[str, list[float]] = {"kacjax": [], "torch": []}
    for turn in range(arguments.turns):
        run = kacjax.fit(
            Perceptron(nnx.Rngs(turn)),
            kacjax.kac_path(A, C),
            data,
            jax.random.key(turn),
            arguments.steps,
            BATCH,
            prediction="velocity",
            progress=False,
        )
        speeds["kacjax"].append(run.steps_per_second)
        speeds["torch"].append(
            torch_loop.steps_per_second(table, data, A, C, BATCH, arguments.steps // 4, 20)
        )
        row = ", ".join(f"{name} {values[-1]:.1f}" for name, values in speeds.items())
        print(f"turn {turn + 1}: {row} steps/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(*speeds.values(), strict=True)]
    shares = {
        "grid2d": noise_share(2, BATCH, default_step_seconds(2, BATCH, 128, 1000)),
        "digits": noise_share(64, 128, default_step_seconds(64, 128, 256, 1000)),
    }
    result = {
        "what": "steps per second of training, batch 256, three layers of 256",
        "steps per second": speeds,
        "ratio": ratios,
        "noise as a share of a step": shares,
        **surroundings("jaxlib", "flax", "optax", "torch", "kacjax"),
    }
    print(f"ratio, median: {statistics.median(ratios):.2f}")
    for name, share in shares.items():
        print(f"noise in a step of {name}: {share:.1%}")
    print("written:", write_result(f"grid2d_speed-{device_name()}", result).name)


if __name__ == "__main__":
    main()
