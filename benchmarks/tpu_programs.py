"""Programs for TPUs, compiled without one: `python -m benchmarks.tpu_programs`.

Compiles a step of training, one of distillation, and a batch of generation of the U-Net ahead of time
for topologies of TPUs, by the package `libtpu` (extra `tpu-check`) on a machine without any, and reads
from the compiled programs: bytes of arguments and temporaries, operations and bytes accessed per chip,
collectives with their bytes, gathers and copies. A roofline of the vendor's peaks estimates the time:
the longer of arithmetic and memory, and after it the collectives, as if nothing overlapped; nothing is
measured. Writes `benchmarks/results/tpu_programs.json` after each program.

    python -m benchmarks.tpu_programs --size mnist --topologies v5e:2x4 v6e:2x4 v5p:2x2x2

Peaks: docs.cloud.google.com/tpu/docs, pages v6e and v5p-training, of which the second gives the links of
both directions.
"""

import argparse
import collections
import json
import math
import os
import re
import time
from typing import Any, NamedTuple

# Read by libtpu when it is loaded: it is not to look for a TPU.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-8")

import jax
import jax.numpy as jnp
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import kacjax
from benchmarks.common import RESULTS, surroundings, write_result
from benchmarks.train_speed import SHAPES
from benchmarks.unet_flops import forward_flops
from kacjax.models import UNet, unet_size
from kacjax.training.step import programs_of


class Peak(NamedTuple):
    """Of a chip: bfloat16 products, high-bandwidth memory and links to other chips, per second."""

    flops: float
    memory: float
    links: float


PEAKS = {
    "v5e": Peak(197e12, 800e9, 1600e9 / 8),
    "v5p": Peak(459e12, 2765e9, 1200e9 / 2),
    "v6e": Peak(918e12, 1600e9, 3200e9 / 8),
}
_BYTES = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"


