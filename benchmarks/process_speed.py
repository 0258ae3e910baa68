"""What noise costs: `python -m benchmarks.process_speed`.

Times, in one run on one device, two arrays being written (the least that a sample with its velocity
can cost), random bits and a Gaussian, Brownian motion with its velocity, the Kac process with its
velocity (up to a million values by every method), and the published table method, in JAX and, with the extra
`torch-baseline`, in PyTorch; counts transcendental operations and gathers in the compiled programs;
writes `benchmarks/results/process_speed-DEVICE.json` after each shape.
"""

import argparse
import concurrent.futures
import time

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import table_method
from benchmarks.common import device_name, surroundings, time_calls, write_result
from kacjax import KacProcess, WienerProcess

try:
    import torch

    from benchmarks import torch_loop
except ImportError:
    torch_loop = None

SHAPES = ((256, 2), (128, 3072), (1024, 3072))
# For accelerators alone: arrays that fit into no cache.
LARGE = (16384, 3072)
A, C, T = 9.0, 3.0, 1.0


def compiled(function, *arguments):
    """The compiled program as a call, with its operation counts."""
    program = jax.jit(function).lower(*arguments).compile()
    return (lambda: program(*arguments)), operations(program)


def operations(program) -> dict:
    """What XLA says that a compiled program does."""
    cost = program.cost_analysis() or {}
    return {
        "transcendentals": cost.get("transcendentals"),
        "flops": cost.get("flops"),
        "bytes accessed": cost.get("bytes accessed"),
        "gather instructions": program.as_text().count(" gather("),
    }


def measure_shape(shape: tuple[int, int], table, seconds: float) -> dict:
    """Median times and operation counts at one shape."""
    key = jax.random.key(0)
    s = jax.random.uniform(jax.random.key(1), (shape[0], 1), minval=1e-4, maxval=T)
    ones = (jnp.ones_like(s), jnp.ones(()), jnp.ones(()))
    a, c = jnp.asarray(A), jnp.asarray(C)

    def kac(key, s, method="squash"):
        return KacProcess(A, C).sample_with_velocity(key, s, shape, method=method)

    def with_derivative(key, s, a, c):
        run = lambda s, a, c: KacProcess(a, c).sample_with_velocity(key, s, shape)  # noqa: E731
        return jax.jvp(run, (s, a, c), ones)

    wanted = {
        "two arrays": (lambda s: (s + jnp.zeros(shape), s + jnp.ones(shape)), s),
        "random bits": (lambda key: jax.random.bits(key, shape), key),
        "normal": (lambda key: jax.random.normal(key, shape), key),
        "wiener": (lambda key, s: WienerProcess().sample_with_velocity(key, s, shape), key, s),
        "kac": (kac, key, s),
        "kac with derivative": (with_derivative, key, s, a, c),
    }
    exact = {}
    if np.prod(shape) < 1e6:
        path = lambda key: KacProcess(A, C).sample_path(key, np.array([T]), shape)  # noqa: E731
        exact["kac, poisson-beta"] = (lambda key, s: kac(key, s, "poisson-beta"), key, s)
        exact["kac, path (one time)"] = (path, key)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        built = pool.map(lambda item: compiled(*item), (wanted | exact).values())
        programs = dict(zip(wanted | exact, built, strict=True))
    calls = {name: call for name, (call, _) in programs.items() if name in wanted}

    lookup = table_method.sample.lower(table, key, s, shape, A, C, T).compile()
    with jax.enable_x64(True):
        field = table_method.velocity.lower(s, jnp.zeros(shape, jnp.float32), A, C).compile()

    def table_call():
        y = table_method.sample(table, key, s, shape, A, C, T)
        with jax.enable_x64(True):
            return table_method.velocity(s, y, A, C)

    calls["table in jax"] = table_call
    if torch_loop is not None:
        place = "cuda" if torch.cuda.is_available() else "cpu"
        torch_table, torch_times = (torch.tensor(np.array(x), device=place) for x in (table, s))
        calls["table in pytorch"] = lambda: torch_loop.table_noise(
            torch_table, torch_times, shape[1], A, C
        )
    times = time_calls(calls, seconds)
    if exact:
        times |= time_calls({name: programs[name][0] for name in exact}, seconds / 4)
    return {
        "milliseconds": {name: 1e3 * value for name, value in times.items()},
        "nanoseconds per value": {
            name: 1e9 * value / np.prod(shape).item() for name, value in times.items()
        },
        "ratio to wiener": {name: value / times["wiener"] for name, value in times.items()},
        "gigabytes per second": {
            name: 8e-9 * np.prod(shape).item() / times[name]
            for name in ("two arrays", "wiener", "kac")
        },
        "operations": {
            **{name: counts for name, (_, counts) in programs.items()},
            "table in jax, look-up": operations(lookup),
            "table in jax, velocity": operations(field),
        },
    }


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each shape (20)")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    table = jax.block_until_ready(table_method.build_table(A, C, T))
    build = time.perf_counter() - begin
    sizes = SHAPES if jax.default_backend() == "cpu" else (*SHAPES, LARGE)
    shapes = {}
    result = {
        "what": "sample with velocity, median milliseconds per call",
        "setting": {"a": A, "c": C, "T": T},
        "table": {"rows": table.shape[0], "columns": table.shape[1], "bytes": table.nbytes},
        "table build seconds, compile included": build,
        "shapes": shapes,
        **surroundings("jaxlib", "kacjax", *(["torch"] if torch_loop else [])),
    }
    for n, d in sizes:
        shapes[f"{n}x{d}"] = measure_shape((n, d), table, arguments.seconds)
        # A command that is cut off keeps the shapes that it has done.
        written = write_result(f"process_speed-{device_name()}", result)
    print(f"{'milliseconds (ratio to wiener)':<26}" + "".join(f"{name:>18}" for name in shapes))
    names = list(next(iter(shapes.values()))["milliseconds"])
    for name in names:
        cells = []
        for shape in shapes.values():
            value = shape["milliseconds"].get(name)
            ratio = shape["ratio to wiener"].get(name)
            cells.append("-" if value is None else f"{value:.3f} ({ratio:.2f})")
        print(f"{name:<26}" + "".join(f"{cell:>18}" for cell in cells))
    rates = [f"{shape['gigabytes per second']['kac']:.3g}" for shape in shapes.values()]
    print(f"{'kac, GB/s written':<26}" + "".join(f"{rate:>18}" for rate in rates))
    print(f"table: {table.nbytes / 1e6:.0f} MB, built in {build:.1f} s")
    middle = shapes["128x3072"]["milliseconds"]
    for name in ("table in jax", "table in pytorch"):
        if name in middle:
            print(f"{name} at 128x3072: {middle[name] / middle['kac']:.1f} times kac")
    for name in ("wiener", "kac"):
        counts = shapes["128x3072"]["operations"][name]
        print(
            f"{name} at 128x3072: "
            + ", ".join(f"{v:,.0f} {k}" for k, v in counts.items() if v is not None)
        )
    print("written:", written.name)


if __name__ == "__main__":
    main()
