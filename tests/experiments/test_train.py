"""The commands: what they write, what they print, and how they refuse."""

import dataclasses
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import kacjax
from experiments import __main__ as everything
from experiments import command, features, gallery, generate, process, runs, train
from experiments.command import UserError
from experiments.config import DATA, PathConfig, SamplingConfig, differences, from_dict, to_dict
from experiments.defaults import DEFAULTS
from experiments.sampling import draw
from kacjax import data
from kacjax.export import load_notes
from tests.experiments.small_runs import SPECIES, arguments, fails, outcome, state_of

RUN_FILES = {
    *("config.json", "metrics.json", "metrics.jsonl", "checkpoints", "tensorboard"),
    *("velocity.safetensors", "samples.npy", "samples.png"),
}


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def names_in(folder):
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.long
def test_a_run_fills_its_folder_and_reports(arrays):
    assert names_in(arrays.out) == RUN_FILES | {"marginals.png"}
    metrics = json.loads((arrays.out / "metrics.json").read_text())
    assert metrics["nfe"] == 2
    assert metrics["loss"] == rows_of(arrays.out)[-1]["loss"]
    assert metrics["steps_per_second"] > 0
    assert 0 <= metrics["quality"]["two_sample_accuracy"] <= 1
    assert metrics["versions"]["jax"]
    config = json.loads((arrays.out / "config.json").read_text())
    assert config["training"]["steps"] == 10
    # Because it has labels.
    assert config["network"]["conditional"] is True
    assert config["model"] == dataclasses.asdict(PathConfig())
    assert "arrays, kac: 81 data" in arrays.said
    assert "two sample accuracy" in arrays.printed
    assert f"{arrays.out}/\n" in arrays.printed
    assert max(map(len, arrays.printed.replace(str(arrays.out), "").splitlines())) < 80


def test_rows_of_the_log(arrays):
    rows = rows_of(arrays.out)
    assert [row["step"] for row in rows] == [4, 8, 10]
    for row in rows:
        assert row["loss"] > 0
        assert row["gradient_norm"] > 0
        assert row["steps_per_second"] > 0
        assert len(row["loss_by_time"]) == 8
    assert sorted(path.name for path in (arrays.out / "checkpoints").iterdir()) == ["10", "9"]
    events = b"".join(path.read_bytes() for path in (arrays.out / "tensorboard").iterdir())
    for name in (b"loss_by_time/0", b"gradient_norm", b"steps_per_second"):
        assert name in events


@pytest.mark.long
def test_samples_are_in_the_units_of_the_file(arrays, tmp_path):
    """Those of the run, and those that its velocity's file alone gives."""
    table = np.loadtxt(arrays.source, delimiter=",", skiprows=1, usecols=(0, 1, 3))
    alone = shutil.copy(arrays.out / "velocity.safetensors", tmp_path / "alone.safetensors")
    flags = ["--num-samples", "40", "--solver-steps", "4", "--out", str(tmp_path / "x.npy")]
    found = []
    for source in (alone, arrays.out):
        assert generate.main(["--run", str(source), *flags]) == 0
        found.append(np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(*found)
    for samples in (found[0], np.load(arrays.out / "samples.npy")):
        # The network has not learned anything yet but the scale.
        standard = (samples - table.mean(axis=0)) / table.std(axis=0)
        assert np.abs(standard).max() < 3
    assert load_notes(alone)["classes"] == list(SPECIES)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images of numbers", "named arrays"])
def test_arrays_of_any_shape_train(kind, tmp_path):
    random, shape = np.random.default_rng(0), (60, 3, 4)
    values = 50 + 5 * random.normal(size=shape)
    if kind == "named arrays":
        file, labels = tmp_path / "x.npz", random.integers(0, 3, 60)
        np.savez(file, values=values, kind=labels)
        flags = ["--labels", "kind"]
    else:
        file, flags = tmp_path / "x.npy", []
        np.save(file, values)
    out, few = tmp_path / "run", arguments("arrays", tmp_path / "run")[1:]
    assert train.main(["arrays", "--data", str(file), *flags, *few]) == 0
    for samples in (tmp_path / "new.npy", out / "samples.npy"):
        if not samples.exists():
            network = str(out / "velocity.safetensors")
            assert generate.main(["--run", network, "--out", str(samples)]) == 0
        found = np.load(samples)
        assert found.shape[1:] == (3, 4)
        assert 30 < found.mean() < 70


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "grid2d"])
def test_runs_in_the_default_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = arguments(name, tmp_path)[:-2]
    assert train.main([*flags, "--path", "flow-matching", "--num-samples", "120"]) == 0
    folder = tmp_path / "runs" / f"{name}-flow-matching"
    samples = np.load(folder / "samples.npy")
    quality = json.loads((folder / "metrics.json").read_text())["quality"]
    assert f"runs/{name}-flow-matching/\n" in capsys.readouterr().out
    if name == "digits":
        assert names_in(folder) == RUN_FILES
        assert samples.shape == (120, 64)
        assert np.abs(samples).max() <= 1
        assert quality["confidence_of_held_out"] > 0.9
    else:
        assert names_in(folder) == RUN_FILES | {"zoom.png", "trajectories.png"}
        assert samples.shape == (120, 2)
        assert 0 <= quality["mode_total_variation"] <= 1


