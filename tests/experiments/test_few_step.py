"""The commands of few steps: students and flow maps as runs that stop, go on, and are drawn from."""

import dataclasses
import json
import shutil
from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest

import kacjax
from experiments import distill, gallery, generate, train
from experiments.compare.config import (
    CompareConfig,
    EvaluationConfig,
    ModelsConfig,
    make_cells,
)
from experiments.compare.work import Work
from experiments.config import MLPConfig, NoSourceConfig, TrainingConfig
from experiments.datasets.vectors import Plane
from experiments.hosts import StopSignals
from kacjax.export import load_notes
from tests.experiments.small_runs import Killed as Ended
from tests.experiments.small_runs import arguments, at_step, fails, kill, outcome

pytestmark = pytest.mark.long

LADDER = ["--steps", "2", "1", "--teacher-steps", "4", "--training-steps", "6", "--guidance", "2"]
RARELY = ["--checkpoint-every", "2", "--log-every", "2", "--num-samples", "20"]


def distilled(run, out, *flags):
    return ["--run", str(run), *LADDER, *RARELY, "--out", str(out), *map(str, flags)]


@pytest.fixture(scope="module")
def students(_arrays_once, tmp_path_factory):
    """Two students of the small run, which learn its guidance."""
    out = tmp_path_factory.mktemp("students")
    assert distill.main(distilled(_arrays_once.out, out)) == 0
    return out


def test_students_are_runs_that_know_their_steps(students, arrays, tmp_path):
    assert {path.name for path in students.iterdir()} == {"steps-2", "steps-1"}
    for steps in (2, 1):
        run = students / f"steps-{steps}"
        assert json.loads((run / "metrics.json").read_text())["nfe"] == steps
        config = json.loads((run / "config.json").read_text())
        assert config["student"]["student_steps"] == steps
        assert config["student"]["guidance"] == {2: 2.0, 1: 1.0}[steps]
        own = {"solver": "euler", "solver_steps": steps}
        assert load_notes(run / "velocity.safetensors")["sampling"] == own
    file = tmp_path / "x.npy"
    assert generate.main(["--run", str(students / "steps-1"), "--out", str(file)]) == 0
    # One step of Euler's method in straight coordinates, and no other.
    velocity = kacjax.load_velocity(students / "steps-1" / "velocity.safetensors")
    labels = np.arange(64) % 3
    key, options = jax.random.key(1), {"solver": "euler", "labels": labels}
    wanted = kacjax.generate(velocity, velocity.path, key, (64, 3), 1, **options)
    notes = load_notes(students / "steps-1" / "velocity.safetensors")
    mean, std = np.asarray(notes["mean"]), np.asarray(notes["std"])
    np.testing.assert_allclose(np.load(file), mean + std * np.asarray(wanted), rtol=1e-5)


@pytest.mark.parametrize(("stage", "step"), [(1, 3), (2, 4)])
def test_a_killed_distillation_goes_on_bit_for_bit(stage, step, students, arrays, tmp_path):
    out = tmp_path / "students"
    if stage == 2:
        # The first one is through.
        assert distill.main([*distilled(arrays.out, out), "--steps", "2"]) == 0
    with at_step(step, kill), pytest.raises(Ended):
        distill.main(distilled(arrays.out, out, "--resume"))
    assert distill.main(distilled(arrays.out, out, "--resume")) == 0
    for name in ("steps-2", "steps-1"):
        assert outcome(out / name) == outcome(students / name)


