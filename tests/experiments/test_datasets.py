"""Data that people have in files, and figures that tell real data from copies and noise."""

import functools
import json

import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

from experiments.command import UserError
from experiments.config import DATA, ArraysConfig
from experiments.datasets import finish, headlines_of, make_known, pictures
from experiments.datasets.arrays import read_arrays
from experiments.datasets.vectors import Arrays
from experiments.defaults import DEFAULTS
from kacjax.data import GRID2D_MODES, ImageArrays

RNG_SEED = 0


def values_of(*shape):
    return np.random.default_rng(RNG_SEED).normal(40, 3, shape)


@pytest.mark.parametrize("shape", [(30,), (30, 4), (30, 2, 3), (30, 2, 3, 1)])
def test_npy_of_any_shape(shape, tmp_path):
    values = values_of(*shape)
    np.save(tmp_path / "x.npy", values)
    table = read_arrays(tmp_path / "x.npy")
    np.testing.assert_array_equal(table.data, values.reshape(30, *(shape[1:] or (1,))))
    assert (table.labels, table.classes) == (None, ())
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy", held_out=0.2))
    train, labels = dataset.training(jax.random.key(0))
    assert (dataset.num, dataset.event, labels) == (24, (values[0].size,), None)
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
    # As the velocity's file says it.
    notes = json.loads(json.dumps(dataset.notes()))
    for found in (dataset.finish(train), finish(notes, train)):
        assert found.shape[1:] == (shape[1:] or (1,))
        rows, known = (x.reshape(len(x), -1).astype(np.float32) for x in (found, values))
        nearest = np.abs(rows[:, None] - known).max(axis=2).min(axis=1)
        assert nearest.max() < 1e-4
    held_out = {tuple(row) for row in np.float32(dataset._held_out)}
    assert len(held_out) == 6
    assert not held_out & {tuple(row) for row in np.float32(found.reshape(24, -1))}


def test_npz_with_labels(tmp_path):
    values, kind = values_of(20, 2), np.array(["b", "a"] * 10)
    np.savez(tmp_path / "x.npz", values=values, more=np.arange(20), kind=kind)
    table = read_arrays(tmp_path / "x.npz", "kind")
    np.testing.assert_array_equal(table.data, np.column_stack([values, np.arange(20)]))
    assert table.names == ("values 0", "values 1", "more")
    assert (table.labels.tolist(), table.classes) == ([1, 0] * 10, ("a", "b"))


TABLE = [["1.5", "2", "no"], ["2.5", "-3e1", "yes"], ["4", "5", "no"]]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("header", [True, False])
def test_csv(separator, encoding, header, tmp_path):
    names = ["größe", "mass", "alive"]
    file = tmp_path / "x.csv"
    lines = [separator.join(row) for row in [names] * header + TABLE]
    file.write_text("\r\n".join(lines) + "\r\n\r\n", encoding=encoding)
    table = read_arrays(file, "alive" if header else "column 2")
    np.testing.assert_array_equal(table.data, [[1.5, 2], [2.5, -30], [4, 5]])
    assert table.names == (("größe", "mass") if header else ("column 0", "column 1"))
    assert (table.labels.tolist(), table.classes) == ([0, 1, 0], ("no", "yes"))


NUMBERS = values_of(30, 3).tolist()
COUNTED = [[i, *row] for i, row in enumerate(NUMBERS)]
SPECIES = [[*row, ["iris", "rose"][i % 2]] for i, row in enumerate(NUMBERS)]


@pytest.mark.parametrize(
    ("header", "rows", "names"),
    [
        # As pandas writes them: columns without names, and an index.
        ("0,1,2", NUMBERS, ("0", "1", "2")),
        (",0,1,2", COUNTED, ("0", "1", "2")),
        (",0,1,2", COUNTED[7:], ("", "0", "1", "2")),
        (",a,b,c", COUNTED, ("a", "b", "c")),
        (",2019,2020,2021", COUNTED, ("2019", "2020", "2021")),
        (",a,b", NUMBERS, ("", "a", "b")),
        ("city,2019,2020", NUMBERS, ("city", "2019", "2020")),
        ("1.5,2019,2020", NUMBERS, None),
        ("0,1", [[0, 1], [1, 1]] * 9, None),
    ],
)
def test_the_first_row_of_a_csv_is_a_header_or_a_datum(header, rows, names, tmp_path):
    lines = [header, *(",".join(map(str, row)) for row in rows)]
    (tmp_path / "x.csv").write_text("\n".join(lines))
    table = read_arrays(tmp_path / "x.csv")
    kept = rows if names else [list(map(float, header.split(","))), *rows]
    width = len(rows[0]) if names is None else len(names)
    assert table.names == (names or tuple(f"column {i}" for i in range(width)))
    np.testing.assert_array_equal(table.data, np.array(kept)[:, -width:])


