"""Meshes: the same run on any devices, less memory where the state is split, clear refusals."""

import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

import kacjax
from kacjax import sharding
from tests import compilation, sharding_worker
from tests.sharding_worker import BATCH, DIM


def start(tmp_path, name, *arguments, devices=1):
    """Starts a worker; its results will lie in the file that is returned."""
    file = tmp_path / f"{name}.npz"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}{compilation.FLAGS}",
    }
    command = [sys.executable, "-m", "tests.sharding_worker", str(file), *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=environment, **pipes), file


def finish(worker, file):
    try:
        printed, _ = worker.communicate(timeout=600)
    finally:
        worker.kill()
    assert worker.returncode == 0, printed
    return dict(np.load(file))


@pytest.fixture(scope="module")
def single():
    """The run on one device."""
    with jax.numpy_dtype_promotion("standard"):
        return sharding_worker.train(sharding_worker.make_trainer())


def agree(results, name, single):
    """Losses, norms and parameters equal those of one device to 1e-5."""
    for key in ("losses", "norms"):
        np.testing.assert_allclose(results[f"{name}/{key}"], single[key], rtol=1e-5)
    for key in ("parameters", "ema"):
        np.testing.assert_allclose(results[f"{name}/{key}"], single[key], rtol=0, atol=1e-5)


@pytest.mark.long
def test_eight_devices_train_as_one(tmp_path, single):
    """One test, for there is one worker: tests that share it may run in several processes."""
    eight = finish(*start(tmp_path, "eight", "perceptron", devices=8))
    for name in ("8x1", "1x8", "stream", "own"):
        agree(eight, name, single)
    assert eight["own/bytes"] == eight["stream/bytes"]
    agree(eight, "ot", {key: eight[f"ot alone/{key}"] for key in single})
    assert np.all(eight["ot/losses"] != single["losses"])
    a_split_state_takes_its_share_of_memory(eight, single)
    noise_is_made_in_parts(str(eight["text"]))
    batches_are_refused_with_the_nearest_sizes(*map(str, eight["errors"]))


def a_split_state_takes_its_share_of_memory(eight, single):
    assert eight["8x1/bytes"] == single["bytes"]
    assert eight["1x8/bytes"] < eight["stream/bytes"] < single["bytes"] / 2
    # Vectors stay whole: with layers of 512 units they are 2 % of the state.
    assert 7 < eight["wide/1"] / eight["wide/8"] <= 8


def noise_is_made_in_parts(text):
    """No array of the whole batch's size is in the program of a device."""
    assert f"f32[{BATCH // 8},{DIM}]" in text
    assert f"f32[{BATCH},{DIM}]" not in text
    assert f"u32[{BATCH},{DIM}]" not in text


def batches_are_refused_with_the_nearest_sizes(odd, small, micro):
    assert "multiple of 8 (devices), got 49; the nearest are 48 and 56" in odd
    assert "got 3; the nearest is 8" in small
    assert "multiple of 32 (8 devices times 4 micro-batches), got 48" in micro
    assert "the nearest are 32 and 64" in micro


@pytest.mark.slow
def test_a_network_of_convolutions_trains_as_on_one_device(tmp_path):
    results = finish(*start(tmp_path, "unet", "unet", devices=8))
    single = {key[2:]: value for key, value in results.items() if key.startswith("1/")}
    for name in ("8x1", "1x8"):
        agree(results, name, single)
    assert 5 < single["bytes"] / results["1x8/bytes"] <= 8


@pytest.mark.slow
def test_students_and_flow_maps_are_trained_as_on_one_device(tmp_path):
    results = finish(*start(tmp_path, "few", "few steps", devices=8))
    for kind in ("student", "map"):
        own = f"{kind} 1/"
        single = {key[len(own) :]: x for key, x in results.items() if key.startswith(own)}
        for name in ("8x1", "1x8"):
            agree(results, f"{kind} {name}", single)
        assert results[f"{kind} 1x8/bytes"] < single["bytes"] / 2


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, single):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    workers = [start(tmp_path, f"process{i}", "perceptron", coordinator, i) for i in range(2)]
    for worker in workers:
        results = finish(*worker)
        agree(results, "split", single)
        agree(results, "stream", single)
        assert results["split/bytes"] < 0.75 * single["bytes"]
        assert results["stream/bytes"] == single["bytes"]


def test_a_mesh_uses_all_devices():
    mesh = sharding.make_mesh()
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1}
    with pytest.raises(ValueError, match="fsdp must divide the number of devices, 1; got 2"):
        sharding.make_mesh(fsdp=2)
    with pytest.raises(ValueError, match=r"data \* fsdp must be the number of devices, 1; got 3"):
        sharding.make_mesh(data=3)


def test_what_is_no_mesh_is_refused(without_hook):
    network = jax.tree_util.Partial(lambda p, t, x: p * x, np.ones(2, np.float32))
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh, got \["):
        kacjax.Trainer(network, kacjax.kac_path(), mesh=jax.devices())
    field, key = (lambda t, x: x), jax.random.key(0)
    with pytest.raises(ValueError, match=r"mesh must be a jax\.sharding\.Mesh, got \["):
        kacjax.generate(field, kacjax.kac_path(), key, (2, 1), 2, mesh=jax.devices())


def test_what_jax_finds_decides(monkeypatch):
    calls, found = [], [ValueError("coordinator_address should be defined.")]

    def initialize(*given, initialization_timeout):
        assert initialization_timeout == 300
        calls.append(given)
        if not given and found:
            raise found.pop()

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    assert not sharding.initialize_distributed(processes=1)
    assert calls == []
    # A process that is alone is left alone; one that is found to be one of several is not.
    assert not sharding.initialize_distributed()
    sharding.initialize_distributed()
    assert calls == [(), ()]
    sharding.initialize_distributed("host:1", 4, 3)
    assert calls[2:] == [("host:1", 4, 3)]


@pytest.mark.long
def test_a_process_without_others_starts_alone():
    program = "from kacjax import sharding; print(sharding.initialize_distributed())"
    slurm = ("SLURM", "OMPI", "KUBERNETES", "TPU")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(slurm)}
    environment |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("host:1", None, 0),
            "coordinator, processes and process_id go together, got host:1, None",
        ),
        ((None, 2, None), "go together, got None, 2 and None"),
        (("host:1", 2, 2), "process_id must lie in 0 to 1, got 2"),
        (("host:1", 0, 0), "processes must be an integer of at least 1, got 0"),
    ],
)
def test_processes_that_are_half_described(arguments, message):
    with pytest.raises(ValueError, match=message):
        sharding.initialize_distributed(*arguments)


def test_one_task_of_a_larger_job_is_alone(monkeypatch, caplog):
    """JAX would wait for the job's other tasks, which this step of Slurm does not have."""
    slurm = {"JOB_ID": "1", "NTASKS": "4", "STEP_NODELIST": "localhost", "PROCID": "0"}
    for name, value in {**slurm, "LOCALID": "0", "STEP_NUM_TASKS": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **options: asked.append(options))
    assert not sharding.initialize_distributed()
    assert asked == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert not sharding.initialize_distributed(timeout=7)
    assert asked == [{"initialization_timeout": 7}]
    assert "waiting up to 7 s for the other processes (SLURM_NTASKS=4)" in caplog.text