def test_another_teacher_is_refused(arrays, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "students"
    shutil.copytree(arrays.out, run)
    with at_step(3, kill), pytest.raises(Ended):
        distill.main(distilled(run, out))
    # A run of the same flags whose network is another one.
    velocity = kacjax.load_velocity(run)
    network = jax.tree.map(
        lambda leaf: 2 * leaf if eqx.is_inexact_array(leaf) else leaf, velocity.network
    )
    file = run / "velocity.safetensors"
    kacjax.save_velocity(file, dataclasses.replace(velocity, network=network), load_notes(file))
    fails(
        capsys, distill, distilled(run, out, "--resume"), "not the data and the teacher with which"
    )


@pytest.mark.slow
def test_a_finished_student_is_asked_whether_it_is_the_same(students, arrays, tmp_path, capsys):
    """Also one that is finished: its flags, and its teacher, which is trained on here."""
    out = shutil.copytree(students, tmp_path / "students")
    first = [*distilled(arrays.out, out, "--resume"), "--steps", "2"]
    fails(capsys, distill, [*first, "--training-steps", "4"], "--steps was 6, is 4")
    assert distill.main([*first, "--training-steps", "8", "--num-samples", "30"]) == 0
    assert load_notes(out / "steps-2" / "velocity.safetensors")["step"] == 8
    assert np.load(out / "steps-2" / "samples.npy").shape == (30, 3)
    more = [*distilled(arrays.out, out, "--resume"), "--training-steps", "8"]
    fails(capsys, distill, more, "not the data and the teacher with which")


def test_a_teacher_that_is_not_finished_is_refused(arrays, tmp_path, capsys):
    run = shutil.copytree(arrays.out, tmp_path / "run")
    # One that goes on loses its results with its first new step.
    assert (run / "metrics.json").exists()
    with at_step(12, kill), pytest.raises(Ended):
        train.main(arguments(arrays.source, run, "--resume", "--steps", "40"))
    said = "must be a finished run", f"the network in {run} is of step 10 of 40"
    fails(capsys, distill, distilled(run, tmp_path / "students"), *said, "--resume")
    assert not (tmp_path / "students").exists()


def test_students_learn_from_the_data_of_their_teacher(arrays, tmp_path, monkeypatch, capsys):
    """Wherever those are now: neither another table of that name nor none is taken for them."""
    run, new, out = tmp_path / "run", tmp_path / "new", tmp_path / "students"
    table, other = (tmp_path / name / "t.csv" for name in ("old", "elsewhere"))
    for file in (table, other, new / "t.csv"):
        file.parent.mkdir()
    shutil.copy(arrays.source, table)
    other.write_text(table.read_text().replace("rose", "tulip"))
    monkeypatch.chdir(table.parent)
    flags = arguments(Path("t.csv"), run, "--steps", 2, "--checkpoint-every", 2)
    assert train.main(flags) == 0
    assert json.loads((run / "config.json").read_text())["source"]["data"] == str(table)
    monkeypatch.chdir(other.parent)
    argv = [*distilled(run, out), "--steps", "2", "--dry-run"]
    assert distill.main(argv) == 0
    shutil.move(table, new)
    fails(
        capsys, distill, argv, f"--data must say where the data of the run are now: not at {table}"
    )
    fails(capsys, distill, [*argv, "--data", "t.csv"], f"not the data of {run}", "--data")
    assert distill.main([*argv, "--data", str(new / "t.csv")]) == 0
    fails(capsys, distill, [*argv, "--data-root", "."], "--data-root does not say where arrays is")
    place = ["--runs", run, "--out", tmp_path / "gallery", "--data"]
    fails(capsys, gallery, [*place, "t.csv"], f"not the data of {run}")
    assert gallery.main([str(each) for each in (*place, new / "t.csv")]) == 0
    # Earlier versions did not say by what their data are known.
    values = json.loads((run / "config.json").read_text())
    del values["fingerprint"]
    (run / "config.json").write_text(json.dumps(values))
    assert distill.main([*argv, "--data", str(new / "t.csv")]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--steps", "3"], ("--steps must fall from --teacher-steps 4", "got 3")),
        (["--steps", "2", "2"], ("--steps must fall", "got 2 2")),
        (["--steps"], ("--steps needs at least one value",)),
        (["--steps", "0"], ("--steps must be an integer of at least 1, got 0",)),
        (["--teacher-steps", "0"], ("--teacher-steps", "at least 1")),
        (["--training-steps", "0"], ("--training-steps", "at least 1")),
        (["--guidance", "nan"], ("--guidance", "nan")),
        (["--num-samples", "0"], ("--num-samples", "at least 1")),
        (["--run", "nowhere"], ("nowhere",)),
    ],
)
def test_what_does_not_fit_is_refused(flags, words, arrays, tmp_path, capsys):
    argv = [*distilled(arrays.out, tmp_path / "students"), *flags]
    fails(capsys, distill, argv, *words)
    assert not (tmp_path / "students").exists()


