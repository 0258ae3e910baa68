"""Runs on simulated devices and in several processes: `python -m tests.sharding_worker FILE NET`.

Writes losses, parameters and sizes to a file of NumPy arrays, for the tests to compare.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import kacjax
from kacjax import Trainer, few_step, sharding
from kacjax.models import MLP, UNet, unet_size
from kacjax.training import default_optimizer
from kacjax.training.data import DeviceData, cursor_at, next_batch

STEPS, BATCH, DIM = 20, 48, 5
KEY = jax.random.key
DATA = np.random.default_rng(0).normal(size=(100, DIM)).astype(np.float32)


def make_trainer(mesh=None, width=64, second_time=False, **options) -> Trainer:
    """A run of twenty steps, with layers of which some are split and some are not."""
    model = MLP(DIM, rngs=nnx.Rngs(0), width=width, depth=1, second_time=second_time)
    optimizer = default_optimizer(STEPS, warmup=2)
    numbers = {"steps": STEPS, "batch_size": BATCH, "optimizer": optimizer, "steps_per_call": 12}
    return Trainer(model, kacjax.kac_path(), **numbers, mesh=mesh, **options)


def make_unet_trainer(mesh=None) -> Trainer:
    """A run of twenty steps of a small network of convolutions, with classes."""
    # Of fewer channels, most parameters would be too small to be split.
    size = {**unet_size("tiny"), "channels": 16, "dropout": 0.0, "classes": 3}
    model = UNet((8, 8, 1), rngs=nnx.Rngs(0), **size)
    optimizer = default_optimizer(STEPS, learning_rate=2e-4)
    numbers = {"steps": STEPS, "batch_size": 16, "optimizer": optimizer}
    return Trainer(model, kacjax.kac_path(), **numbers, label_dropout=0.1, flip=True, mesh=mesh)


def host_batches(part: int, parts: int):
    """The batches that a run on resident data draws: the part of one process of several."""
    key = jax.random.split(KEY(0))[0]
    rows = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
    for step in range(STEPS):
        cursor = cursor_at(key, step, BATCH, len(DATA))
        yield np.asarray(next_batch(DeviceData(DATA), key, cursor, BATCH)[0][0])[rows]


def bytes_per_device(tree) -> int:
    """The bytes that a pytree of arrays takes on the fullest device of this process."""
    totals = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            totals[shard.device] = totals.get(shard.device, 0) + shard.data.nbytes
    return max(totals.values())


def flat(tree) -> np.ndarray:
    """All numbers of a tree."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def train(trainer: Trainer, source=None) -> dict[str, np.ndarray]:
    """Runs all steps, with a break after seven; losses, parameters, average."""
    source = trainer.device_data(DATA) if source is None else source
    state, first = trainer.run(trainer.init(KEY(0)), source, 7)
    state, rest = trainer.run(state, source)
    if trainer.mesh is not None:
        whole = sharding.replicate((state.params, state.ema), trainer.mesh)
    else:
        whole = state.params, state.ema
    held = bytes_per_device((state.params, state.ema, state.opt_state))
    return {
        "losses": np.concatenate([first.loss, rest.loss]),
        "norms": np.concatenate([first.gradient_norm, rest.gradient_norm]),
        "parameters": flat(whole[0]),
        "ema": flat(whole[1]),
        "bytes": np.asarray(held),
    }


def named(runs: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins the results of runs under their names."""
    return {f"{name}/{key}": value for name, run in runs.items() for key, value in run.items()}


def on_eight_devices() -> dict[str, np.ndarray]:
    """Data parallel, with its program's text; split; both, on host batches; sizes; refusals."""
    whole = make_trainer(sharding.make_mesh())
    split = make_trainer(sharding.make_mesh(fsdp=8))
    both = make_trainer(sharding.make_mesh(2, 4), accumulate=2)
    runs = {"8x1": train(whole), "1x8": train(split), "stream": train(both, host_batches(0, 1))}
    # A mesh of the user's own, of other axes, which JAX makes explicit ones.
    runs["own"] = train(make_trainer(jax.make_mesh((2, 4), ("batch", "fsdp"))))
    # A coupling sees the whole batch, wherever its data lie.
    runs |= {"ot": train(make_trainer(sharding.make_mesh(2, 4), coupling="ot"))}
    runs |= {"ot alone": train(make_trainer(coupling="ot"))}
    results = named(runs)
    lowered = whole.lower(whole.init(KEY(0)), whole.device_data(DATA))
    results["text"] = np.asarray(lowered.compile().as_text())
    for fsdp in (1, 8):
        state = make_trainer(sharding.make_mesh(fsdp=fsdp), width=512).init(KEY(0))
        held = bytes_per_device((state.params, state.ema, state.opt_state))
        results[f"wide/{fsdp}"] = np.asarray(held)
    results["errors"] = np.asarray([refusal(48 + 1), refusal(3), refusal(48, accumulate=4)])
    return results


def unet_on_eight_devices() -> dict[str, np.ndarray]:
    """On one device; data parallel; split."""
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (32, 8, 8, 1)).astype(np.uint8)
    meshes = {"1": None, "8x1": sharding.make_mesh(), "1x8": sharding.make_mesh(fsdp=8)}
    trainers = {name: make_unet_trainer(mesh) for name, mesh in meshes.items()}
    labels = np.arange(32) % 3
    return named({name: train(t, t.device_data(images, labels)) for name, t in trainers.items()})


def few_steps_on_eight_devices() -> dict[str, np.ndarray]:
    """A student and a flow map: on one device; data parallel; split."""
    # A network would not do as the teacher: before training its output is zero, as the student's.
    teacher = kacjax.exact_velocity(kacjax.kac_path(), DATA[:10])
    meshes = {"1": None, "8x1": sharding.make_mesh(), "1x8": sharding.make_mesh(fsdp=8)}
    runs = {}
    for name, mesh in meshes.items():
        student = few_step.Distillation(teacher, steps=2, substeps=3)
        runs[f"student {name}"] = train(make_trainer(mesh, objective=student))
        flow_map = few_step.FlowMapLoss()
        runs[f"map {name}"] = train(make_trainer(mesh, objective=flow_map, second_time=True))
    return named(runs)


def refusal(batch_size: int, accumulate: int = 1) -> str:
    """What is said of a batch that does not divide."""
    try:
        sharding.check_batch_size(batch_size, sharding.make_mesh(), accumulate)
    except ValueError as error:
        return str(error)
    return ""


def on_two_processes(coordinator: str, process: int) -> dict[str, np.ndarray]:
    """One device each, the state split over both; resident data and host batches."""
    for _ in range(2):
        assert sharding.initialize_distributed(coordinator, 2, process)
    assert (jax.process_count(), jax.device_count(), len(jax.local_devices())) == (2, 2, 1)
    split = train(make_trainer(sharding.make_mesh(fsdp=2)))
    trainer = make_trainer(sharding.make_mesh())
    stream = train(trainer, host_batches(process, 2))
    return named({"split": split, "stream": stream})


if __name__ == "__main__":
    file, network, *processes = sys.argv[1:]
    if processes:
        outcome = on_two_processes(processes[0], int(processes[1]))
    elif network == "unet":
        outcome = unet_on_eight_devices()
    elif network == "few steps":
        outcome = few_steps_on_eight_devices()
    else:
        outcome = on_eight_devices()
    np.savez(Path(file), **outcome)
