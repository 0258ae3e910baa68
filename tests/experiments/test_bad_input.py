"""Bad input to the commands: one line with the value and what is allowed, status 2, nothing written."""

import dataclasses
import importlib
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.command import parse
from experiments.defaults import DEFAULTS
from experiments.gallery import GalleryConfig
from experiments.generate import GenerateConfig

HUGE, LARGER = str(2**31), "10000000000000000000000"


def train(data, flags, *words):
    return "train", [data, *flags.split()], words


def of(command, flags, *words):
    return command, flags.split(), words


NUMBERS = [
    train("moons", f"--width {HUGE}", "--width", "at most 100,000", "2,147,483,648"),
    train("moons", f"--width {LARGER}", "--width", "at most"),
    train("moons", "--width 0", "--width must be an integer of at least 1, got 0"),
    train("moons", "--width -3", "--width", "-3"),
    train("moons", "--width 2.5", "--width", "2.5"),
    train("moons", "--width many", "--width", "many"),
    train("moons", f"--depth {LARGER}", "--depth", "at most 100"),
    train("moons", "--depth 100000", "--depth", "at most 100"),
    train("moons", f"--fourier {LARGER}", "--fourier", "at most"),
    train("moons", "--fourier -1", "--fourier", "at least 0", "-1"),
    train("moons", f"--batch-size {LARGER}", "--batch-size", "at most"),
    train("moons", f"--batch-size {2**31 - 1}", "GiB", "--batch-size"),
    train("moons", "--batch-size 0", "--batch-size", "at least 1"),
    train("moons", "--width 100000 --depth 20", "GiB", "size of the network"),
    train("moons", f"--num-samples {LARGER}", "--num-samples", "at most"),
    train("moons", f"--num-samples {2**31 - 1}", "--num-samples", "GiB"),
    train("moons", "--num-samples 0", "--num-samples", "at least 1"),
    train("moons", f"--steps {LARGER}", "--steps", "at most"),
    train("moons", "--steps 0", "--steps must be an integer of at least 1, got 0"),
    train("moons", "--steps -1", "--steps", "-1"),
    train("moons", f"--solver-steps {LARGER}", "--solver-steps", "at most 1,000,000"),
    train("moons", "--solver-steps 0", "--solver-steps", "at least 1"),
    train("moons", "--chunk-size 0", "--chunk-size must be an integer of at least 1, got 0"),
    train("moons", "--tolerance 1e-300", "--tolerance", "between 1e-07 and 1", "1e-300"),
    train("moons", "--tolerance 0", "--tolerance"),
    train("moons", "--tolerance nan", "--tolerance", "nan"),
    train("moons", "--a 1e9", "--a must lie between 1e-06 and 1e+06, got 1000000000.0"),
    train("moons", "--a 1e-30", "--a", "1e-30"),
    train("moons", "--a -1", "--a", "-1"),
    train("moons", "--a inf", "--a", "inf"),
    train("moons", "--c 1e-38", "--c", "1e-38"),
    train("moons", "--c nan", "--c", "nan"),
    train("moons", "--c 1e30", "--c", "1e+30"),
    train("moons", "--path diffusion --sigma 1e-320", "--sigma", "1e-320"),
    train("moons", "--path diffusion --sigma 0", "--sigma", "0.0"),
    train("moons", "--path diffusion --sigma 1e12", "--sigma"),
    train("moons", "--T 0", "--T", "0.0"),
    train("moons", "--T inf", "--T", "inf"),
    train("moons", "--T 1e-30", "--T"),
    train("moons", "--learning-rate 0", "--learning-rate"),
    train("moons", "--learning-rate nan", "--learning-rate", "nan"),
    train("moons", "--learning-rate 1e30", "--learning-rate", "1e+30"),
    train("moons", "--warmup -1", "--warmup", "-1"),
    train("moons", "--clip 0", "--clip"),
    train("moons", "--clip inf", "--clip", "inf"),
    train("moons", "--b2 1", "--b2 must lie in [0, 1), got 1.0"),
    train("moons", "--ema-decay 1", "--ema-decay must lie in [0, 1), got 1.0"),
    train("moons", "--ema-decay -0.1", "--ema-decay", "-0.1"),
    train("moons", "--label-dropout 2", "--label-dropout", "2.0"),
    train("moons", "--time-power 0", "--time-power"),
    train("moons", "--grid-power 1e9", "--grid-power"),
    train("moons", "--grid-power nan", "--grid-power", "nan"),
    train("moons", "--accumulate 0", "--accumulate", "at least 1"),
    train("moons", "--accumulate 3", "batch_size must be a multiple of 3", "256", "255 and 258"),
    train("moons", "--seed -1", "--seed", "-1"),
    train("moons", f"--seed {2**31}", "--seed", "at most 2,147,483,647"),
    train("moons", "--log-every 0", "--log-every", "at least 1"),
    train("moons", "--checkpoint-every 0", "--checkpoint-every", "at least 1"),
    train("moons", "--checkpoint-every -5", "--checkpoint-every", "-5"),
    train("moons", "--keep 0", "--keep", "at least 1"),
    train("moons", "--keep-every 0", "--keep-every"),
    train("moons", "--sample-every 0", "--sample-every"),
    train("moons", "--fsdp 0", "--fsdp", "at least 1"),
    train("moons", "--fsdp 7", "fsdp must divide the number of devices", "7"),
    train("moons", "--processes 0", "--processes"),
    train("moons", "--process-id -1", "--process-id", "-1"),
    train("moons", "--processes 2", "coordinator, processes and process_id go together"),
    train("moons", "--process-id 1", "coordinator, processes and process_id go together"),
]
NAMES = [
    train("moons", "--path wave", "'wave'", "kac", "diffusion", "flow-matching"),
    train("moons", "--signal sine", "'sine'", "linear", "cosine"),
    train("moons", "--signal exponential", "does not vanish at T", "'linear'"),
    train("moons", "--signal constant", "does not vanish at T", "'constant'"),
    train("moons", "--clock t3", "'t3'", "'t2'"),
    train("moons", "--solver rk", "'rk'", "euler", "heun", "tsit5"),
    train("moons", "--coordinates polar", "'polar'", "straight", "time"),
    train("moons", "--prediction noise", "'noise'", "x0", "velocity"),
    train("moons", "--schedule step", "'step'", "cosine"),
    train("moons", "--on-nonfinite ignore", "'ignore'", "stop", "skip"),
    train("moons", "--conditional", "--conditional needs classes"),
    train("moons", "--stps 3", "--stps", "Perhaps you meant --steps?"),
    train("moons", "--steps", "--steps"),
    train("moons", "--objective map", "'map'", "flow", "sign", "lsd", "meanflow"),
    train("moons", "--objective sign", "--objective sign needs --prediction bounded"),
    train("moons", "--objective lsd --coupling ot", "--coupling ot needs --objective flow"),
    train(
        "moons", "--prediction bounded --path vp", "--prediction bounded needs --path kac, got vp"
    ),
    train(
        "moons", "--objective lsd --solver heun", "a flow map is drawn by --solver euler", "heun"
    ),
    train("moons", "--resume --overwrite", "exclude each other"),
    train("moons", "--resume --dry-run", "exclude each other"),
    train("mons", "", "data must be one of", "'mons'", "Perhaps you meant moons?"),
    train("faces", "", "data must be one of", "'faces'", "digits", "images"),
    ("train", [], ("digits", "images")),
    of(
        "compare.__main__",
        "moons --students 3",
        "--students must fall from --teacher-steps 32",
        "got 3",
    ),
    of("compare.__main__", "moons --students 4 4", "--students must fall", "got 4 4"),
    of(
        "compare.__main__",
        "moons --students 0",
        "--students must be an integer of at least 1, got 0",
    ),
    of("compare.__main__", "moons --maps flow", "'flow'", "lsd", "meanflow"),
    of("distill", "--run nowhere", "nowhere"),
    of("distill", "--steps 4", "missing --run"),
    ("__main__", ["trian"], ("'trian'", "Perhaps you meant train?")),
    ("__main__", ["plot", "--x"], ("'plot'", "process")),
]
FILES = [
    train("arrays", "", "--data"),
    train("arrays", "--data nothing.csv", "there is no file nothing.csv"),
    train("arrays", "--data folder", ".npy, .npz, .csv, .parquet"),
    train("arrays", "--data notes.txt", "notes.txt", ".csv"),
    train("arrays", "--data empty.npy", "empty.npy cannot be read as an array"),
    train("arrays", "--data scalar.npy", "scalar.npy", "one array of real numbers"),
    train("arrays", "--data text.npy", "text.npy", "real numbers"),
    train("arrays", "--data object.npy", "object.npy", "cannot be read"),
    train("arrays", "--data complex.npy", "complex.npy", "real numbers"),
    train("arrays", "--data forged.npy", "forged.npy", "cannot be read"),
    train("arrays", "--data none.npy", "none.npy must not be empty"),
    train("arrays", "--data nan.npy", "nan.npy must be finite"),
    train("arrays", "--data two.npy", "enough data"),
    train("arrays", "--data broken.npz", "broken.npz cannot be read"),
    train("arrays", "--data words.csv", "words.csv: column 'name' must hold numbers", "anna"),
    train("arrays", "--data ragged.csv", "ragged.csv cannot be read", "row 3 has 1 columns"),
    train("arrays", "--data empty.csv", "empty.csv cannot be read: it is empty"),
    train("arrays", "--data twice.csv", "two columns have one name"),
    train("arrays", "--data good.csv --labels species", "--labels", "'species'", "x, y"),
    train("arrays", "--data good.csv --labels short.csv", "--labels must be one for each of 40"),
    train("arrays", "--data good.csv --labels good.csv", "must hold one column, got 2"),
    train("arrays", "--data good.csv --held-out 0", "--held-out"),
    train("arrays", "--data good.csv --held-out 0.99", "--held-out"),
    train("arrays", "--data good.csv --held-out 0.05", "enough data", "--held-out 0.05 are 2"),
    train("arrays", "--data table.parquet", "table.parquet cannot be read"),
    train("images", "--data nothing", "nothing does not exist"),
    train("images", "--data notes.txt", "neither a folder nor"),
    train("images", "--data folder", "holds no images"),
    train("images", "--data broken.zip", "broken.zip cannot be read"),
    train("images", "--data folder --image-size 100000", "--image-size", "at most 8,192"),
    train("images", "--data folder --image-size 8 8192000", "--image-size", "at most 8,192"),
    train("images", "--data folder --image-size 8 0", "--image-size", "at least 1, got 0"),
    train("images", "--data folder --image-size 8 8 3", "--image-size", "one or two", "got 3"),
    train("images", "--data splits", "splits holds test and train"),
    train("images", "--data pipe.zip", "pipe.zip must be a regular file"),
    train("arrays", "--data pipe.npy", "there is no file pipe.npy"),
    train("images", "--data folder --channels 0", "--channels"),
    train("images", "--data folder --dropout 1", "--dropout must lie in [0, 1)"),
    train("mnist", "--classifier no.safetensors", "there is no file no.safetensors"),
    train("moons", "--out notes.txt", "notes.txt is a file; choose another --out"),
    train("moons", "--out notes.txt/run", "notes.txt"),
    train("moons", "--out folder", "holds files that are not a run"),
    train("moons", "--out .", "holds files that are not a run"),
    train("moons", "--out .. --overwrite", "not a run"),
    of("generate", "--out x.npy", "missing --run"),
    of("generate", "--run folder", "missing --out"),
    of("generate", "--run nothing --out x.npy", "nothing"),
    of("generate", "--run folder --out x.npy", "folder is not a run: it has no config.json"),
    of("generate", "--run notes.txt --out x.npy", "notes.txt"),
    of("generate", "--run notes.txt --out x.png", "--out must name a .npy or .csv file, got x.png"),
    of("generate", "--run notes.txt --out folder", "--out must name a .npy or .csv file"),
    of("generate", "--run notes.txt --out notes.txt/x.npy", "notes.txt"),
    of("generate", "--run notes.txt --out x.npy --gif x.mp4", "--gif must name a .gif file"),
    of("generate", "--run notes.txt --out x.npy --chunk-size 0", "--chunk-size", "got 0"),
    of("generate", "--run notes.txt --out x.npy --guidance -1", "--guidance", "-1"),
    of("generate", "--run notes.txt --out x.npy --guidance nan", "--guidance", "nan"),
    of("generate", "--run notes.txt --out x.npy --seed -1", "--seed", "-1"),
    of("generate", "--run notes.txt --out x.npy --num-samples 0", "--num-samples", "at least 1"),
    of("evaluate", "", "--run", "--against"),
    of("evaluate", "--run nothing.npy --against moons", "there is no file nothing.npy"),
    of(
        "evaluate",
        "--run nothing --against moons",
        "--run must be a run, a folder",
        "does not exist",
    ),
    of("evaluate", "--run good.csv --against mons", "--against must be mnist", "'mons'"),
    of("evaluate", "--run good.csv --against grid2d --num-samples 2", "--num-samples", "least 6"),
    of("evaluate", "--run good.csv --against grid2d --out x.txt", "--out must name a .json file"),
    of("evaluate", "--run good.csv --against digits", "one shape", "(64,)"),
    of("gallery", "", "--runs"),
    of("gallery", "--runs nothing", "there is no run folder nothing"),
    of("gallery", "--runs folder", "folder is not a run"),
    of("gallery", "--runs deep", "config.json cannot be read"),
    of("gallery", "--runs listed", "config.json is damaged"),
    of("gallery", "--runs foreign", "config.json is damaged"),
    of("process", "--a 1e9", "--a must lie between", "1000000000.0"),
    of("process", "--c 1e-30", "--c", "1e-30"),
    of("process", "--T 0", "--T", "0.0"),
    of("process", "--a 1e6 --T 1e6", "--a times --T must be at most 10,000"),
    of("process", "--num-paths 100000000000", "--num-paths must be at most 10,000"),
    of("process", "--num-paths 0", "--num-paths", "at least 1"),
    of("process", "--out notes.txt", "notes.txt"),
    of("explosion", "--earliest 2", "--earliest", "2.0"),
    of("explosion", "--times 1", "--times", "at least 2"),
    of("explosion", "--trajectories 0", "--trajectories", "at least 1"),
    of("features", "fonts", "'fonts'", "mnist", "cifar10"),
    of("features", "mnist --epochs 0", "--epochs", "at least 1"),
]
ALL = [*NUMBERS, *NAMES, *FILES]


