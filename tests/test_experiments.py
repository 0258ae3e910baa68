"""The commands: what they write, what they print, and how they refuse."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import kacjax
from experiments import gallery, generate, process, runs, train
from experiments.command import UserError
from experiments.config import PathConfig, SamplingConfig, from_dict, read_json, to_dict
from experiments.datasets import make_dataset
from experiments.defaults import DEFAULTS
from experiments.images.config import NAMES
from experiments.sampling import draw_samples, load_velocity, make_trainer, save_velocity
from kacjax import data

pytestmark = pytest.mark.usefixtures("compile_once")

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
QUICK = [
    *("--steps", "20", "--batch-size", "32", "--width", "16", "--depth", "1"),
    *("--num-samples", "120", "--solver-steps", "5"),
]
RUN_FILES = {
    *("config.json", "metrics.json", "velocity.safetensors", "samples.npy", "samples.png"),
}


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """Optax's Adam does not train under strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


def fails(capsys, command, argv, *words):
    """The command exits with 2 and one line on stderr that holds these words."""
    capsys.readouterr()
    assert command.main([str(argument) for argument in argv]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert "Traceback" not in printed.err
    for word in words:
        assert word in printed.err


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A short run, trained in another process."""
    folder = tmp_path_factory.mktemp("runs") / "deep" / "grid2d-kac"
    command = [sys.executable, "-m", "experiments.train", "grid2d", *QUICK, "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def untouched(finished):
    """The short run, which must be the same after the test as before."""
    folder, _ = finished

    def state():
        return {p.relative_to(folder): p.stat().st_mtime_ns for p in sorted(folder.rglob("*"))}

    before = state()
    yield folder
    assert state() == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_train_fills_the_folder_and_reports(finished):
    folder, printed = finished
    assert {p.name for p in folder.iterdir()} == RUN_FILES | {"zoom.png", "trajectories.png"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["nfe"] == 5
    assert metrics["loss"] > 0
    assert metrics["steps_per_second"] > 0
    assert 0 <= metrics["quality"]["mode_total_variation"] <= 1
    assert metrics["versions"]["jax"]
    config = json.loads((folder / "config.json").read_text())
    assert config["training"]["steps"] == 20
    assert config["model"] == {
        **{"path": "kac", "a": 9.0, "c": 3.0, "sigma": 1.0, "T": 1.0},
        **{"signal": config["model"]["signal"], "clock": config["model"]["clock"]},
    }
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (120, 2)
    assert samples.dtype == np.float32
    assert "median distance to mode" in printed
    assert str(folder) in printed
    assert max(map(len, printed.replace(str(folder), "").splitlines())) < 80


@pytest.mark.slow
def test_digits_train_into_the_default_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train.main(["digits", "--path", "flow-matching", *QUICK]) == 0
    folder = tmp_path / "runs" / "digits-flow-matching"
    assert {p.name for p in folder.iterdir()} == RUN_FILES
    samples = np.load(folder / "samples.npy")
    assert samples.shape == (120, 64)
    assert np.abs(samples).max() <= 1
    quality = json.loads((folder / "metrics.json").read_text())["quality"]
    assert quality["confidence_of_held_out"] > 0.9
    assert "runs/digits-flow-matching" in capsys.readouterr().out


def test_generate_is_reproducible_and_follows_its_flags(untouched, tmp_path):
    def samples(*flags):
        out = tmp_path / "new" / "samples.npy"
        assert (
            generate.main(["--run", str(untouched), "--num", "7", "--out", str(out), *flags]) == 0
        )
        return np.load(out)

    first = samples("--steps", "4", "--seed", "3")
    assert first.shape == (7, 2)
    np.testing.assert_array_equal(samples("--steps", "4", "--seed", "3"), first)
    assert not np.array_equal(samples("--steps", "4", "--seed", "4"), first)
    assert not np.array_equal(samples("--steps", "4", "--seed", "3", "--grid-power", "1"), first)
    chunks = samples("--steps", "4", "--seed", "3", "--chunk-size", "3")
    np.testing.assert_allclose(chunks, first, atol=1e-5)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["samples.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("flags", ["--solver heun", "--solver dopri5 --tolerance 0.1"])
def test_solvers_of_generate_are_those_asked_for(flags, untouched, tmp_path):
    out = tmp_path / "samples.npy"
    found = []
    for solver in ([], flags.split()):
        command = ["--run", str(untouched), "--num", "7", "--steps", "4", "--out", str(out)]
        assert generate.main([*command, *solver]) == 0
        found.append(np.load(out))
    assert not np.array_equal(*found)


@pytest.mark.slow
def test_generate_takes_a_velocity_alone_and_animates(untouched, tmp_path, capsys):
    alone = shutil.copy(untouched / "velocity.safetensors", tmp_path / "alone.safetensors")
    arrays = []
    for source in (untouched, alone):
        out, gif = tmp_path / "x.npy", tmp_path / "x.gif"
        flags = ["--run", str(source), "--num", "7", "--steps", "4", "--out", str(out)]
        assert generate.main([*flags, "--gif", str(gif)]) == 0
        arrays.append(np.load(out))
        assert capsys.readouterr().out.splitlines()[-2:] == [str(out), str(gif)]
        with Image.open(gif) as animation:
            assert animation.n_frames >= 5
    np.testing.assert_array_equal(*arrays)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "alone.safetensors",
        "x.gif",
        "x.npy",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], slow(["--chunk-size", "70"])])
def test_animations_end_in_the_samples(flags, untouched, tmp_path, monkeypatch):
    """With adaptive steps too, which are chosen for each sample."""
    shown, files = [], []

    def keep(file, trajectory, *arguments, **options):
        files.append(file)
        shown.append(trajectory)
        file.touch()

    monkeypatch.setattr("kacjax.plots.trajectory_gif", keep)
    out, gif = tmp_path / "x.npy", tmp_path / "x.gif"
    flags = ["--run", str(untouched), "--num", "80", "--solver", "tsit5", "--steps", "3", *flags]
    assert generate.main([*flags, "--out", str(out), "--gif", str(gif), "--seed", "5"]) == 0
    samples = np.load(out)
    assert shown[0].shape == (4, 64, 2)
    np.testing.assert_allclose(shown[0][-1], samples[:64], atol=1e-5)
    if "--chunk-size" not in flags:
        # As `train` draws them.
        velocity = kacjax.load_velocity(untouched / "velocity.safetensors")
        sampling = SamplingConfig(80, "tsit5")
        dataset = make_dataset("grid2d")
        wanted, _ = draw_samples(velocity, dataset, jax.random.key(5), sampling)
        np.testing.assert_allclose(samples, wanted, atol=1e-6)
    assert files[0].suffix == ".gif"


def test_an_animation_that_cannot_be_written_leaves_nothing(
    untouched, tmp_path, monkeypatch, capsys
):
    def fail(file, *arguments, **options):
        file.write_bytes(b"GIF89a")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("kacjax.plots.trajectory_gif", fail)
    out, gif = tmp_path / "x.npy", tmp_path / "x.gif"
    flags = ["--run", untouched, "--num", "7", "--steps", "4", "--out", out, "--gif", gif]
    fails(capsys, generate, flags, f"cannot write {gif}: No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.slow
@pytest.mark.parametrize("path", ["diffusion", *map(slow, ["kac", "flow-matching"])])
def test_runs_generate_with_the_defaults_of_the_library(path, tmp_path):
    """What `train` and `generate` make by default is what the library's default makes."""
    arguments = ["moons", "--path", path, *QUICK, "--solver-steps", "4", "--out", str(tmp_path)]
    assert train.main([*arguments, "--overwrite"]) == 0
    out = tmp_path / "new.npy"
    flags = ["--run", str(tmp_path), "--num", "6", "--steps", "4", "--seed", "5"]
    assert generate.main([*flags, "--out", str(out)]) == 0
    velocity = kacjax.load_velocity(tmp_path / "velocity.safetensors")
    wanted = kacjax.generate(velocity, velocity.path, jax.random.key(5), (6, 2), 4)
    np.testing.assert_allclose(np.load(out), wanted, atol=1e-6)


def test_gallery_sets_runs_side_by_side(untouched, tmp_path, capsys):
    other, out = tmp_path / "other", tmp_path / "gallery"
    shutil.copytree(untouched, other)
    values = json.loads((other / "config.json").read_text())
    values["model"]["path"] = "diffusion"
    (other / "config.json").write_text(json.dumps(values))
    assert gallery.main(["--runs", str(untouched), str(other), "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {"samples.png", "zoom.png", "table.md"}
    table = (out / "table.md").read_text()
    assert table.startswith("|  | Kac flow | diffusion |\n| --- | ---: | ---: |\n| nfe | 5 | 5 |")
    assert table in capsys.readouterr().out

    fails(capsys, gallery, ["--runs", untouched, untouched], "different models")
    fails(capsys, gallery, ["--runs", tmp_path / "none"], "no run folder")
    (other / "metrics.json").write_text("{")
    fails(capsys, gallery, ["--runs", other, "--out", out], "damaged")


@pytest.mark.slow
def test_process_draws(tmp_path, capsys):
    assert process.main(["--a", "4", "--c", "2", "--T", "0.5", "--out", str(tmp_path)]) == 0
    names = {"paths.png", "density.png", "velocity.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    printed = capsys.readouterr().out
    assert all(name in printed for name in names)


@pytest.mark.parametrize("command", [train, generate, process, gallery])
def test_help_fits_the_terminal(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    pages = [["--help"]] if command is not train else [["--help"], ["digits", "--help"]]
    for page in pages:
        with pytest.raises(SystemExit) as stop:
            command.main(page)
        assert stop.value.code == 0
        printed = capsys.readouterr().out
        # tyro does not break the line that shows the usage; the terminal does.
        rest = printed.splitlines()[1:]
        assert len(rest) > 5
        assert max(map(len, rest)) <= 80
    if command is train:
        for flag in ("--path", "--a ", "--T ", "--steps", "--ema-decay", "--solver", "--overwrite"):
            assert flag in printed
        assert "default: runs/DATA-PATH" in printed


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["digits", "--a", "-1"], ["a must be positive and finite, got -1.0"]),
        (["digits", "--c", "nan"], ["c must be positive and finite"]),
        (["digits", "--T", "inf"], ["T must be positive and finite"]),
        (["digits", "--path", "diffusion", "--sigma", "0"], ["sigma must be positive"]),
        (["digits", "--steps", "0"], ["--steps must be an integer of at least 1"]),
        (["digits", "--batch-size", "-4"], ["--batch-size"]),
        (["digits", "--learning-rate", "nan"], ["--learning-rate"]),
        (["digits", "--ema-decay", "1"], ["--ema-decay"]),
        (["digits", "--seed", "-1"], ["--seed"]),
        (["digits", "--steps", "many"], ["--steps", "many"]),
        (["digits", "--signal", "exponential"], ["does not vanish at T", "'linear'"]),
        (["digits", "--path", "wave"], ["'wave'", "kac", "diffusion", "flow-matching"]),
        (["digits", "--signal", "sine"], ["'sine'", "linear", "cosine"]),
        (["digits", "--clock", "t3"], ["'t3'", "'t2'"]),
        (["digits", "--solver", "rk"], ["'rk'", "euler", "heun", "tsit5"]),
        (["faces"], ["faces", "digits", "grid2d", "moons", "checkerboard", "spirals", "funnel"]),
        ([], ["digits", "funnel"]),
        (["digits", "--stps", "3"], ["--stps"]),
    ],
)
def test_wrong_flags_of_train(argv, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    fails(capsys, train, argv, *words)
    assert list(tmp_path.iterdir()) == []


def test_unused_flags_are_noted(capsys, tmp_path):
    out = tmp_path / "notes"
    out.write_text("mine")
    assert train.main(["moons", "--sigma", "2", *QUICK, "--out", str(out)]) == 2
    assert "kac does not use --sigma" in capsys.readouterr().err


def test_train_refuses_what_would_be_lost(untouched, tmp_path, capsys):
    fails(capsys, train, ["moons", *QUICK, "--out", untouched], "another run", "--overwrite")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    arguments = ["moons", *QUICK, "--out", foreign, "--overwrite"]
    fails(capsys, train, arguments, "not a run")
    fails(capsys, train, [*arguments[:-2], foreign / "thesis.tex"], "is a file")
    fails(capsys, train, [*arguments[:-2], foreign / "thesis.tex" / "run"], "thesis.tex")
    assert (foreign / "thesis.tex").read_text() == "years of work"
    assert [path.name for path in tmp_path.iterdir()] == ["foreign"]


def test_overwrite_replaces_a_run_and_keeps_other_files(tmp_path):
    out = tmp_path / "run"
    first = dataclasses.replace(DEFAULTS["moons"][1], out=out)
    second = dataclasses.replace(DEFAULTS["grid2d"][1], out=out, overwrite=True)
    out.mkdir()
    with runs.new_run(out, first) as folder:
        (folder / "zoom.png").touch()
    (out / "notes.txt").write_text("mine")
    with runs.new_run(out, second) as folder:
        (folder / "samples.png").touch()
    assert runs.load_config(out).data == "grid2d"
    assert {path.name for path in out.iterdir()} == {"config.json", "samples.png", "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


POINTS = sorted(set(DEFAULTS) - set(NAMES))


@pytest.mark.parametrize("name", POINTS)
def test_configurations_survive_their_file(name):
    config = DEFAULTS[name][1]
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
    assert make_dataset(name).dim == (64 if name == "digits" else 2)


def test_files_of_older_versions_are_read():
    """The names are those of today; the committed run had the ones before."""
    text = (RESULTS / "run-digits-kac.json").read_text()
    assert '"parameterisation": "data"' in text
    config = from_dict(read_json(text)["config"])
    assert config == DEFAULTS["digits"][1]
    assert read_json('{"sampling": {"grid": "uniform"}}') == {"sampling": {"grid_power": 1.0}}


def test_a_velocity_belongs_to_its_run_though_float32_rounds(tmp_path):
    model = PathConfig(path="diffusion", sigma=0.4)
    config = dataclasses.replace(DEFAULTS["moons"][1], model=model)
    trainer = make_trainer(config, 2)
    save_velocity(tmp_path, trainer.velocity(trainer.init(jax.random.key(0))))
    assert load_velocity(tmp_path, config, 2).network.config["dim"] == 2
    other = dataclasses.replace(config, model=dataclasses.replace(model, sigma=0.400001))
    with pytest.raises(UserError, match="of another run"):
        load_velocity(tmp_path, other, 2)


def test_paths_of_the_three_models():
    kac = PathConfig(a=4.0, c=2.0, T=2.0, clock="t2").make()
    assert (kac.process.a, kac.process.c, kac.T) == (4.0, 2.0, 2.0)
    assert PathConfig(path="diffusion", sigma=3.0).make().process.sigma == 3.0
    flow = PathConfig(path="flow-matching", sigma=0.4, signal="constant").make()
    assert flow == kacjax.flow_matching_path(0.4)


def test_a_run_that_fails_leaves_the_old_one(untouched, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("kacjax.fit", fail)
    assert train.main(["grid2d", *QUICK, "--out", str(untouched), "--overwrite"]) == 130
    assert "nothing was written" in capsys.readouterr().err


def test_wrong_flags_of_generate(untouched, tmp_path, capsys):
    out = tmp_path / "x.npy"
    fails(capsys, generate, ["--run", untouched], "--out")
    fails(capsys, generate, ["--run", tmp_path / "none", "--out", out], "no run folder")
    fails(capsys, generate, ["--run", tmp_path, "--out", out], "not a run")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--num", "0"], "--num")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--steps", "-2"], "--steps")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--solver", "x"], "euler")
    fails(capsys, generate, ["--run", untouched, "--out", tmp_path / "x.txt"], ".npy")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--gif", "x.png"], "--gif", ".gif")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--label", "1"], "--label")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--guidance", "2"], "--guidance")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--chunk-size", "-1"], "chunk-size")
    fails(capsys, generate, ["--run", untouched, "--out", out, "--tolerance", "0"], "--tolerance")
    fails(capsys, generate, ["--run", __file__, "--out", out], "test_experiments.py is damaged")
    fails(capsys, generate, ["--run", untouched, "--out", "/proc/none/x.npy"], "cannot write")
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


