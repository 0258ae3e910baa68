"""The judge of images around a classifier of known features."""

import numpy as np
import pytest

from experiments.judging.judge import ImageJudge
from kacjax import metrics

IMAGES = np.random.default_rng(0).integers(0, 256, size=(600, 4, 4, 1)).astype(np.uint8)


def classify(images):
    """Features are three corners; the class is the brighter one of the first two."""
    assert len(images) <= 250
    corners = images[:, 0, :3, 0] / 255
    bright = np.exp(8 * corners[:, :2])
    return corners, bright / bright.sum(axis=1, keepdims=True)


def test_statistics_equal_those_by_hand():
    real, other = IMAGES[:300], IMAGES[300:] // 2
    judge = ImageJudge(classify, real, chunk_size=250)
    statistics = judge.statistics(other)
    corners = other[:, 0, :3, 0] / 255
    distance = metrics.frechet_distance(corners, real[:, 0, :3, 0] / 255)
    assert statistics.classifier_frechet_distance == pytest.approx(distance, rel=1e-10)
    first = np.mean(corners[:, 0] >= corners[:, 1])
    real_first = np.mean(real[:, 0, 0] >= real[:, 0, 1])
    assert statistics.total_variation == pytest.approx(abs(first - real_first))
    gap = 8 * np.abs(corners[:, 0] - corners[:, 1])
    assert statistics.confidence == pytest.approx(np.mean(1 / (1 + np.exp(-gap))), rel=1e-6)


def test_real_images_score_better_than_dark_ones():
    judge = ImageJudge(classify, IMAGES[:300], chunk_size=250)
    real, dark = judge.statistics(IMAGES[300:]), judge.statistics(IMAGES[300:] // 4)
    # The mean for equal laws is the bias of frechet_distance, times the variance 1/12; the law of
    # its 9 terms, of mean 1/12 * 6 / 300 and more, stays within some ten times that.
    assert real.classifier_frechet_distance < 10 * (6 + 6) / (12 * 300)
    assert dark.classifier_frechet_distance > 0.1
    assert dark.confidence < real.confidence
