"""Small runs on images, in this process and in others, and what of them must be equal."""

import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from experiments.images.data import load
from experiments.images.log import read_rows
from experiments.images.train import make_trainer
from experiments.runs import load_config
from kacjax.checkpoints import Checkpoints
from tests import compilation

STEPS = 10
# The smallest network with everything in it, and a run with all of its events.
QUICK = [
    *("--size", "tiny", "--channels", "8", "--head-channels", "8", "--multipliers", "1"),
    *("--image-size", "8", "--batch-size", "4", "--steps", str(STEPS), "--dropout", "0.2"),
    *("--log-every", "4", "--checkpoint-every", "3", "--sample-every", "6", "--keep", "2"),
    *("--num-samples", "5", "--solver-steps", "2"),
]


def draw_pictures(folder: Path) -> Path:
    """Fills a folder with 30 colored images in two classes."""
    random = np.random.default_rng(0)
    for i in range(30):
        file = folder / ("bright" if i % 2 else "dark") / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        low = 128 * (i % 2)
        Image.fromarray(random.integers(low, low + 128, (8, 8, 3), np.uint8)).save(file)
    return folder


def arguments(pictures: Path, out: Path, *flags: object) -> list[str]:
    """The command line of a small run."""
    return ["images", "--data", str(pictures), *QUICK, "--out", str(out), *map(str, flags)]


def start(pictures: Path, out: Path, *flags: object, cache: Path | str) -> subprocess.Popen:
    """Begins a small run in another process, which compiles quickly, and once."""
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + compilation.FLAGS,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.train", *arguments(pictures, out, *flags)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def wait_for(path: Path, process: subprocess.Popen) -> None:
    """Waits until a run has made a file or folder."""
    while not path.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def finished(process: subprocess.Popen) -> tuple[str, str]:
    """What a run printed, which must have ended well."""
    printed, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return printed, said


def restore(folder: Path):
    """The newest checkpoint of a run."""
    config = load_config(folder)
    trainer = make_trainer(config, load(config, first=False), None)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        found = checkpoints.restore(trainer.abstract_state())
    assert found is not None
    return found


def rows(folder: Path, step: int):
    """The log but for what the clock says."""
    return [
        {name: value for name, value in row.items() if name != "images_per_second"}
        for row in read_rows(folder / "metrics.jsonl", step)
    ]


def outcome(folder: Path):
    """All that must not depend on interruptions: the state bit for bit, the log, the network."""
    step, state, description = restore(folder)
    data = jax.tree.map(np.asarray, state._replace(key=jax.random.key_data(state.key)))
    leaves = [(leaf.dtype, leaf.shape, leaf.tobytes()) for leaf in jax.tree.leaves(data)]
    network = (folder / "velocity.safetensors").read_bytes()
    return step, leaves, rows(folder, step), description["interval"], network