DAMAGES = {
    "not json": lambda folder: (folder / "config.json").write_text('{"format": "kacjax'),
    "no configuration": lambda folder: (folder / "config.json").unlink(),
    "no network": lambda folder: (folder / "velocity.safetensors").unlink(),
    "empty network": lambda folder: (folder / "velocity.safetensors").write_bytes(b""),
    "truncated network": _truncate_network,
    "unknown field": _edit('"c":', '"speed":'),
    "unknown data": _edit('"grid2d"', '"faces"'),
    "unknown model": _edit('"kac"', '"wave"'),
    "negative rate": _edit('"a": 9.0', '"a": -9.0'),
    "another type": _edit('"width": 16', '"width": "16"'),
    "another network": _edit('"width": 16', '"width": 32'),
    "another path": _edit('"a": 9.0', '"a": 4.0'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_runs_are_named(damage, finished, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    DAMAGES[damage](folder)
    fails(capsys, generate, ["--run", folder, "--out", tmp_path / "x.npy"], str(folder))


@pytest.mark.parametrize(
    "argv", [["--a", "-1"], ["--c", "inf"], ["--T", "0"], ["--num-paths", "0"]]
)
def test_wrong_flags_of_process(argv, tmp_path, capsys):
    fails(capsys, process, [*argv, "--out", tmp_path / "new"], argv[0].lstrip("-"))
    assert list(tmp_path.iterdir()) == []


def test_errors_reach_the_shell(tmp_path):
    command = [sys.executable, "-m", "experiments.process", "--a", "-1", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: a must be positive and finite, got -1.0.\n"


def test_every_target_has_defaults():
    assert set(DEFAULTS) == {"digits", *data.TARGETS, *NAMES}
    assert all(config.data == name for name, (_, config) in DEFAULTS.items())
