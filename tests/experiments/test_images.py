"""Training on images: what a run writes, and that it stops and goes on without a trace."""

import json
import os
import shutil
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from experiments import gallery, generate, train
from experiments.defaults import DEFAULTS
from experiments.log import Interval
from experiments.session import Session
from kacjax.export import load_notes
from kacjax.training import (
    NonFiniteError,
    StepMetrics,
    default_optimizer,
    learning_rate_schedule,
)
from tests.experiments.small_runs import arguments, at_step, fails, interrupted, outcome

pytestmark = pytest.mark.long


def test_a_run_fills_its_folder_and_reports(images):
    names = {path.name for path in images.out.iterdir() if not path.name.startswith(".")}
    assert names == {
        *("config.json", "metrics.json", "metrics.jsonl", "checkpoints", "tensorboard"),
        *("samples.npy", "samples.png", "velocity.safetensors"),
    }
    assert "images, kac: 30 data" in images.said
    printed = images.printed.replace(str(images.out), "")
    assert max(map(len, printed.splitlines())) < 80
    assert "patch sliced wasserstein" in printed
    samples = np.load(images.out / "samples.npy")
    assert (samples.shape, samples.dtype) == ((5, 8, 8, 3), np.uint8)
    assert Image.open(images.out / "samples.png").size[0] > 500
    rows = [json.loads(line) for line in (images.out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [4, 8, 10]
    # The warm-up is at most half of all steps: 5, and the row is of step 4, counted from 0.
    np.testing.assert_allclose([row["learning_rate"] for row in rows], [1.2e-4, 2e-4, 2e-4])
    assert sorted(path.name for path in (images.out / "checkpoints").iterdir()) == ["10", "9"]
    events = b"".join(path.read_bytes() for path in (images.out / "tensorboard").iterdir())
    for name in (b"loss_by_time/0", b"gradient_norm", b"steps_per_second", b"samples"):
        assert name in events
    metrics = json.loads((images.out / "metrics.json").read_text())
    assert metrics["nfe"] == 2
    assert metrics["parameters"] > 1000
    assert load_notes(images.out)["classes"] == ["bright", "dark"]


@pytest.mark.parametrize("step", [2, 7])
@pytest.mark.parametrize("kind", ["arrays", pytest.param("images", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_bit_for_bit(kind, step, request, tmp_path, capsys):
    run, out = request.getfixturevalue(kind), tmp_path / "run"
    interrupted(run.source, out, step)
    # What a kill may leave: rows beyond the checkpoint, and half of one.
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "loss": 1.0}\n{"step": 1, "lo')
    capsys.readouterr()
    assert train.main(arguments(run.source, out, "--resume")) == 0
    said = capsys.readouterr().err
    assert ("going on at step 6." if step == 7 else "no checkpoint yet: beginning") in said
    assert outcome(out) == outcome(run.out)


@pytest.mark.slow
def test_streams_labels_and_half_precision_go_on_too(images, tmp_path):
    flags = ["--stream", "--conditional", "--dtype", "bfloat16", "--path", "flow-matching"]
    assert train.main(arguments(images.source, tmp_path / "whole", *flags)) == 0
    interrupted(images.source, tmp_path / "run", 7, *flags)
    assert train.main(arguments(images.source, tmp_path / "run", *flags, "--resume")) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(images, tmp_path, capsys):
    out = tmp_path / "run"
    interrupted(images.source, out, 7)
    file = max((out / "checkpoints" / "6").rglob("*"), key=lambda path: path.stat().st_size)
    os.truncate(file, file.stat().st_size // 2)
    capsys.readouterr()
    assert train.main(arguments(images.source, out, "--resume")) == 0
    said = capsys.readouterr().err
    assert f"warning: checkpoint {out}/checkpoints/6 is damaged: " in said
    assert "going on at step 3." in said
    assert outcome(out) == outcome(images.out)


def test_other_images_are_refused(images, tmp_path, capsys):
    changed = arguments(images.source, images.out, "--resume", "--a", "4", "--batch-size", "8")
    said = "other flags: --a was 9.0, is 4.0; --batch-size was 4, is 8."
    fails(capsys, train, changed, said)
    # The same flags, but other images.
    other, out = tmp_path / "other", shutil.copytree(images.out, tmp_path / "run")
    other.mkdir()
    black = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    black.save(other / "black.png")
    flags = ["--resume"], ["--overwrite", "--stream"]
    for each in flags:
        fails(capsys, train, arguments(other, out, *each), "two images at least, got 1")
    for level in (60, 120, 180, 240):
        Image.fromarray(np.full((8, 8, 3), level, np.uint8)).save(other / f"{level}.png")
    fails(capsys, train, arguments(other, out, "--resume"), "not the data with which")


@pytest.mark.slow
def test_a_finished_run_is_finished_again(images, tmp_path, capsys):
    """With other samples if wanted, also in another folder than the one of its data before."""
    out = shutil.copytree(images.out, tmp_path / "run")
    moved = shutil.copytree(images.source, tmp_path / "moved")
    flags = ["--on-nonfinite", "skip", "--num-samples", "3", "--solver", "heun"]
    assert train.main(arguments(moved, out, "--resume", *flags)) == 0
    assert "patch sliced wasserstein" in capsys.readouterr().out
    values = json.loads((out / "config.json").read_text())
    assert values["sampling"]["solver"] == "heun"
    assert values["source"]["data"] == str(moved)
    assert len(np.load(out / "samples.npy")) == 3
    assert outcome(out) == outcome(images.out)


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_at_the_last_good_state(images, tmp_path, capsys):
    def fail(state):
        rows = StepMetrics(*(np.zeros((1, *rest)) for rest in ((), (), (8,), (8,), ())))
        raise NonFiniteError(state, rows._replace(loss=np.array([np.nan])))

    out = tmp_path / "run"
    with at_step(5, fail):
        words = "loss became nan", "--on-nonfinite skip"
        fails(capsys, train, arguments(images.source, out), *words)
    # A call had one step or two.
    newest = max(int(path.name) for path in (out / "checkpoints").iterdir())
    assert newest in (4, 5)
    assert train.main(arguments(images.source, out, "--resume", "--on-nonfinite", "skip")) == 0
    assert outcome(out)[:3] == outcome(images.out)[:3]


@pytest.mark.slow
def test_generate_draws_classes_with_guidance(images, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "x.npy"
    assert train.main(arguments(images.source, run, "--conditional")) == 0
    few = ["--num-samples", "4", "--solver-steps", "2", "--out", str(out)]
    flags = ["--run", str(run / "velocity.safetensors"), *few]

    def drawn(*more):
        assert generate.main([*flags, *more]) == 0
        return np.load(out).astype(int)

    both, second = drawn(), drawn("--label", "dark")
    np.testing.assert_allclose(both[1::2], second[1::2], atol=1)
    np.testing.assert_allclose(drawn("--label", "1"), second, atol=1)
    assert drawn("--label", "dark", "--guidance", "3").shape == second.shape
    # Steps of the solver start at 1 and 0.25.
    apart = drawn("--label", "dark", "--guidance", "9", "--guidance-interval", "0.4", "0.9")
    np.testing.assert_allclose(apart, second, atol=1)
    fails(capsys, generate, [*flags, "--label", "9"], "classes bright, dark; got '9'")


def test_generate_and_gallery(images, tmp_path):
    out = tmp_path / "x.npy"
    few = ["--num-samples", "3", "--solver-steps", "2", "--out", str(out)]
    assert generate.main(["--run", str(images.out), *few]) == 0
    found = np.load(out)
    assert (found.shape, found.dtype) == ((3, 8, 8, 3), np.uint8)
    assert gallery.main(["--runs", str(images.out), "--out", str(tmp_path / "gallery")]) == 0
    assert {path.name for path in (tmp_path / "gallery").iterdir()} == {"samples.png", "table.md"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--batch-size", "9", "--accumulate", "2"], ["batch_size", "8 and 10"]),
        (["--attention", "5"], ["attention", "5"]),
        (["--steps", "0"], ["--steps must be an integer of at least 1"]),
        (["--image-size", "100000"], ["--image-size must be at most"]),
        (["--keep", "0"], ["--keep"]),
        (["--fsdp", "2"], ["fsdp must divide the number of devices, 1"]),
        (["--label-dropout", "5"], ["--label-dropout must lie in [0, 1), got 5.0"]),
        (["--clip", "0"], ["--clip must lie between"]),
        (["--coordinator", "localhost:1"], ["coordinator, processes and process_id go together"]),
        (["--data", "/nowhere"], ["/nowhere"]),
    ],
)
def test_wrong_flags(flags, words, images, tmp_path, capsys):
    fails(capsys, train, [*arguments(images.source, tmp_path / "run"), *flags], *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_of_the_log_is_that_of_training(schedule):
    optimizer = default_optimizer(10, 0.25, 4, schedule=schedule)
    state, rate = optimizer.init(jnp.zeros(())), learning_rate_schedule(10, 0.25, 4, schedule)
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


def test_a_checkpoint_has_the_sums_of_its_steps_alone():
    """It is written in the background, while the next steps are added."""
    saved, metrics = [], StepMetrics(*(np.ones((1, *rest)) for rest in ((), (), (8,), (8,), ())))
    config = DEFAULTS["moons"][1]
    checkpoints = SimpleNamespace(save=lambda step, state, found: saved.append(found))
    session = SimpleNamespace(
        **{"step": 1, "_saved": 0, "config": config, "_fingerprint": "", "loss": None},
        **{"_interval": Interval(), "state": None, "_wait": lambda: None},
        **{"_checkpoints": checkpoints, "_log": None},
    )
    session._interval.add(metrics)
    Session._save(session)
    session._interval.add(metrics)
    assert saved[0]["interval"]["steps"] == 1
    assert saved[0]["interval"]["bin_sums"] == [1.0] * 8
