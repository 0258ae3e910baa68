"""Training on images: what a run writes, and that it stops and goes on without a trace."""

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import gallery, generate, runs, train
from experiments.defaults import DEFAULTS
from experiments.images.config import (
    NAMES,
    ImageOptimizerConfig,
    differences,
    from_dict,
    to_dict,
)
from experiments.images.log import Interval
from experiments.images.session import learning_rate
from kacjax.checkpoints import manager
from kacjax.export import load_notes
from kacjax.training import NonFiniteError, StepMetrics, Trainer, default_optimizer
from tests.image_runs import arguments, draw_pictures, outcome

pytestmark = pytest.mark.usefixtures("compile_once")


@pytest.fixture(autouse=True, scope="module")
def promotion_as_users_have_it():
    """Optax's Adam does not train under strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory):
    """Decoded images go to the test's own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KACJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return draw_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def whole(compile_once, pictures, tmp_path_factory):
    """A run that was never interrupted."""
    out = tmp_path_factory.mktemp("runs") / "deep" / "whole"
    assert train.main(arguments(pictures, out)) == 0
    return out


@contextlib.contextmanager
def at_step(step, action):
    """Does something in place of the first call of the device that would go beyond a step."""
    original, done = Trainer.run, []

    def run(self, state, source, until):
        if until > step and not done:
            done.append(True)
            action(state)
        return original(self, state, source, until)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "run", run)
        yield
    assert done


class Killed(BaseException):
    """Ends a run as abruptly as can be within the process."""


def kill(state):
    raise Killed


def interrupted(pictures, out, step, *flags):
    with at_step(step, kill), pytest.raises(Killed):
        train.main(arguments(pictures, out, *flags))


def test_a_run_fills_its_folder_and_reports(pictures, tmp_path, capsys):
    out = tmp_path / "run"
    assert train.main(arguments(pictures, out)) == 0
    printed = capsys.readouterr()
    names = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.json", "metrics.json", "metrics.jsonl", "checkpoints", "tensorboard"),
        *("samples.npy", "samples.png", "velocity.safetensors"),
    }
    assert "images, kac: 30 images" in printed.err
    assert max(map(len, printed.out.replace(str(out), "").splitlines())) < 80
    assert "images per second" in printed.out
    samples = np.load(out / "samples.npy")
    assert (samples.shape, samples.dtype) == ((5, 8, 8, 3), np.uint8)
    assert Image.open(out / "samples.png").size[0] > 500
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    for row in rows:
        assert row["loss"] > 0
        assert row["gradient_norm"] > 0
        assert row["images_per_second"] > 0
        assert len(row["loss_by_time"]) == 8
    # The warm-up is at most half of all steps: 5, and the row is of step 4, counted from 0.
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [1.2e-4, 2e-4, 2e-4])
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["10", "9"]
    events = b"".join(path.read_bytes() for path in (out / "tensorboard").iterdir())
    for name in (b"loss_by_time/0", b"gradient_norm", b"images_per_second", b"samples"):
        assert name in events
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["nfe"] == 2
    assert metrics["parameters"] > 1000
    assert load_notes(out / "velocity.safetensors")["classes"] == ["bright", "dark"]


