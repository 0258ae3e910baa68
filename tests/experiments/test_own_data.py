"""Data sets of one's own: sides of images, copies among them, and tables of few values."""

import dataclasses
import json

import numpy as np
import pytest

from experiments.config import ArraysConfig, FolderConfig, differences, from_dict, to_dict
from experiments.datasets.pictures import PixelJudge
from experiments.datasets.vectors import Arrays
from experiments.defaults import DEFAULTS


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


def test_one_number_of_an_earlier_run_is_understood(tmp_path):
    default = DEFAULTS["images"][1]
    config = dataclasses.replace(default, source=FolderConfig(tmp_path, image_size=(8,)))
    values = json.loads(json.dumps(to_dict(config)))
    values["source"]["image_size"] = 8
    assert from_dict(values, default) == config
    assert differences(values, to_dict(config)) == []


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