def test_a_class_in_the_first_row_is_no_header(tmp_path):
    (tmp_path / "x.csv").write_text("\n".join(",".join(map(str, row)) for row in SPECIES))
    table = read_arrays(tmp_path / "x.csv", "column 3")
    np.testing.assert_array_equal(table.data, NUMBERS)
    assert table.classes == ("iris", "rose")


def test_the_cell_that_is_no_number_is_shown(tmp_path):
    cells = [str(row[0]) for row in NUMBERS]
    cells[17] = ""
    for text, words in (
        ("a,b\n" + "".join(f"1,{cell}\n" for cell in cells), "got '' in row 18 of the data."),
        (
            "a,b\n" + "1,x y\n2,x\n",
            "'x y' in row 1 of the data; if these are classes, name them by",
        ),
        ("1.0 2.0\n" * 9, "got '1.0 2.0' in row 1 of the data; columns must be separated by , or"),
    ):
        (tmp_path / "x.csv").write_text(text)
        with pytest.raises(UserError) as error:
            read_arrays(tmp_path / "x.csv")
        assert words in str(error.value)
        assert ("--labels 'b'" in str(error.value)) == ("classes" in words)


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["12345678901234567890", "1"], ("1", "12345678901234567890")),
        (["123456789012345678", "-9"], ("-9", "123456789012345678")),
        (["007", "7"], ("007", "7")),
        (["1_0", "10"], ("10", "1_0")),
        ([1e19, 2.0], ("10000000000000000000", "2")),
    ],
)
def test_different_labels_are_different_classes(labels, classes, tmp_path):
    np.save(tmp_path / "x.npy", values_of(10, 2))
    np.savez(tmp_path / "labels.npz", labels * 5)
    table = read_arrays(tmp_path / "x.npy", str(tmp_path / "labels.npz"))
    assert table.classes == classes
    assert len(set(table.labels[:2])) == 2


def test_labels_of_another_file(tmp_path):
    np.save(tmp_path / "x.npy", values_of(10, 2))
    numbers = [0, 11, 2, 10, 1, 0, 11, 2, 10, 1]
    np.save(tmp_path / "labels.npy", numbers)
    (tmp_path / "labels.csv").write_text("kind\n" + "".join(f"{i}\n" for i in numbers))
    np.save(tmp_path / "floats.npy", np.float32(numbers))
    for name in ("labels.npy", "labels.csv", "floats.npy"):
        table = read_arrays(tmp_path / "x.npy", str(tmp_path / name))
        # In the order of their size, and not of their letters.
        assert table.classes == ("0", "1", "2", "10", "11")
        assert table.labels.tolist() == [0, 4, 2, 3, 1, 0, 4, 2, 3, 1]
        assert table.labels.dtype == np.int32


def test_numbers_with_a_large_common_part_are_standardized_and_brought_back(tmp_path):
    """As times in seconds are, of which float32 keeps minutes only."""
    values = 1.7e9 + values_of(60, 1)
    np.save(tmp_path / "x.npy", values)
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy"))
    train, _ = dataset.training(jax.random.key(0))
    np.testing.assert_allclose([train.mean(), train.std()], [0, 1], atol=1e-3)
    found = finish(json.loads(json.dumps(dataset.notes())), train)
    nearest = np.abs(found - values.T).min(axis=1)
    assert nearest.max() < 1e-3
    quality = dataset.quality(found)
    assert quality["energy_distance"] < 0.3


def test_a_constant_component_stays_as_it_is(tmp_path):
    values = np.column_stack([values_of(60), np.full(60, 0.1), np.zeros(60)])
    np.save(tmp_path / "x.npy", values)
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy"))
    train, _ = dataset.training(jax.random.key(0))
    assert np.all(np.isfinite(train))
    np.testing.assert_allclose(dataset.finish(train)[:, 1:], [[0.1, 0]] * 54, atol=1e-6)
    assert set(dataset.figures({"kac": values})) == {"marginals.png", "samples.png"}