def make_mesh(topology: str, fsdp: bool) -> Mesh:
    """All chips of a topology, along `data` or `fsdp`."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    return kacjax.sharding.make_mesh(fsdp=len(devices) if fsdp else 1, devices=devices)


def lower_training(
    size: str, mesh: Mesh, images: int, objective: Any = None
) -> tuple[jax.stages.Lowered, float]:
    """A step of training on `images` images a chip, and its matrix operations a chip by hand."""
    network, batch = make_network(size), images * mesh.size
    options = {"batch_size": batch, "objective": objective, "mesh": mesh}
    trainer = kacjax.Trainer(network, kacjax.kac_path(), **options)
    _, given, plan = trainer._parts
    whole = NamedSharding(mesh, PartitionSpec())
    struct = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    given = jax.tree.map(lambda x: struct(x, whole), given)
    shape = (batch, *network.shape)
    x0 = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=kacjax.sharding.batch_sharding(mesh))
    going = jax.ShapeDtypeStruct((), jnp.bool_, sharding=whole)
    program = programs_of(plan, 1).step
    lowered = program.lower(trainer.abstract_state(), None, going, given, (x0, None))
    return lowered, 3 * images * forward_flops(network.config)


def lower_distillation(size: str, mesh: Mesh, images: int) -> tuple[jax.stages.Lowered, float]:
    """A step of training of a student of four steps, by one step of its teacher."""
    teacher = kacjax.Velocity(make_network(size), kacjax.kac_path())
    objective = kacjax.few_step.Distillation(teacher, steps=4, substeps=1)
    lowered, flops = lower_training(size, mesh, images, objective)
    return lowered, flops * 4 / 3


def lower_generation(size: str, mesh: Mesh, images: int) -> tuple[jax.stages.Lowered, float]:
    """A batch of `images` images a chip in one step, and its matrix operations a chip by hand.

    One step, as the compiler counts the body of a loop once, however often it runs.
    """
    network, batch, steps = make_network(size), images * mesh.size, 1
    graphdef, state = nnx.split(network)
    rows = kacjax.sharding.batch_sharding(mesh)
    whole = NamedSharding(mesh, PartitionSpec())
    struct = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)  # noqa: E731

    def sample(state, key_data):
        path, key = kacjax.kac_path(), jax.random.wrap_key_data(key_data)
        velocity = kacjax.Velocity(nnx.merge(graphdef, state), path)
        noise = kacjax.initial_noise(path, key, (batch, *network.shape))
        return kacjax.decode(velocity, path, jax.lax.with_sharding_constraint(noise, rows), steps)

    key = jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=whole)
    lowered = jax.jit(sample, out_shardings=rows).lower(jax.tree.map(struct, state), key)
    return lowered, steps * images * forward_flops(network.config)


def make_network(size: str) -> UNet:
    """The U-Net of this size, in bfloat16."""
    return UNet(SHAPES[size], rngs=nnx.Rngs(0), **unet_size(size) | {"dtype": "bfloat16"})


PROGRAMS = {
    "training": lower_training,
    "generation": lower_generation,
    "distillation": lower_distillation,
}


def read_program(program: Any) -> dict[str, Any]:
    """What a compiled program says of one chip."""
    memory, cost, text = program.memory_analysis(), program.cost_analysis() or {}, program.as_text()
    messages: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for result, name, start in re.findall(rf"= (\S+|\(.*?\)) ({_COLLECTIVES})(-start)?\(", text):
        # What is started has operand and result side by side.
        arrays = re.findall(r"\b([a-z]+\d+|pred)\[([\d,]*)\]", result)
        for kind, dims in arrays[len(arrays) // 2 :] if start else arrays:
            size = math.prod(int(n) for n in dims.split(",") if n) * _BYTES.get(kind, 4)
            messages[name][kind] += size
        messages[name]["count"] += 1
    return {
        "argument bytes": memory.argument_size_in_bytes,
        "temporary bytes": memory.temp_size_in_bytes,
        "flops": cost.get("flops"),
        "bytes accessed": cost.get("bytes accessed"),
        "collectives": {name: dict(counts) for name, counts in messages.items()},
        "gathers": len(re.findall(r" gather\(", text)),
        "copies": len(re.findall(r" copy(?:-start)?\(", text)),
        "instructions": len(re.findall(r"^\s+(?:ROOT )?%?[\w.\-]+ = ", text, re.MULTILINE)),
    }


def roofline(row: dict[str, Any], chips: int, peak: Peak) -> dict[str, float]:
    """Milliseconds of arithmetic, memory and collectives, and the estimate of all."""
    sent = 0.0
    for name, sizes in row["collectives"].items():
        total = sum(size for kind, size in sizes.items() if kind != "count")
        # A ring passes an array once around to gather it, twice to reduce it; of what is scattered
        # a program names the part that stays.
        times = {"all-reduce": 2, "reduce-scatter": chips}.get(name, 1)
        sent += total * (chips - 1) / chips * times
    parts = {
        "arithmetic": 1e3 * row["matrix flops by hand"] / peak.flops,
        "memory": 1e3 * (row["bytes accessed"] or 0) / peak.memory,
        "collectives": 1e3 * sent / peak.links,
    }
    whole = max(parts["arithmetic"], parts["memory"]) + parts["collectives"]
    return parts | {"estimate": whole}


def measure(name: str, size: str, topology: str, fsdp: bool, images: int) -> dict[str, Any]:
    """Compiles one program for one topology."""
    mesh, begin = make_mesh(topology, fsdp), time.perf_counter()
    lowered, flops = PROGRAMS[name](size, mesh, images)
    middle = time.perf_counter()
    program = lowered.compile()
    row = {"program": name, "size": size, "topology": topology, "chips": mesh.size}
    row |= {"state": "fsdp" if fsdp else "replicated", "images a chip": images}
    row |= {"trace seconds": middle - begin, "compile seconds": time.perf_counter() - middle}
    row |= {"matrix flops by hand": flops, **read_program(program)}
    return row | {"milliseconds": roofline(row, mesh.size, PEAKS[topology.split(":")[0]])}


def main() -> None:
    """Compiles all of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SHAPES), default="mnist")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    parser.add_argument(
        "--topologies",
        nargs="+",
        default=["v5e:2x4", "v6e:2x4", "v5p:2x2x2", "v5e:16x16"],
        metavar="CHIP:SHAPE",
    )
    parser.add_argument(
        "--states", nargs="+", choices=("replicated", "fsdp"), default=["replicated"]
    )
    parser.add_argument("--images", type=int, default=16, help="images a chip (16)")
    arguments = parser.parse_args()
    file = RESULTS / "tpu_programs.json"
    rows = json.loads(file.read_text())["programs"] if file.exists() else []
    key = lambda row: [row[n] for n in ("program", "size", "topology", "state", "images a chip")]  # noqa: E731
    for topology in arguments.topologies:
        for state in arguments.states:
            for name in arguments.programs:
                row = measure(name, arguments.size, topology, state == "fsdp", arguments.images)
                rows = [other for other in rows if key(other) != key(row)] + [row]
                result = {"what": "programs of the U-Net in bfloat16, compiled for TPUs, per chip"}
                result |= {"peaks": {chip: peak._asdict() for chip, peak in PEAKS.items()}}
                result |= {"programs": rows, **surroundings("jaxlib", "libtpu", "flax", "kacjax")}
                write_result("tpu_programs", result)
                parts = ", ".join(f"{part} {ms:.2f}" for part, ms in row["milliseconds"].items())
                print(
                    f"{name} {topology} {state}: {row['compile seconds']:.0f} s to compile, "
                    f"{row['argument bytes'] / 1e6:.0f} + {row['temporary bytes'] / 1e6:.0f} MB, "
                    f"{row['gathers']} gathers, {row['copies']} copies; ms: {parts}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
