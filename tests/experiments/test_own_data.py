"""Data sets of one's own: sides of images, copies among them, and tables of few values."""

import contextlib
import csv
import dataclasses
import json
import shutil
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from flax import nnx

import kacjax
from experiments import generate
from experiments.command import UserError
from experiments.config import ArraysConfig, FolderConfig, differences, from_dict, to_dict
from experiments.datasets.arrays import numbers_of, read_arrays, read_columns
from experiments.datasets.pictures import Pictures, PixelJudge
from experiments.datasets.vectors import Arrays
from experiments.defaults import DEFAULTS
from tests.experiments.small_runs import draw_pictures


@pytest.mark.parametrize("sides", [(8,), (8, 12)])
def test_sides_are_kept_in_the_configuration(sides, tmp_path):
    default = DEFAULTS["images"][1]
    config = dataclasses.replace(default, source=FolderConfig(tmp_path, image_size=sides))
    values = json.loads(json.dumps(to_dict(config)))
    assert from_dict(values, default) == config
    assert differences(values, to_dict(config)) == []
    other = dataclasses.replace(default, source=FolderConfig(tmp_path, image_size=(8, 16)))
    (said,) = differences(values, to_dict(other))
    assert said == f"--image-size was {json.dumps(sides)}, is [8, 16]"


@pytest.mark.long
def test_copies_among_images_do_not_count_as_near():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), np.uint8)
    twice = np.concatenate([images, images])
    figures = PixelJudge(twice, twice).quality(images[:4])
    assert figures == PixelJudge(images, images).quality(images[:4])
    assert np.isfinite(figures["nearest_training_ratio"])
    with pytest.raises(ValueError, match="four different images"):
        PixelJudge(images[:1].repeat(5, 0), images)


@pytest.mark.parametrize("values", [2, 1000])
def test_tables_of_few_values_are_judged_without_memorization(values, tmp_path):
    data = np.random.default_rng(0).integers(0, values, (200, 3)).astype(float)
    np.save(tmp_path / "x.npy", data)
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy"))
    figures = dataset.quality(data[:50])
    assert set(figures) == {headline.key for headline in dataset.headlines}
    assert ("memorization_ratio" in figures) == (values == 1000)


def save_learned(file, dataset):
    """The file of a run on these data, whose network has not learned anything."""
    classes = len(dataset.classes) or None
    network = kacjax.models.MLP(*dataset.event, rngs=nnx.Rngs(0), width=8, depth=1, classes=classes)
    kacjax.save_velocity(file, kacjax.Velocity(network, kacjax.kac_path()), dataset.notes())


@pytest.mark.parametrize("labels", [False, True])
def test_samples_become_a_table_like_the_one_they_were_learned_from(labels, tmp_path):
    rng = np.random.default_rng(0)
    table, made, out = (tmp_path / name for name in ("table.csv", "made.safetensors", "new.csv"))
    kinds = np.array(["oak", "elm, old"])
    with table.open("w", newline="") as file:
        rows = [["leaf, cm", "height", "species"][: 2 + labels]]
        rows += [[x, 10 * x, kinds[int(x > 0)]][: 2 + labels] for x in rng.normal(size=60)]
        csv.writer(file).writerows(rows)
    dataset = Arrays(ArraysConfig(table, "species" if labels else None))
    save_learned(made, dataset)
    flags = ["--run", str(made), "--num-samples", "5", "--solver-steps", "2", "--out"]
    assert generate.main([*flags, str(out)]) == 0
    assert generate.main([*flags, str(tmp_path / "new.npy")]) == 0
    found = list(csv.reader(out.open()))
    assert found[0] == rows[0]
    numbers = np.array([row[:2] for row in found[1:]], np.float32)
    np.testing.assert_array_equal(numbers, np.load(tmp_path / "new.npy"))
    assert [row[2:] for row in found[1:]] == [[kinds[[1, 0][i % 2]]] * labels for i in range(5)]
    # It is a table as any other: to learn from, and to be judged.
    again = read_arrays(out, "species" if labels else None)
    assert again.names == tuple(rows[0][:2])
    assert again.classes == (("elm, old", "oak") if labels else ())
    columns = {name: read_columns(out)[name] for name in rows[0][:2]}
    np.testing.assert_array_equal(numbers_of(out, columns)[0], again.data)