@pytest.mark.parametrize("step", [2, pytest.param(7, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(step, pictures, whole, tmp_path, capsys):
    out = tmp_path / "run"
    interrupted(pictures, out, step)
    # What a kill may leave: rows beyond the checkpoint, and half of one.
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 1, "lo')
    capsys.readouterr()
    assert train.main(arguments(pictures, out, "--resume")) == 0
    said = capsys.readouterr().err
    assert ("going on at step 6." if step == 7 else "no whole checkpoint: beginning") in said
    assert outcome(out) == outcome(whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "step"),
    [
        (signal.SIGTERM, 4),
        # The last call: what comes after it is left to the next command.
        (signal.SIGTERM, 9),
        (signal.SIGINT, 4),
    ],
)
def test_signals_save_and_say_how_to_go_on(number, step, pictures, whole, tmp_path, capfd):
    out = tmp_path / "run"
    with at_step(step, lambda state: signal.raise_signal(number)):
        assert train.main(arguments(pictures, out)) == 0
    printed = capfd.readouterr()
    assert "stopping after this call" in printed.err
    *_, said, command = printed.out.splitlines()
    assert said.startswith("stopped at step ")
    assert not (out / "metrics.json").exists()
    assert command.split()[:3] == ["python", "-m", "experiments.train"]
    assert train.main(command.split()[3:]) == 0
    assert outcome(out) == outcome(whole)


def test_a_second_signal_stops_at_once(pictures, tmp_path, capfd):
    def twice(state):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with at_step(4, twice):
        assert train.main(arguments(pictures, tmp_path / "run")) == 130
    assert "--resume goes on from the newest checkpoint" in capfd.readouterr().err


def test_signals_after_the_last_checkpoint_act_as_usual(
    pictures, whole, tmp_path, capfd, monkeypatch
):
    """On a finished run, which has only its samples to draw."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)

    def finish(session):
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("experiments.images.train.finish", finish)
    # Shells start background jobs with SIGINT ignored, and these tests with them.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert train.main(arguments(pictures, out, "--resume")) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    said = capfd.readouterr().err
    assert "--resume goes on from the newest checkpoint" in said
    assert "stopping after" not in said


@pytest.mark.slow
def test_streams_labels_and_half_precision_go_on_too(pictures, tmp_path):
    flags = ["--stream", "--conditional", "--dtype", "bfloat16", "--path", "flow-matching"]
    assert train.main(arguments(pictures, tmp_path / "whole", *flags)) == 0
    interrupted(pictures, tmp_path / "run", 7, *flags)
    assert train.main(arguments(pictures, tmp_path / "run", *flags, "--resume")) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(pictures, whole, tmp_path, capsys):
    out = tmp_path / "run"
    interrupted(pictures, out, 7)
    file = max((out / "checkpoints" / "6").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)
    capsys.readouterr()
    assert train.main(arguments(pictures, out, "--resume")) == 0
    said = capsys.readouterr().err
    assert f"warning: checkpoint {out}/checkpoints/6 is damaged: " in said
    assert "going on at step 3." in said
    assert outcome(out) == outcome(whole)


def fails(capsys, argv, *words, status=2):
    capsys.readouterr()
    assert train.main(argv) == status
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    for word in words:
        assert word in line


def test_other_flags_are_refused_with_the_difference(pictures, whole, tmp_path, capsys):
    changed = arguments(pictures, whole, "--resume", "--a", "4", "--batch-size", "8")
    fails(capsys, changed, "other flags: --a was 9.0, is 4.0; --batch-size was 4, is 8.")
    assert "--on-nonfinite" not in capsys.readouterr().err
    # The same flags, but other images.
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(other / "black.png")
    fails(capsys, arguments(other, whole, "--resume"), "not the images with which")


@pytest.mark.slow
def test_a_finished_run_is_finished_again(pictures, whole, tmp_path, capsys):
    """With other samples if wanted, and also one from before there were all flags for them."""
    out = tmp_path / "run"
    shutil.copytree(whole, out)
    values = json.loads((out / "config.json").read_text())
    del values["sampling"]["grid_power"], values["sampling"]["tolerance"]
    (out / "config.json").write_text(json.dumps(values))
    flags = ["--on-nonfinite", "skip", "--num-samples", "3", "--solver", "heun"]
    assert train.main(arguments(pictures, out, "--resume", *flags)) == 0
    assert "images per second" in capsys.readouterr().out
    assert outcome(out) == outcome(whole)
    assert len(np.load(out / "samples.npy")) == 3
    assert json.loads((out / "config.json").read_text())["sampling"]["grid_power"] == 2


def test_what_would_be_lost_is_refused(pictures, whole, tmp_path, capsys):
    fails(capsys, arguments(pictures, whole), "another run", "--overwrite")
    fails(capsys, arguments(pictures, whole, "--resume", "--overwrite"), "exclude each other")
    (tmp_path / "thesis.tex").write_text("years of work")
    fails(capsys, arguments(pictures, tmp_path, "--resume"), "not a run")
    with runs.locked(whole):
        fails(capsys, arguments(pictures, whole, "--resume"), f"process {os.getpid()} on ")


@pytest.mark.slow
def test_overwrite_begins_anew(pictures, whole, tmp_path):
    out = tmp_path / "run"
    interrupted(pictures, out, 4, "--seed", 1)
    (out / "notes.txt").write_text("mine")
    assert train.main(arguments(pictures, out, "--overwrite")) == 0
    assert outcome(out) == outcome(whole)
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.slow
def test_full_disk(pictures, whole, tmp_path, capsys, monkeypatch):
    out, original = tmp_path / "run", manager.write_digests

    def fail(folder):
        if folder.name.startswith("6."):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        original(folder)

    monkeypatch.setattr(manager, "write_digests", fail)
    fails(capsys, arguments(pictures, out), "No space left on device", "before it are whole")
    assert [path.name for path in (out / "checkpoints").iterdir()] == ["3"]
    monkeypatch.undo()
    assert train.main(arguments(pictures, out, "--resume")) == 0
    assert outcome(out) == outcome(whole)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_at_the_last_good_state(pictures, whole, tmp_path, capsys):
    def fail(state):
        rows = StepMetrics(*(np.zeros((1, *rest)) for rest in ((), (), (8,), (8,), ())))
        raise NonFiniteError(state, rows._replace(loss=np.array([np.nan])))

    out = tmp_path / "run"
    with at_step(5, fail):
        fails(capsys, arguments(pictures, out), "loss became nan", "--on-nonfinite skip")
    assert train.main(arguments(pictures, out, "--resume", "--on-nonfinite", "skip")) == 0
    assert outcome(out)[:3] == outcome(whole)[:3]


@pytest.mark.slow
def test_generate_draws_classes_with_guidance(pictures, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "x.npy"
    assert train.main(arguments(pictures, run, "--conditional")) == 0
    flags = ["--run", str(run / "velocity.safetensors"), "--num", "4", "--steps", "2"]

    def images(*more):
        assert generate.main([*flags, "--out", str(out), *more]) == 0
        return np.load(out).astype(int)

    both, second = images(), images("--label", "1")
    np.testing.assert_allclose(both[1::2], second[1::2], atol=1)
    assert images("--label", "1", "--guidance", "3").shape == second.shape
    within = images("--label", "1", "--guidance", "9", "--guidance-interval", "2", "3")
    np.testing.assert_allclose(within, second, atol=1)
    capsys.readouterr()
    for more, words in (
        (["--label", "9"], ["labels must lie in 0..2 (2: no class)", "9"]),
        (["--guidance", "2", "--guidance-interval", "1", "0"], ["interval"]),
        (["--guidance-interval", "0", "1"], ["--guidance-interval needs a --guidance", "got 1"]),
    ):
        assert generate.main([*flags, "--out", str(out), *more]) == 2
        error = capsys.readouterr().err
        assert all(word in error for word in words)


def test_generate_and_gallery(pictures, whole, tmp_path, capsys):
    out = tmp_path / "x.npy"
    flags = ["--run", str(whole), "--num", "3", "--steps", "2", "--out", str(out)]
    assert generate.main(flags) == 0
    images = np.load(out)
    assert (images.shape, images.dtype) == ((3, 8, 8, 3), np.uint8)
    assert gallery.main(["--runs", str(whole), "--out", str(tmp_path / "gallery")]) == 0
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {"samples.png", "table.md"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "9", "--accumulate", "2"], ["batch_size", "8 and 10"]),
        (["--attention", "5"], ["attention", "5"]),
        (["--steps", "0"], ["--steps must be an integer of at least 1"]),
        (["--keep", "0"], ["--keep"]),
        (["--fsdp", "2"], ["fsdp must divide the number of devices, 1"]),
        (["--label-dropout", "5"], ["--label-dropout must lie in [0, 1), got 5.0"]),
        (["--ema-decay", "1"], ["--ema-decay must lie in [0, 1), got 1"]),
        (["--clip", "0"], ["--clip must be positive"]),
        (["--coordinator", "localhost:1"], ["coordinator, processes and process_id go together"]),
        (["--data", "/nowhere"], ["/nowhere"]),
        (["--signal", "exponential"], ["does not vanish"]),
    ],
)
def test_wrong_flags(flags, words, pictures, tmp_path, capsys):
    fails(capsys, [*arguments(pictures, tmp_path / "run"), *flags], *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_configurations_survive_their_file(name, tmp_path):
    config = DEFAULTS[name][1]
    if name == "images":
        config = dataclasses.replace(
            config, source=dataclasses.replace(config.source, data=tmp_path)
        )
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(values) == config
    assert differences(values, to_dict(config)) == []
    other = json.loads(json.dumps(values))
    other["training"]["steps"] = 7
    del other["network"]["dropout"], other["sampling"]["grid_power"]
    steps = config.training.steps
    said = ["--dropout was missing, is null", f"--steps was 7, is {steps}"]
    assert sorted(differences(other, values)) == said


def test_defaults_are_the_papers():
    config = DEFAULTS["cifar10"][1]
    training = config.training
    assert (training.steps, training.batch_size, training.learning_rate) == (400_000, 128, 2e-4)
    assert (training.ema_decay, training.clip, config.network.size) == (0.9999, 1.0, "cifar10")
    assert config.source.flip
    assert not DEFAULTS["mnist"][1].source.flip


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_of_the_log_is_that_of_training(schedule):
    options = ImageOptimizerConfig(steps=10, warmup=4, schedule=schedule, learning_rate=0.25)
    optimizer = default_optimizer(10, 0.25, 4, schedule=schedule)
    state, rate = optimizer.init(jnp.zeros(())), learning_rate(options)
    for step in range(10):
        # Of a constant gradient Adam makes the rate itself.
        update, state = optimizer.update(jnp.ones(()), state)
        np.testing.assert_allclose(rate(step), -update, rtol=1e-5, atol=1e-8)


def test_rows_do_not_depend_on_where_a_run_stopped():
    random = np.random.default_rng(0)
    metrics = StepMetrics(
        random.random(9, np.float32),
        random.random(9, np.float32),
        random.random((9, 8), np.float32),
        random.integers(0, 3, (9, 8)).astype(np.float32),
        np.arange(9) != 4,
    )
    metrics.loss[4] = np.nan
    at_once, apart = Interval(), Interval()
    at_once.add(metrics)
    for i in range(9):
        apart = Interval(json.loads(json.dumps(apart.sums)))
        apart.add(jax.tree.map(lambda rows, i=i: rows[i : i + 1], metrics))
    row = at_once.row()
    assert apart.row() == row
    assert row["skipped"] == 1
    np.testing.assert_allclose(row["loss"], np.nanmean(metrics.loss.astype(float)))
    assert Interval().row()["loss"] is None
