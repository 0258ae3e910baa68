"""Runs on simulated devices and in several processes: `python -m tests.sharding_worker FILE NET`.

Writes losses, parameters and sizes to a file of NumPy arrays, for the tests to compare.
"""

import sys
from pathlib import Path

import jax
import numpy as np
from flax import nnx

import kacjax
from kacjax import Trainer, sharding
from kacjax.data.batches import draw_batch
from kacjax.models import MLP, UNet, unet_size

STEPS, BATCH, DIM = 20, 48, 5
KEY = jax.random.key
DATA = np.random.default_rng(0).normal(size=(100, DIM)).astype(np.float32)


def make_trainer(mesh=None, width=64, **options) -> Trainer:
    """A run of twenty steps, with layers of which some are split and some are not."""
    model = MLP(DIM, rngs=nnx.Rngs(0), width=width, depth=1)
    numbers = {"steps": STEPS, "batch_size": BATCH, "warmup": 2, "steps_per_call": 12}
    return Trainer(model, kacjax.kac_path(), **numbers, mesh=mesh, **options)


def make_unet_trainer(mesh=None) -> Trainer:
    """A run of twenty steps of a small network of convolutions, with classes."""
    # Of fewer channels, most parameters would be too small to be split.
    size = {**unet_size("tiny"), "channels": 16, "dropout": 0.0, "classes": 3}
    model = UNet((8, 8, 1), rngs=nnx.Rngs(0), **size)
    numbers = {"steps": STEPS, "batch_size": 16, "learning_rate": 2e-4, "steps_per_call": 1}
    return Trainer(model, kacjax.kac_path(), **numbers, label_dropout=0.1, flip=True, mesh=mesh)


def host_batches(part: int, parts: int):
    """The batches that a run on resident data draws: the part of one process of several."""
    key = jax.random.split(KEY(0))[0]
    rows = slice(part * BATCH // parts, (part + 1) * BATCH // parts)
    return (np.asarray(draw_batch(DATA, key, k, BATCH)[0])[rows] for k in range(STEPS))


def flat(tree) -> np.ndarray:
    """All numbers of a tree."""
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def train(trainer: Trainer, source=None) -> dict[str, np.ndarray]:
    """Runs all steps, with a break after seven; losses, parameters, average."""
    source = trainer.resident(DATA) if source is None else source
    state, first = trainer.run(trainer.init(KEY(0)), source, 7)
    state, rest = trainer.run(state, source)
    if trainer.mesh is not None:
        whole = sharding.replicate((state.parameters, state.ema), trainer.mesh)
    else:
        whole = state.parameters, state.ema
    held = sharding.bytes_per_device((state.parameters, state.ema, state.optimiser))
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
    results = named(runs)
    arguments = whole.init(KEY(0)), whole.resident(DATA), np.asarray(0, np.int32)
    results["text"] = np.asarray(whole._resident.compile(*arguments).as_text())
    for fsdp in (1, 8):
        state = make_trainer(sharding.make_mesh(fsdp=fsdp), width=512).init(KEY(0))
        held = sharding.bytes_per_device((state.parameters, state.ema, state.optimiser))
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
    return named({name: train(t, t.resident(images, labels)) for name, t in trainers.items()})


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
        assert sharding.initialise_distributed(coordinator, 2, process)
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
    else:
        outcome = on_eight_devices()
    np.savez(Path(file), **outcome)
