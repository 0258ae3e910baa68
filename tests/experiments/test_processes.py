"""Runs in processes that are killed, on full disks, other devices and two at once."""

import os
import random
import resource
import signal
import socket
import time

import jax
import numpy as np
import pytest

from tests.experiments.small_runs import (
    draw_pictures,
    finished,
    outcome,
    restore,
    rows,
    start,
    wait_for,
    write_breast_cancer,
    write_table,
)

# A run that other devices or processes repeat up to rounding, and that lasts until it is stopped.
PLAIN = ["--steps", 60, "--dropout", 0]


@pytest.fixture(scope="module")
def cache(shared):
    """Programs that are compiled by processes."""
    return shared / "processes"


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """What the small runs of each kind take their data from."""
    names = "images", "arrays", "breast-cancer"
    folders = {name: tmp_path_factory.mktemp(name) for name in names}
    return {
        "images": draw_pictures(folders["images"]),
        "arrays": write_table(folders["arrays"]),
        "breast-cancer": write_breast_cancer(folders["breast-cancer"]),
        "digits": "digits",
    }


@pytest.fixture(scope="module")
def pictures(sources):
    return sources["images"]


@pytest.fixture(scope="module")
def one(pictures, cache, tmp_path_factory):
    """A plain run by one process on one device, never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "one"
    finished(start(pictures, out, *PLAIN, cache=cache))
    return out


def begin(pictures, out, *flags, cache):
    """A plain run that is stopped when it has a checkpoint or more."""
    process = start(pictures, out, *PLAIN, *flags, cache=cache)
    wait_for(out / "checkpoints" / "9", process)
    process.send_signal(signal.SIGTERM)
    finished(process, status=75)
    assert not (out / "metrics.json").exists()


def close(out, wanted):
    """Two plain runs are the same but for the order of sums over the batch."""
    a, b = restore(out), restore(wanted)
    assert a.step == b.step == 60
    for name in ("params", "ema"):
        leaves = (jax.tree.leaves(getattr(run.state, name)) for run in (a, b))
        for x, y in zip(*leaves, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)
    losses = [[row["loss"] for row in rows(run, 60)] for run in (out, wanted)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signals_from_outside(number, sources, cache, tmp_path):
    out = tmp_path / "run"
    process = start(sources["arrays"], out, "--steps", 1_000_000, cache=cache)
    wait_for(out / "checkpoints" / "3", process)
    process.send_signal(number)
    printed, said = finished(process, status=75)
    assert "Traceback" not in said
    stopped, command = printed.splitlines()[-2:]
    step = int(stopped.removeprefix("stopped at step ").split(";")[0].replace(",", ""))
    assert (out / "checkpoints" / str(step)).is_dir()
    assert command.endswith("--resume")


@pytest.mark.slow
def test_two_runs_in_one_folder(sources, cache, tmp_path):
    out, endless = tmp_path / "run", ["--steps", 1_000_000]
    first = start(sources["arrays"], out, *endless, cache=cache)
    wait_for(out / "checkpoints" / "3", first)
    for source, flag in (("moons", "--overwrite"), (sources["arrays"], "--resume")):
        flags = endless if flag == "--resume" else []
        second = start(source, out, *flags, flag, cache=cache)
        _, said = finished(second, status=2)
        assert f"process {first.pid} on " in said.splitlines()[-1]
        assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    finished(first, status=75)
    assert (out / "checkpoints").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "kills"), [("images", 20), ("breast-cancer", 10), ("digits", 10)])
def test_killed_at_random_moments(kind, kills, sources, cache, tmp_path):
    """Kill -9 from the first moment of the process on, in the middle of whatever it does."""
    draw, flags = random.Random(0), ["--steps", 400, "--keep-every", 99]
    # A checkpoint takes longer than many steps of so small a network.
    flags += [] if kind == "images" else ["--checkpoint-every", 10]
    whole, out, source = tmp_path / "whole", tmp_path / "run", sources[kind]
    finished(start(source, tmp_path / "warm", *flags, cache=cache))
    begun = time.monotonic()
    finished(start(source, whole, *flags, cache=cache))
    seconds, done, resumed = time.monotonic() - begun, 0, set()
    while done < kills:
        process = start(source, out, *flags, "--resume", cache=cache)
        # Most of the moments lie in the training, whose checkpoints come one after the other.
        time.sleep(draw.uniform(0 if done % 2 else 0.3 * seconds, 0.8 * seconds))
        if process.poll() is None:
            done += 1
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[1]
        assert "error" not in said
        resumed.update(line for line in said.splitlines() if line.startswith("going on at step"))
        if (out / "metrics.json").exists():
            # Through: once more from where the kills have not been yet.
            os.rename(out, tmp_path / f"run-{len(list(tmp_path.glob('run-*')))}")
    finished(start(source, out, *flags, "--resume", cache=cache))
    expected, samples = outcome(whole), (whole / "samples.npy").read_bytes()
    for run in (out, *tmp_path.glob("run-*")):
        assert outcome(run) == expected
        assert (run / "samples.npy").read_bytes() == samples
    assert len(resumed) >= min(4, kills - 3)


def pair(pictures, out, *flags, cache):
    """The same command in two processes, but for their numbers."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        where = f"localhost:{probe.getsockname()[1]}"
    together = ["--coordinator", where, "--processes", 2, "--process-id"]
    return [start(pictures, out, *flags, *together, i, cache=cache / str(i)) for i in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("fsdp", [1, 2])
def test_two_processes_equal_one(fsdp, one, pictures, cache, tmp_path):
    out = tmp_path / "two"
    processes = pair(pictures, out, *PLAIN, "--fsdp", fsdp, cache=cache)
    wait_for(out / "checkpoints" / "9", processes[0])
    for process in processes:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert not (out / "metrics.json").exists()
    processes = pair(pictures, out, *PLAIN, "--fsdp", fsdp, "--resume", cache=cache)
    first, second = (finished(process) for process in processes)
    assert "going on at step" in first[1]
    # JAX's transport between CPUs writes a line of its own.
    assert [line for line in second[0].splitlines() if not line.startswith("[Gloo]")] == []
    close(out, one)


@pytest.mark.slow
def test_both_processes_are_told_what_the_first_one_refuses(one, pictures, cache):
    processes = pair(pictures, one, *PLAIN, cache=cache)
    _, said = finished(processes[0], status=2)
    assert "a finished run: go on with it by --resume" in said.splitlines()[-1]
    _, said = finished(processes[1], status=2)
    assert "the first process has stopped, and says why" in said


@pytest.mark.slow
def test_a_run_goes_on_with_other_devices(one, pictures, cache, tmp_path, monkeypatch):
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
        begin(pictures, out, "--fsdp", 2, cache=cache)
    _, said = finished(start(pictures, out, *PLAIN, "--resume", cache=cache))
    assert "1 x cpu" in said
    assert "going on at step" in said
    close(out, one)


@pytest.mark.slow
def test_a_file_that_grows_too_large(one, pictures, cache, tmp_path):
    """The system refuses the next checkpoint's largest file, as a quota would."""
    out = tmp_path / "run"
    sizes = [path.stat().st_size for path in (one / "checkpoints" / "60").rglob("*")]
    process = start(pictures, out, *PLAIN, "--sample-every", 1000, cache=cache)
    wait_for(out / "checkpoints" / "9", process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (max(sizes) // 2, resource.RLIM_INFINITY))
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 2, said
    line = said.splitlines()[-1]
    assert line.startswith(f"error: cannot write a checkpoint: File too large: {out}")
    assert line.endswith("; those before it are whole.")
    # TensorStore and Orbax have a traceback for every array.
    assert "Traceback" not in said
    # Writes that end after the first one has failed may leave a folder, which is none of these.
    names = [path.name for path in (out / "checkpoints").iterdir()]
    assert all(name.isdigit() or name.endswith("-tmp") for name in names)
    _, said = finished(start(pictures, out, *PLAIN, "--resume", cache=cache))
    assert "going on at step" in said
    assert "damaged" not in said
    assert outcome(out) == outcome(one)
