"""Runs on images in processes that are killed, and in two processes at once."""

import os
import random
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tests.image_runs import draw_pictures, finished, outcome, restore, rows, start, wait_for

KILLS = 20


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Decoded images and compiled programs go to the tests' own folder."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KACJAX_CACHE", str(folder / "images"))
        yield folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.mark.slow
def test_sigterm_from_outside(pictures, cache, tmp_path):
    out = tmp_path / "run"
    process = start(pictures, out, "--steps", 100_000, cache=cache)
    wait_for(out / "checkpoints" / "3", process)
    process.send_signal(signal.SIGTERM)
    printed, said = finished(process)
    assert "Traceback" not in said
    stopped, command = printed.splitlines()[-2:]
    step = int(stopped.removeprefix("stopped at step ").split(";")[0].replace(",", ""))
    assert (out / "checkpoints" / str(step)).is_dir()
    assert command.endswith("--resume")


@pytest.mark.slow
def test_killed_at_random_moments(pictures, cache, tmp_path):
    """Kill -9 from the first moment of the process on, in the middle of whatever it does."""
    draw, flags = random.Random(0), ["--steps", 400, "--keep-every", 99]
    whole, out = tmp_path / "whole", tmp_path / "run"
    begun = time.monotonic()
    finished(start(pictures, whole, *flags, cache=cache))
    seconds, kills, resumed = time.monotonic() - begun, 0, set()
    while kills < KILLS:
        process = start(pictures, out, *flags, "--resume", cache=cache)
        time.sleep(draw.uniform(0, 0.8 * seconds))
        if process.poll() is None:
            kills += 1
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
        resumed.update(line for line in said.splitlines() if line.startswith("going on at step"))
        if (out / "metrics.json").exists():
            # Through: once more from where the kills have not been yet.
            os.rename(out, tmp_path / f"run-{kills}")
    finished(start(pictures, out, *flags, "--resume", cache=cache))
    expected = outcome(whole)
    assert outcome(out) == expected
    for earlier in tmp_path.glob("run-*"):
        assert outcome(earlier) == expected
    assert len(resumed) > 3


def pair(pictures, out, *flags, cache):
    """The same command in two processes, but for their numbers."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        where = f"localhost:{probe.getsockname()[1]}"
    together = ["--coordinator", where, "--processes", 2, "--process-id"]
    return [start(pictures, out, *flags, *together, i, cache=cache / str(i)) for i in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_two_processes_equal_one(fsdp, pictures, cache, tmp_path):
    flags = ["--steps", 60, "--dropout", 0]
    finished(start(pictures, tmp_path / "one", *flags, cache=cache))
    out = tmp_path / "two"
    processes = pair(pictures, out, *flags, "--fsdp", fsdp, cache=cache)
    wait_for(out / "checkpoints" / "9", processes[0])
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (out / "metrics.json").exists()
    processes = pair(pictures, out, *flags, "--fsdp", fsdp, "--resume", cache=cache)
    first, second = (finished(process) for process in processes)
    assert "going on at step" in first[1]
    # JAX's transport between CPUs writes a line of its own.
    assert [line for line in second[0].splitlines() if not line.startswith("[Gloo]")] == []
    one, two = restore(tmp_path / "one"), restore(out)
    assert one.step == two.step == 60
    for name in ("parameters", "ema"):
        # Sums over the batch are taken in another order.
        for x, y in zip(
            *(jax.tree.leaves(getattr(run.state, name)) for run in (one, two)), strict=True
        ):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    losses = [[row["loss"] for row in rows(run, 60)] for run in (tmp_path / "one", out)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