def test_images_do_not_become_a_table(tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(20, 2, 3)))
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy", held_out=0.3))
    save_learned(tmp_path / "made.safetensors", dataset)
    assert (
        generate.main(
            ["--run", str(tmp_path / "made.safetensors"), "--out", str(tmp_path / "new.csv")]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert "--out must name a .npy file for data of shape (2, 3), got " in said
    assert not (tmp_path / "new.csv").exists()


def test_names_of_columns_are_unique(tmp_path):
    """Samples can be written as a table that can be read again, whatever the file was."""
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "wide.npz", x=rng.normal(size=(20, 2)), y=rng.normal(size=20))
    assert read_arrays(tmp_path / "wide.npz").names == ("x 0", "x 1", "y")
    np.save(tmp_path / "one.npy", rng.normal(size=20))
    assert read_arrays(tmp_path / "one.npy").names == ()
    # A file that is called as the column is.
    (tmp_path / "kind").write_text("0\n")
    table = tmp_path / "table.csv"
    table.write_text("x,kind\n" + "".join(f"{i},{i % 2}\n" for i in range(20)))
    assert read_arrays(table, "kind").label == "kind"
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{i % 2}\n" for i in range(20)))
    assert read_arrays(table, str(labels)).label == "class"


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"names": 5}, "not iterable"),
        ({"names": ["a"]}, "names must be 2, got 1."),
        ({"classes": ["a", "b"]}, "classes must be 3, got 2."),
    ],
)
def test_notes_that_do_not_fit_are_damage(notes, words, tmp_path, capsys):
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, classes=3)
    file = tmp_path / "v.safetensors"
    kacjax.save_velocity(file, kacjax.Velocity(network, kacjax.kac_path()), notes)
    assert generate.main(["--run", str(file), "--out", str(tmp_path / "x.npy")]) == 2
    said = capsys.readouterr().err
    assert f"the notes in {file} are damaged: " in said
    assert words in said


def test_guidance_needs_a_network_that_knows_no_class(tmp_path, capsys):
    network = kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=8, depth=1, classes=3)
    file, velocity = tmp_path / "v.safetensors", kacjax.Velocity(network, kacjax.kac_path())
    kacjax.save_velocity(file, velocity, {"label_dropout": 0.0})
    flags = ["--run", str(file), "--out", str(tmp_path / "x.npy"), "--guidance", "2"]
    assert generate.main(flags) == 2
    assert "--guidance needs a network trained with --label-dropout" in capsys.readouterr().err


@pytest.mark.long
def test_copies_of_any_training_image_are_seen():
    """Also of those beyond the ones that are judged by."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), np.uint8)
    judge = PixelJudge(images[:20], images)
    ratio = "nearest_training_ratio"
    assert judge.quality(images[30:40])[ratio] < 1e-3
    # The ones that are judged by are of the training themselves.
    assert 0.8 < judge.quality(judge.other, real=True)[ratio] < 1.25
    assert ratio not in PixelJudge(images, None).quality(images[:10])


@pytest.mark.parametrize("stream", [False, True])
def test_images_that_cannot_be_judged_are_refused_before_the_training(stream, tmp_path):
    draw_pictures(tmp_path / "all")
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "all" / "dark" / "0.png").read_bytes())
    shutil.rmtree(tmp_path / "all")
    source = FolderConfig(tmp_path, image_size=(8,), stream=stream)
    config = dataclasses.replace(DEFAULTS["images"][1], source=source)
    with pytest.raises(UserError, match=r"--data: .*four different images to judge by, got 1"):
        Pictures(config, False)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_stream_has_the_labels_of_a_network_with_classes(dropout, tmp_path):
    source = FolderConfig(draw_pictures(tmp_path), image_size=(8,), stream=True)
    training = dataclasses.replace(DEFAULTS["images"][1].training, batch_size=4)
    config = dataclasses.replace(DEFAULTS["images"][1], source=source, training=training)
    with contextlib.closing(Pictures(config, False)) as dataset:
        for classes in (2, None):
            trainer = SimpleNamespace(classes=classes, label_dropout=dropout)
            batch = next(dataset.source(trainer, jax.random.key(0), 0, 0))
            assert (batch.labels is None) == (classes is None)