@pytest.mark.slow
def test_more_steps_go_on_from_the_end(arrays, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(arrays.out, out)
    assert train.main(arguments(arrays.source, out, "--resume", "--steps", 14)) == 0
    assert "going on at step 10." in capsys.readouterr().err
    assert [row["step"] for row in rows_of(out)] == [4, 8, 10, 12, 14]
    assert rows_of(out)[:3] == rows_of(arrays.out)
    assert load_notes(out / "velocity.safetensors")["step"] == 14
    assert runs.load_config(out).training.steps == 14
    # As a whole, and not once more.
    assert train.main(arguments(arrays.source, out, "--resume", "--steps", 14)) == 0
    assert outcome(out)[0] == 14


def test_fewer_steps_are_refused(arrays, capsys):
    argv = arguments(arrays.source, arrays.out, "--resume", "--steps", 6)
    fails(capsys, train, argv, "other flags: --steps was 10, is 6")
    flags = json.loads((arrays.out / "config.json").read_text())
    for steps, said in ((9, ["--steps was 10, is 9"]), (11, [])):
        other = {**flags, "training": {**flags["training"], "steps": steps}}
        assert differences(flags, other) == said


@pytest.mark.long
def test_dry_run_touches_nothing(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    flags = arguments(arrays.source, tmp_path)[:-2]
    assert train.main([*flags, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    settings, table = printed.split("\n}\n")
    assert json.loads(settings + "}")["training"]["steps"] == 10
    rows = dict(line.rsplit(maxsplit=1) for line in table.splitlines()[2:-1])
    assert "runs/arrays-kac: nothing was written" in table
    velocity = kacjax.load_velocity(arrays.out / "velocity.safetensors")
    count = sum(leaf.size for leaf in jax.tree.leaves(velocity) if isinstance(leaf, jax.Array))
    assert 0.5 * count < int(rows["parameters"]) <= count
    assert rows["training data"] == "81"
    assert 0 < float(rows["GiB of memory, at least"]) < 0.1
    assert 0 < float(rows["minutes of training"]) < 10
    # Neither does it mind what is there.
    assert train.main(arguments(arrays.source, arrays.out, "--dry-run")) == 0


@pytest.mark.long
def test_generate_is_reproducible_and_follows_its_flags(arrays, tmp_path):
    def samples(*flags):
        out = tmp_path / "new" / "samples.npy"
        common = ["--num-samples", "7", "--solver-steps", "4", "--out", str(out)]
        assert generate.main(["--run", str(arrays.out), *common, *flags]) == 0
        return np.load(out)

    first = samples("--seed", "3")
    assert first.shape == (7, 3)
    np.testing.assert_array_equal(samples("--seed", "3"), first)
    assert not np.array_equal(samples("--seed", "4"), first)
    assert not np.array_equal(samples("--seed", "3", "--grid-power", "1"), first)
    # The classes are drawn in turn, by name or number.
    roses = samples("--seed", "3", "--label", "rose")
    np.testing.assert_allclose(roses[2::3], first[2::3], rtol=1e-4)
    assert not np.allclose(roses[0], first[0], rtol=1e-4)
    np.testing.assert_array_equal(samples("--seed", "3", "--label", "2"), roses)
    two = samples("--seed", "3", "--label", "rose", "iris")
    np.testing.assert_allclose(two[::2], roses[::2], rtol=1e-4)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.npy"]


def test_classes_are_named_as_the_data_name_them():
    numbers = ["0", "1", "2", "10", "11"]
    assert [generate._number(name, numbers) for name in numbers] == list(range(5))
    assert generate._number("1", ["bright", "dark"]) == 1
    for name, names in (("3", numbers), ("2", ["bright", "dark"]), ("-1", numbers), ("", numbers)):
        with pytest.raises(UserError, match=f"one of the classes {names[0]}, {names[1]}"):
            generate._number(name, names)


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--solver heun", "--solver dopri5 --tolerance 0.1"])
def test_solvers_of_generate_are_those_asked_for(flags, arrays, tmp_path):
    out = tmp_path / "samples.npy"
    found = []
    for solver in ([], flags.split()):
        few = ["--num-samples", "7", "--solver-steps", "4", "--out", str(out)]
        assert generate.main(["--run", str(arrays.out), *few, *solver]) == 0
        found.append(np.load(out))
    assert not np.array_equal(*found)
    chunks = ["--run", str(arrays.out), *few, *solver, "--chunk-size", "3"]
    assert generate.main(chunks) == 0
    np.testing.assert_allclose(np.load(out), found[1], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--chunk-size", "70"]])
def test_animations_end_in_the_samples(flags, arrays, tmp_path, monkeypatch):
    """With adaptive steps too, which are chosen for each sample."""
    shown, files = [], []

    def keep(file, trajectory, *arguments, **options):
        files.append(file)
        shown.append(trajectory)
        file.touch()

    monkeypatch.setattr("kacjax.plots.trajectory_gif", keep)
    out, gif = tmp_path / "x.npy", tmp_path / "x.gif"
    few = ["--num-samples", "80", "--solver", "tsit5", "--solver-steps", "3", "--tolerance", "1e-5"]
    flags = ["--run", str(arrays.out), *few, *flags, "--out", str(out), "--gif", str(gif)]
    assert generate.main(flags) == 0
    notes = load_notes(arrays.out / "velocity.safetensors")
    samples = np.load(out)
    mean, std = (np.array(notes[name]) for name in ("mean", "std"))
    assert shown[0].shape == (4, 64, 3)
    np.testing.assert_allclose(shown[0][-1], (samples[:64] - mean) / std, atol=2e-4)
    assert files[0].suffix == ".gif"


def test_an_animation_that_cannot_be_written_leaves_nothing(arrays, tmp_path, monkeypatch, capsys):
    def fail(file, *arguments, **options):
        file.write_bytes(b"GIF89a")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kacjax.plots.trajectory_gif", fail)
    monkeypatch.setattr(generate, "draw_trajectory", lambda *given: (np.zeros(0), np.zeros(0)))
    out, gif = tmp_path / "x.npy", tmp_path / "x.gif"
    few = ["--num-samples", "7", "--solver-steps", "4", "--out", out, "--gif", gif]
    said = f"cannot write {gif}: No space left on device"
    fails(capsys, generate, ["--run", arrays.out, *few], said)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["diffusion", "kac", "flow-matching", "vp", "edm"])
def test_runs_generate_with_the_defaults_of_the_library(path, tmp_path, capsys):
    """What `train` and `generate` make by default is what the library's default makes."""
    run, out, gif = tmp_path / "run", tmp_path / "x.npy", tmp_path / "x.gif"
    assert train.main(arguments("moons", run, "--path", path)) == 0
    few = ["--num-samples", "6", "--solver-steps", "4", "--seed", "5"]
    flags = ["--run", str(run), *few, "--out", str(out), "--gif", str(gif)]
    assert generate.main(flags) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [str(out), str(gif)]
    velocity = kacjax.load_velocity(run / "velocity.safetensors")
    wanted = kacjax.generate(velocity, velocity.path, jax.random.key(5), (6, 2), 4)
    np.testing.assert_allclose(np.load(out), wanted, atol=1e-6)
    sampling = SamplingConfig(6, solver_steps=4)
    drawn, nfe = draw(velocity, jax.random.key(5), 6, (2,), sampling)
    np.testing.assert_allclose(drawn, wanted, atol=1e-6)
    assert nfe == 4
    with Image.open(gif) as animation:
        assert animation.n_frames >= 5


def test_gallery_sets_runs_side_by_side(arrays, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "gallery"
    other.mkdir()
    for name in ("config.json", "metrics.json", "samples.npy"):
        shutil.copy(arrays.out / name, other)
    values = json.loads((other / "config.json").read_text())
    values["model"]["path"] = "diffusion"
    (other / "config.json").write_text(json.dumps(values))
    assert gallery.main(["--runs", str(arrays.out), str(other), "--out", str(out)]) == 0
    assert names_in(out) == {"samples.png", "marginals.png", "table.md"}
    table = (out / "table.md").read_text()
    assert table.startswith("|  | Kac flow | diffusion |\n| --- | ---: | ---: |\n| nfe | 2 | 2 |")
    assert table in capsys.readouterr().out

    fails(capsys, gallery, ["--runs", arrays.out, arrays.out], "different models")
    fails(capsys, gallery, ["--runs", tmp_path / "none"], "no run folder")
    np.save(other / "samples.npy", np.zeros((4, 7)))
    fails(capsys, gallery, ["--runs", other, "--out", out], "cannot be drawn")
    (other / "metrics.json").write_text("{")
    fails(capsys, gallery, ["--runs", other, "--out", out], "metrics.json cannot be read")
    (other / "metrics.json").write_text('{"nfe": 2, "loss": "small", "quality": {}}')
    fails(capsys, gallery, ["--runs", other, "--out", out], "metrics.json is damaged")


@pytest.mark.slow
def test_process_draws(tmp_path, capsys):
    assert process.main(["--a", "4", "--c", "2", "--T", "0.5", "--out", str(tmp_path)]) == 0
    names = {"paths.png", "density.png", "velocity.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize("command", [train, generate, process, gallery, features])
def test_help_fits_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    pages = [["--help"]]
    if command is train:
        pages += [[name, "--help"] for name in DATA]
    for page in pages:
        with pytest.raises(SystemExit) as stop:
            command.main(page)
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        # tyro does not break the line that shows the usage; the terminal does.
        rest = printed.splitlines()[1:]
        assert len(rest) > 5
        assert max(map(len, rest)) <= 80
        examples = [line for line in rest if line.strip("│ ").startswith("python -m ")]
        assert len(examples) == 2
        assert all(f"experiments.{command.__name__.split('.')[-1]}" in line for line in examples)
        if command is train and page[0] in DATA:
            assert f"experiments.train {page[0]}" in examples[0]
            for flag in ("--path", "--a ", "--T ", "--steps", "--ema-decay", "--solver"):
                assert flag in printed
            for flag in ("--overwrite", "--resume", "--dry-run", "--seed"):
                assert flag in printed
            assert "default: runs/DATA-PATH" in printed


@pytest.mark.parametrize(
    ("module", "pages"),
    [(train, DATA), (generate, [""]), (gallery, [""])],
    ids=["train", "generate", "gallery"],
)
def test_the_examples_of_the_help_can_be_read(module, pages, monkeypatch, capsys):
    kept = []
    monkeypatch.setattr(train, "train", lambda *given: kept.append(given))
    parse = command.parse

    def read(*given):
        kept.append(parse(*given))
        raise command.UserError("this is enough.")

    monkeypatch.setattr(command, "parse", read)
    for page in pages:
        with pytest.raises(SystemExit):
            module.main([*page.split(), "--help"])
        for line in capsys.readouterr().out.splitlines():
            if line.strip().startswith("python -m "):
                module.main(shlex.split(line)[3:])
    assert len(kept) == 2 * len(pages)


def test_the_list_of_commands(capsys):
    assert everything.main([]) == 0
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed for name in everything.COMMANDS)
    assert max(map(len, printed.splitlines())) <= 80
    fails(capsys, everything, ["trian"], "Perhaps you meant train?")
    fails(capsys, everything, ["process", "--a", "-1"], "--a must lie between")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["digits", "--a", "-1"], ["--a must lie between 1e-06 and 1e+06, got -1.0"]),
        (["digits", "--c", "nan"], ["--c must lie between"]),
        (["digits", "--T", "inf"], ["--T must lie between"]),
        (["digits", "--path", "diffusion", "--sigma", "0"], ["--sigma must lie between"]),
        (["digits", "--steps", "0"], ["--steps must be an integer of at least 1"]),
        (["digits", "--steps", "10000000000000000000000"], ["--steps must be at most"]),
        (["digits", "--width", "2147483648"], ["--width must be at most 100,000"]),
        (["digits", "--batch-size", "-4"], ["--batch-size"]),
        (["digits", "--chunk-size", "0"], ["--chunk-size must be an integer of at least 1"]),
        (["digits", "--learning-rate", "nan"], ["--learning-rate"]),
        (["digits", "--ema-decay", "1"], ["--ema-decay must lie in [0, 1), got 1"]),
        (["digits", "--tolerance", "1e-300"], ["--tolerance must lie between"]),
        (["digits", "--seed", "-1"], ["--seed"]),
        (["digits", "--steps", "many"], ["--steps", "many"]),
        (["digits", "--signal", "exponential"], ["does not vanish at T", "'linear'"]),
        (["digits", "--path", "wave"], ["'wave'", "kac", "diffusion", "flow-matching"]),
        (["digits", "--signal", "sine"], ["'sine'", "linear", "cosine"]),
        (["digits", "--clock", "t3"], ["'t3'", "'t2'"]),
        (["digits", "--solver", "rk"], ["'rk'", "euler", "heun", "tsit5"]),
        (["faces"], ["faces", *DATA]),
        (["didgits"], ["Perhaps you meant digits?"]),
        ([], ["digits", "funnel"]),
        (["digits", "--stps", "3"], ["--stps"]),
        (["digits", "--resume", "--dry-run"], ["exclude each other"]),
        (["digits", "--resume", "--overwrite"], ["exclude each other"]),
        (["moons", "--conditional"], ["--conditional needs classes"]),
        (["moons", "--num-samples", "2147483647"], ["--num-samples", "lower it"]),
        (["moons", "--width", "100000", "--depth", "1"], ["GiB", "lower the size"]),
        (["digits", "--depth", "1000"], ["--depth must be at most 100"]),
        (["arrays"], ["missing --data"]),
        (["arrays", "--data", "none.csv"], ["there is no file none.csv"]),
    ],
)
def test_wrong_flags_of_train(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, train, argv, *words)
    assert list(tmp_path.iterdir()) == []


def test_processes_join_before_anything_is_computed(monkeypatch):
    """JAX refuses them after that, and a path is computed."""
    order = []
    monkeypatch.setattr(
        "kacjax.sharding.initialize_distributed", lambda *given: order.append("join")
    )
    monkeypatch.setattr(PathConfig, "make", lambda self: order.append("compute"))
    train.prepared(DEFAULTS["moons"][1])
    assert order[0] == "join"


def test_unused_flags_are_noted(capsys, tmp_path):
    out = tmp_path / "notes"
    out.write_text("mine")
    fails(capsys, train, ["moons", "--sigma", "2", "--out", out], "is a file")
    train.main(["moons", "--sigma", "2", "--out", str(out)])
    assert "note: this run does not use --sigma." in capsys.readouterr().err


@pytest.mark.parametrize("name", DATA)
def test_configurations_survive_their_file(name, tmp_path):
    config = DEFAULTS[name][1]
    assert config.data == name
    if hasattr(config.source, "data"):
        source = dataclasses.replace(config.source, data=tmp_path)
        config = dataclasses.replace(config, source=source)
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(values, DEFAULTS[name][1]) == config
    assert differences(values, to_dict(config)) == []
    other = json.loads(json.dumps(values))
    other["training"] |= {"batch_size": 7}
    del other["training"]["clip"], other["sampling"]["grid_power"]
    clip, size = config.training.clip, config.training.batch_size
    said = [f"--batch-size was 7, is {size}", f"--clip was missing, is {clip}"]
    assert sorted(differences(other, values)) == said


def test_every_data_set_has_defaults():
    assert tuple(DEFAULTS) == ("digits", *data.TARGETS, "arrays", "mnist", "cifar10", "images")
    assert set(DATA) == set(DEFAULTS)


def test_defaults_of_cifar10_are_the_papers():
    config = DEFAULTS["cifar10"][1]
    training = config.training
    assert (training.steps, training.batch_size, training.learning_rate) == (400_000, 128, 2e-4)
    assert (training.ema_decay, training.clip, config.network.size) == (0.9999, 1.0, "cifar10")
    assert config.source.flip
    assert not DEFAULTS["mnist"][1].source.flip


def test_paths_of_the_models():
    kac = PathConfig(a=4.0, c=2.0, T=2.0, clock="t2").make()
    assert (kac.process.a, kac.process.c, kac.T) == (4.0, 2.0, 2.0)
    assert PathConfig(path="diffusion", sigma=3.0).make().process.sigma == 3.0
    flow = PathConfig(path="flow-matching", sigma=0.4, signal="constant").make()
    assert flow == kacjax.flow_matching_path(0.4)
    beta = PathConfig(path="vp", vp_schedule="linear-beta", beta_max=15.0)
    assert beta.make() == kacjax.vp_path("linear-beta", 0.1, 15.0)
    assert beta.unused(PathConfig()) == []
    still = PathConfig(path="vp", beta_max=15.0, sigma=2.0)
    assert still.unused(PathConfig()) == ["--beta-max", "--sigma"]
    for other in (beta, still, PathConfig()):
        assert (other.prediction("x0"), other.times()) == ("x0", None)
    edm = PathConfig(path="edm", sigma_max=40.0, sigma_data=0.7, noise_mean=-1.0)
    assert edm.make() == kacjax.edm_path(40.0)
    assert edm.prediction("x0") == kacjax.predictions.EDMPrediction(0.7)
    assert edm.times() == kacjax.losses.LogNormalTimes(-1.0, 1.2)
    assert edm.unused(PathConfig()) == []


@pytest.mark.parametrize(
    ("flags", "unused"),
    [
        ({"network": {"label_dropout": 0.5}}, ["--label-dropout"]),
        ({"network": {"label_dropout": 0.5, "conditional": True}}, []),
        ({"network": {"prediction": "bounded"}, "training": {"time_power": 1.0}}, []),
        (
            {
                "model": {"path": "edm", "a": 4.0},
                "network": {"prediction": "bounded"},
                "training": {"time_power": 1.0},
            },
            ["--a", "--prediction", "--time-power"],
        ),
        # The times of a flow map are drawn with that power.
        ({"model": {"path": "edm"}, "training": {"time_power": 1.0, "objective": "lsd"}}, []),
    ],
)
def test_flags_that_nothing_reads(flags, unused):
    usual = DEFAULTS["moons"][1]
    groups = {
        name: dataclasses.replace(getattr(usual, name), **each) for name, each in flags.items()
    }
    assert dataclasses.replace(usual, **groups).unused(usual) == unused


def test_labels_of_a_file_may_move_and_a_column_may_not(tmp_path, monkeypatch):
    def values(labels):
        source = dataclasses.replace(DEFAULTS["arrays"][1].source, data=Path("x"), labels=labels)
        return to_dict(dataclasses.replace(DEFAULTS["arrays"][1], source=source).resolved())

    monkeypatch.chdir(tmp_path)
    (tmp_path / "y.npy").touch()
    assert values("y.npy")["source"]["data"] == str(tmp_path / "x")
    assert values("y.npy")["source"]["labels"] == str(tmp_path / "y.npy")
    assert values("species")["source"]["labels"] == "species"
    assert differences(values("old/y.npy"), values("y.npy")) == []
    assert differences(values("species"), values("kind")) == ['--labels was "species", is "kind"']
    changed = differences(values("species"), values("y.npy"))
    assert changed == ['--labels was "species", is "a file"']


@pytest.mark.long
def test_a_run_of_a_baseline(tmp_path):
    """What the flags say is what is trained, and what the file of the velocity says."""
    run, flags = tmp_path / "run", ["--path", "edm", "--sigma-data", "0.8", "--coupling", "ot"]
    assert train.main(arguments("moons", run, *flags)) == 0
    velocity = kacjax.load_velocity(run)
    assert velocity.prediction == kacjax.predictions.EDMPrediction(0.8)
    np.testing.assert_allclose(velocity.path.T, 80, rtol=1e-6)
    assert velocity.path.approximate_prior
    assert json.loads((run / "config.json").read_text())["training"]["coupling"] == "ot"
    assert np.all(np.isfinite(np.load(run / "samples.npy")))


def test_wrong_flags_of_generate(arrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = arrays.out
    good = ["--run", run, "--out", "x.npy"]
    fails(capsys, generate, ["--run", run], "--out")
    fails(capsys, generate, ["--run", tmp_path / "none", *good[2:]], "none")
    fails(capsys, generate, ["--run", tmp_path, *good[2:]], "not a run")
    fails(capsys, generate, ["--run", __file__, *good[2:]], "test_train.py is damaged")
    fails(capsys, generate, [*good[:2], "--out", "x.txt"], ".npy")
    fails(capsys, generate, [*good[:2], "--out", "/proc/none/x.npy"], "cannot write")
    for flags, words in {
        "--num-samples 0": ["--num-samples"],
        "--solver-steps -2": ["--solver-steps"],
        "--solver x": ["euler"],
        "--gif x.png": ["--gif", ".gif"],
        "--label tulip": ["--label must be one of the classes iris, poppy, rose; got 'tulip'"],
        "--label 3": ["--label must be one of the classes iris, poppy, rose; got '3'"],
        "--guidance -1": ["--guidance"],
        "--guidance nan": ["--guidance"],
        "--guidance-interval 0 1": ["--guidance-interval needs a --guidance", "got 1"],
        "--guidance 2 --guidance-interval 1 0": ["--guidance-interval must lie between 1"],
        "--guidance 2 --guidance-interval 0 9": ["--guidance-interval", "got 9"],
        "--guidance 2 --guidance-interval -1 1": ["--guidance-interval must lie between 0", "-1"],
        "--chunk-size -1": ["--chunk-size"],
        "--chunk-size 0": ["--chunk-size"],
        "--tolerance 0": ["--tolerance"],
        "--seed -1": ["--seed"],
    }.items():
        fails(capsys, generate, [*good, *flags.split()], *words)
    assert list(tmp_path.iterdir()) == []


def _edit(old, new):
    def edit(folder):
        text = (folder / "config.json").read_text()
        assert old in text
        (folder / "config.json").write_text(text.replace(old, new))

    return edit


def _truncate_network(folder):
    file = folder / "velocity.safetensors"
    os.truncate(file, file.stat().st_size // 2)


DAMAGED_CONFIGURATIONS = {
    "not json": lambda folder: (folder / "config.json").write_text('{"format": "kacjax'),
    "deep": lambda folder: (folder / "config.json").write_text("[" * 10**5),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "older": _edit('"kacjax-run-2"', '"kacjax-run-1"'),
    "unknown field": _edit('"c":', '"speed":'),
    "unknown data": _edit('"arrays"', '"faces"'),
    "unknown model": _edit('"kac"', '"wave"'),
    "negative rate": _edit('"a": 9.0', '"a": -9.0'),
    "another type": _edit('"width": 8', '"width": "8"'),
    "a list": _edit('"c": 3.0', '"c": [3.0]'),
    "nothing": _edit('"T": 1.0', '"T": null'),
}
DAMAGED_NETWORKS = {
    "empty": lambda folder: (folder / "velocity.safetensors").write_bytes(b""),
    "truncated": _truncate_network,
    "a folder": lambda folder: (
        (folder / "velocity.safetensors").unlink(),
        (folder / "velocity.safetensors").mkdir(),
    ),
}


@pytest.fixture
def copy(arrays, tmp_path):
    """A copy of the finished run, but for its checkpoints."""
    left_out = shutil.ignore_patterns("checkpoints", "tensorboard")
    return shutil.copytree(arrays.out, tmp_path / "run", ignore=left_out)


@pytest.mark.parametrize("damage", DAMAGED_CONFIGURATIONS)
def test_damaged_configurations_are_named(damage, copy, capsys):
    DAMAGED_CONFIGURATIONS[damage](copy)
    fails(capsys, gallery, ["--runs", copy, "--out", copy / "new"], f"{copy}")
    assert not (copy / "new").exists()
    with pytest.raises(UserError, match=f"{copy}"):
        runs.load_config(copy)
    # Not taken for a run that may be replaced, or for one of nobody.
    if damage not in ("unknown data", "unknown model", "negative rate"):
        before = state_of(copy)
        for flag in ("--resume", "--overwrite"):
            if damage in ("not json", "deep", "no configuration", "older") or flag == "--resume":
                fails(capsys, train, ["moons", "--out", copy, flag], f"{copy}")
        assert state_of(copy) == before


@pytest.mark.parametrize(
    "notes",
    [
        {"data": "arrays", "mean": [0.0] * 3, "shape": [3]},
        {"data": "arrays", "mean": [0.0] * 2, "std": [1.0] * 2, "shape": [3]},
        {"data": "arrays", "mean": [0.0] * 3, "std": "wide", "shape": [3]},
        {"data": "arrays", "mean": [0.0] * 3, "std": [1.0] * 3, "shape": [7]},
        {"data": "moons", "classes": 5},
    ],
)
def test_forged_notes_are_named(notes, arrays, tmp_path, capsys):
    file = tmp_path / "velocity.safetensors"
    velocity = kacjax.load_velocity(arrays.out / "velocity.safetensors")
    kacjax.save_velocity(file, velocity, notes)
    argv = ["--run", file, "--out", tmp_path / "x.npy"]
    fails(capsys, generate, argv, f"the notes in {file} are damaged")


@pytest.mark.parametrize("damage", DAMAGED_NETWORKS)
def test_damaged_networks_are_named(damage, copy, tmp_path, capsys):
    DAMAGED_NETWORKS[damage](copy)
    argv = ["--run", copy, "--out", tmp_path / "x.npy"]
    fails(
        capsys, generate, argv, f"{copy}{'' if damage == 'a folder' else '/velocity.safetensors'}"
    )


def test_a_run_without_a_network_is_named(copy, tmp_path, capsys):
    (copy / "velocity.safetensors").unlink()
    argv = ["--run", copy, "--out", tmp_path / "x.npy"]
    fails(capsys, generate, argv, f"{copy} has no network yet: train arrays on with --resume")


def test_a_byte_order_mark_is_read(copy, capsys, tmp_path):
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text, encoding="utf-8-sig")
    assert runs.is_run(copy)
    assert runs.load_config(copy).data == "arrays"


@pytest.mark.parametrize(
    "argv",
    [
        *(["--a", "-1"], ["--c", "inf"], ["--T", "0"], ["--a", "1e9"], ["--num-paths", "0"]),
        *(["--num-paths", "100000000000"], ["--a", "1e6"], ["--seed", "-1"]),
    ],
)
def test_wrong_flags_of_process(argv, tmp_path, capsys):
    fails(capsys, process, [*argv, "--out", tmp_path / "new"], argv[0])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
def test_errors_reach_the_shell(tmp_path):
    command = [sys.executable, "-m", "experiments.process", "--a", "-1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: --a must lie between 1e-06 and 1e+06, got -1.0.\n"


@pytest.mark.parametrize("chosen", [None, "mine"])
def test_commands_keep_what_they_compile(chosen, tmp_path, monkeypatch):
    """In the user's cache, or where the user says; and where it cannot be written, not at all."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        jax.config.update("jax_compilation_cache_dir", chosen)
        assert command.run(lambda: 0) == 0
        own = str(tmp_path / "kacjax" / "programs")
        assert jax.config.jax_compilation_cache_dir == (chosen or own)
        jax.config.update("jax_compilation_cache_dir", None)
        (tmp_path / "file").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
        assert command.run(lambda: 0) == 0
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