@pytest.mark.slow
def test_guidance_needs_classes_and_a_file_is_no_run(arrays, tmp_path, capsys):
    plain = tmp_path / "plain"
    assert train.main(["moons", *arguments("moons", plain)[1:]]) == 0
    fails(
        capsys, distill, distilled(plain, tmp_path / "s"), "--guidance needs a run that has learned"
    )
    file = arrays.out / "velocity.safetensors"
    fails(capsys, distill, distilled(file, tmp_path / "s"), "must be the folder of a run")
    assert not (tmp_path / "s").exists()


@pytest.fixture(scope="module")
def flow_map(tmp_path_factory):
    out = tmp_path_factory.mktemp("maps") / "run"
    assert train.main(arguments("moons", out, "--objective", "lsd", "--solver-steps", "3")) == 0
    return out


def test_flow_maps_are_drawn_in_any_number_of_steps(flow_map, tmp_path, capsys):
    assert json.loads((flow_map / "metrics.json").read_text())["nfe"] == 3
    velocity, file = kacjax.load_velocity(flow_map), tmp_path / "x.npy"
    for flags, steps in (([], 4), (["--solver-steps", "2"], 2)):
        argv = ["--run", str(flow_map), "--out", str(file), "--num-samples", "7", *flags]
        assert generate.main(argv) == 0
        key = jax.random.key(1)
        drawn = kacjax.few_step.draw_flow_map(velocity, velocity.path, key, (7, 2), steps)
        np.testing.assert_allclose(np.load(file), drawn, atol=1e-5)
    argv = ["--run", str(flow_map), "--out", str(tmp_path / "y.npy")]
    fails(capsys, generate, [*argv, "--solver", "heun"], "a flow map is drawn by --solver euler")
    fails(capsys, distill, distilled(flow_map, tmp_path / "s"), "no flow map, got --objective lsd")
    assert not (tmp_path / "y.npy").exists()


def test_labels_are_learned_without_dropping_them(arrays, tmp_path):
    flags = ["--label-dropout", "0", "--solver-steps", "1"]
    assert train.main(arguments(arrays.source, tmp_path / "run", *flags)) == 0
    assert kacjax.load_velocity(tmp_path / "run").classes == 3


def small_comparison(out, **models):
    chosen = ModelsConfig(clock=("t",), **models)
    training = TrainingConfig(steps=8, batch_size=16)
    options = {"models": chosen, "seeds": 1, "checkpoints": (0.5, 1.0), "out": out}
    options["evaluation"] = EvaluationConfig(nfe=(1, 3), adaptive=(), num_samples=50)
    config = CompareConfig("moons", NoSourceConfig(), MLPConfig(8, 1), training, **options)
    config.check()
    return config


@pytest.mark.slow
def test_a_comparison_has_rows_of_students_and_flow_maps(tmp_path):
    config = small_comparison(tmp_path, maps=("lsd",), students=(2, 1), teacher_steps=4, ot=True)
    with StopSignals() as stop:
        work = Work(config, Plane("moons"), lambda line: None, stop)
        assert list(work.complete()) == [0]
    found = {
        cell.model: json.loads(cell.judgement(cell.steps[-1]).read_text()) for cell in work.cells
    }
    ways = {
        model: [(row["solver"], row["nfe"]) for row in each["rows"]]
        for model, each in found.items()
    }
    for model in ("kac-t", "diffusion", "kac-t-ot", "diffusion-ot"):
        assert ways[model] == [("ab2", 1), ("ab2", 3)]
        assert ways[f"{model}-student2"] == [("euler", 2)]
        assert ways[f"{model}-student1"] == [("euler", 1)]
    for model in ("kac-t", "diffusion"):
        assert ways[f"{model}-lsd"] == [("euler", 1), ("euler", 3)]
        assert f"{model}-ot-lsd" not in ways
    steps = {cell.model: cell.steps for cell in work.cells}
    assert steps["kac-t"] == [4, 8]
    assert steps["kac-t-student2"] == [4]


def test_what_a_teacher_learns_names_its_students_cells(tmp_path):
    one, other = (small_comparison(tmp_path, students=(2, 1), teacher_steps=n) for n in (4, 8))
    names = {cell.model: cell.folder.name for cell in make_cells(one, "")}
    changed = {cell.model: cell.folder.name for cell in make_cells(other, "")}
    assert changed["kac-t"] == names["kac-t"]
    assert changed["kac-t-student2"] != names["kac-t-student2"]
    assert changed["kac-t-student1"] != names["kac-t-student1"]