def written(text):
    return lambda folder: (folder / "x.csv").write_text(text)


def saved(array):
    return lambda folder: np.save(folder / "x.npy", array)


@pytest.mark.parametrize(
    ("write", "labels", "words"),
    [
        (written(""), None, "it is empty"),
        (written("a,b\n1,2\n3\n"), None, "row 3 has 1 columns and not 2"),
        (written("a,a\n1,2\n"), None, "two columns have one name"),
        (written("a,b\n1,x\n"), None, "column 'b' must hold numbers, got .*x"),
        (written("a,b\n1,nan\n"), None, "column 'b' must be finite, got 1 others"),
        (written("a,b\n1,\n"), None, "column 'b' must hold numbers"),
        (written("a,b\n"), None, "must not be empty"),
        (written("a\n1\n"), "a", "holds no data beside the labels"),
        (written("a,b\n1,2\n"), "c", "--labels must be a file or one of a, b; got 'c'"),
        (
            written("a,b\n1,2\n3,0.5\n"),
            "b",
            "--labels must be integers or text, got the number 0.5",
        ),
        (written("a,b\n1,2\n"), "x.csv", "must hold one column, got 2"),
        (written("\x00\xff"), None, "x.csv"),
        (saved(np.array(["a", "b"])), None, "one array of real numbers"),
        (saved(np.array([1j, 2])), None, "one array of real numbers"),
        (saved(np.array(3.0)), None, "one array of real numbers"),
        (saved(np.array([[1.0], [np.inf]])), None, "must be finite, got 1 others"),
        (saved(np.zeros((0, 3))), None, "must not be empty"),
        (saved(np.array([{}], object)), None, "x.npy cannot be read"),
        (saved(np.array([1e200])), None, "numbers below 1e30"),
        (lambda folder: (folder / "x.npy").write_bytes(b"\x93NUMPY"), None, "x.npy"),
        (lambda folder: (folder / "x.npz").write_bytes(b"PK\x03\x04"), None, "x.npz"),
        (lambda folder: np.savez(folder / "x.npz", a=np.ones(4), n=3), None, "column 'n' must not"),
        (lambda folder: np.savez(folder / "x.npz", a=np.ones(4), b=np.ones(3)), None, "one length"),
        (lambda folder: (folder / "x.txt").touch(), None, "must be one of .npy, .npz, .csv"),
        (lambda folder: (folder / "x.npy").mkdir(), None, "there is no file"),
    ],
)
def test_files_that_cannot_be_meant(write, labels, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    (file,) = tmp_path.iterdir()
    with pytest.raises(UserError, match=words):
        read_arrays(file, labels)


def test_labels_must_be_as_many_as_data(tmp_path):
    np.save(tmp_path / "x.npy", values_of(10, 2))
    np.save(tmp_path / "labels.npy", np.zeros(9))
    with pytest.raises(UserError, match="one for each of 10 data"):
        read_arrays(tmp_path / "x.npy", str(tmp_path / "labels.npy"))
    with pytest.raises(UserError, match=r"five of each; got 10, of which --held-out 0\.1 are 1"):
        Arrays(ArraysConfig(tmp_path / "x.npy"))


def test_figures_of_arrays_tell_data_from_copies_and_noise(tmp_path):
    random = np.random.default_rng(0)
    values = random.normal((5, -200), (0.1, 30), (800, 2))
    np.save(tmp_path / "x.npy", values)
    dataset = Arrays(ArraysConfig(tmp_path / "x.npy", held_out=0.25))
    real = dataset.quality(random.normal((5, -200), (0.1, 30), (400, 2)))
    assert real.keys() == dataset.reference(400).keys() == {line.key for line in dataset.headlines}
    copies = dataset.quality(dataset.finish(dataset.training(jax.random.key(0))[0][:400]))
    shifted = dataset.quality(random.normal((5.3, -200), (0.1, 30), (400, 2)))
    assert 0.6 < real["memorization_ratio"] < 1.6
    assert copies["memorization_ratio"] < 1e-3
    for name in ("energy_distance", "sliced_wasserstein"):
        assert 5 * real[name] < shifted[name]
        np.testing.assert_allclose(dataset.reference(400)[name], real[name], atol=0.1)
    assert abs(real["two_sample_accuracy"] - 0.5) < 0.1 < shifted["two_sample_accuracy"] - 0.5


def test_figures_of_the_grid_tell_modes_from_noise():
    dataset, random = make_known("grid2d"), np.random.default_rng(0)
    modes = np.asarray(GRID2D_MODES)
    good = np.float32(np.repeat(modes, 20, axis=0) + 1e-4 * random.normal(size=(180, 2)))
    found = dataset.quality(good)
    assert found.keys() >= {line.key for line in dataset.headlines}
    assert found["median_distance_to_mode"] < 2e-4
    assert found["within_0.01_of_a_mode"] == 1
    assert found["mode_total_variation"] < 1e-6
    np.testing.assert_allclose(found["relative_mode_width"], 1, atol=0.2)
    wide = dataset.quality(np.float32(good + 0.002 * random.normal(size=good.shape)))
    assert 10 < wide["relative_mode_width"] < 30
    one = dataset.quality(good[:20].repeat(9, axis=0))
    np.testing.assert_allclose(one["mode_total_variation"], 8 / 9, atol=1e-6)


@pytest.mark.parametrize("name", DATA)
def test_headlines_are_known_without_the_data(name):
    found = headlines_of(name, {"energy_distance", "confidence", "relative_brightness", "other"})
    assert found
    assert {line.key for line in found} <= {"energy_distance", "confidence", "relative_brightness"}


def digits():
    """The small digits of scikit-learn in the size of MNIST, as bytes."""
    images = load_digits().images
    large = np.pad(np.kron(images, np.ones((1, 3, 3))), ((0, 0), (2, 2), (2, 2)))
    return np.rint(large * (255 / 16)).astype(np.uint8)[..., None]


@pytest.fixture(scope="module")
def judge():
    """800 of them for training; the others, halved, are what samples are compared with."""
    images = digits()
    assert images.shape[1:] == (28, 28, 1)
    none = np.zeros(len(images), np.int32)
    parts = {"train": slice(800), "test": slice(800, None)}
    sets = {
        split: ImageArrays(images[part], none[part], tuple("0123456789"))
        for split, part in parts.items()
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in ("mnist", "cifar10"):
            patch.setitem(pictures.LOADERS, name, lambda split, *rest, **options: sets[split])
        yield pictures.Pictures(DEFAULTS["mnist"][1])


def noise_of(num):
    return np.random.default_rng(0).integers(0, 256, (num, 28, 28, 1), np.uint8)


@pytest.mark.long
def test_real_images_copies_and_noise_are_told_apart(judge):
    real = judge.reference(400)
    assert real.keys() == {headline.key for headline in judge.headlines}
    copies = judge.quality(digits()[:400])
    noise = judge.quality(noise_of(400))
    # Equal laws and numbers have a coverage of about 0.97.
    assert min(real["coverage"], copies["coverage"]) > 0.85
    assert min(real["precision"], copies["precision"]) > 0.75
    assert 0.8 < real["memorization_ratio"] < 1.25
    assert copies["memorization_ratio"] < 1e-6
    assert noise["coverage"] == noise["precision"] == 0
    assert noise["memorization_ratio"] > 3
    distance = "classifier_frechet_distance"
    assert 10 * max(real[distance], copies[distance]) < noise[distance]
    labels = load_digits().target[800:]
    ones = judge.quality(digits()[800:][labels == 1])
    assert ones["class_total_variation"] > real["class_total_variation"] + 0.3
    assert ones["coverage"] < 0.5


def test_without_a_classifier_pixels_judge(judge, monkeypatch):
    monkeypatch.setattr(pictures, "_patches", functools.partial(pictures._patches, num=1000))
    dataset = pictures.Pictures(DEFAULTS["cifar10"][1])
    real, copies = dataset.reference(300), dataset.quality(digits()[:300])
    assert real.keys() == {headline.key for headline in dataset.headlines}
    noise, dark = dataset.quality(noise_of(300)), dataset.quality(digits()[:300] // 2)
    name = "patch_sliced_wasserstein"
    assert 5 * max(real[name], copies[name]) < noise[name]
    assert copies["nearest_training_ratio"] < 0.7 < real["nearest_training_ratio"] < 1.4
    assert noise["nearest_training_ratio"] > 1.4
    np.testing.assert_allclose(real["relative_brightness"], 1, atol=0.1)
    np.testing.assert_allclose(dark["relative_brightness"], 0.5, atol=0.1)
    np.testing.assert_allclose(dark["relative_contrast"], 0.5, atol=0.1)