def fill(folder: Path) -> None:
    """Files of every bad kind."""
    (folder / "folder").mkdir()
    (folder / "folder" / "thesis.tex").write_text("years of work")
    (folder / "notes.txt").write_text("mine")
    for name in ("pipe.zip", "pipe.npy"):
        os.mkfifo(folder / name)
    for name in ("train", "test"):
        (folder / "splits" / name).mkdir(parents=True)
        (folder / "splits" / name / "x.png").write_text("x")
    (folder / "empty.npy").write_bytes(b"")
    np.save(folder / "scalar.npy", np.float32(3))
    np.save(folder / "text.npy", np.array(["a", "b"]))
    np.save(folder / "object.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.save(folder / "complex.npy", np.ones((20, 2)) * 1j)
    np.save(folder / "nan.npy", np.full((30, 2), np.nan))
    np.save(folder / "two.npy", np.zeros((2, 2)))
    np.save(folder / "none.npy", np.zeros((0, 2)))
    forged = (folder / "two.npy").read_bytes().replace(b"(2, 2), }", b"(2000000000, 2000), }")
    (folder / "forged.npy").write_bytes(forged)
    (folder / "broken.npz").write_bytes(b"PK\x03\x04" + bytes(50))
    (folder / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(50))
    with zipfile.ZipFile(folder / "table.parquet", "w") as archive:
        archive.writestr("x", "y")
    (folder / "words.csv").write_text("name,x\nanna,1\nbert,2\n")
    (folder / "ragged.csv").write_text("x,y\n1,2\n3\n")
    (folder / "empty.csv").write_text("")
    (folder / "twice.csv").write_text("x,x\n1,2\n")
    (folder / "good.csv").write_text("x,y\n" + "1,2\n3,4\n" * 20)
    (folder / "short.csv").write_text("1\n2\n")
    for name, text in (
        ("deep", "[" * 100_000),
        ("listed", '["kacjax-run-2"]'),
        ("foreign", '{"format": "kacjax-run-2", "data": "faces"}'),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(text)


def contents(folder: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    fill(folder)
    before, home = contents(folder), os.getcwd()
    os.chdir(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KACJAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield folder
    os.chdir(home)
    assert contents(folder) == before


def test_there_are_enough_of_them():
    assert len(ALL) >= 120


@pytest.mark.parametrize(("command", "argv", "words"), ALL, ids=lambda x: str(x)[:60])
def test_bad_input_is_refused_in_a_line(command, argv, words, desk, capsys):
    before = contents(desk)
    assert importlib.import_module(f"experiments.{command}").main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert len(printed.err) < 500
    assert "Traceback" not in printed.out
    for word in words:
        assert word in printed.err
    assert contents(desk) == before


def test_paths_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    flags = ["--run=~/r", "--out=~/x.npy", "--gif=~nobody-of-this-name/x.gif"]
    config = parse(GenerateConfig, flags, "generate", "About.")
    places = "/home/anna/r", "/home/anna/x.npy", "~nobody-of-this-name/x.gif"
    assert (config.run, config.out, config.gif) == tuple(map(Path, places))
    assert parse(GalleryConfig, ["--runs", "~/r", "b"], "gallery", "About.").runs == (
        Path("/home/anna/r"),
        Path("b"),
    )
    config = parse(DEFAULTS, ["images", "--data=~/x"], "train", "About.")
    assert config.source == dataclasses.replace(
        DEFAULTS["images"][1].source, data=Path("/home/anna/x")
    )
