"""Mode statistics against brute force, at known answers, and for samples of the mixture."""

import jax
import numpy as np
import pytest
import scipy.stats

from kacjax import data, metrics
from tests.metrics.points import X, assert_mean

MODES = data.GRID2D_MODES


def test_mode_statistics_equal_brute_force():
    x = (np.random.default_rng(0).normal(size=(1000, 2)) + np.array([0.5, 0])).astype(np.float32)
    weights = np.arange(1, 10) / 45
    table = np.linalg.norm(x[:, None].astype(float) - MODES[None], axis=-1)
    nearest, hit = table.argmin(axis=1), table.min(axis=1) <= 0.3
    shares = np.bincount(nearest, minlength=9) / 1000
    statistics = metrics.mode_statistics(x, MODES, 0.3, weights=weights)
    assert statistics.median_distance == pytest.approx(np.median(table.min(axis=1)), rel=1e-5)
    assert statistics.within_radius == pytest.approx(hit.mean())
    assert statistics.total_variation == pytest.approx(np.abs(shares - weights).sum() / 2, rel=1e-5)
    counts = np.bincount(nearest[hit], minlength=9)
    assert 0 < statistics.covered == np.sum(counts > 0)
    assert statistics.kl_divergence == pytest.approx(scipy.stats.entropy(shares, weights), rel=1e-4)
    squares = sum(
        np.var(x[hit & (nearest == mode)], axis=0).sum() * counts[mode]
        for mode in range(9)
        if counts[mode]
    )
    expected = np.sqrt(squares / (2 * np.sum(counts[counts > 0] - 1)))
    assert statistics.within_std == pytest.approx(expected, rel=1e-4)


def test_mode_statistics_see_a_missing_mode():
    whole = metrics.mode_statistics(MODES, MODES)
    assert whole[:5] == pytest.approx((0, 1, 0, 9, 0), abs=1e-6)
    assert np.isnan(whole.within_std)
    without = metrics.mode_statistics(MODES[:8], MODES)
    assert without.total_variation == pytest.approx(1 / 9)
    assert without.covered == 8
    assert without.kl_divergence == pytest.approx(np.log(9 / 8), rel=1e-5)


def test_weights_may_be_a_list_and_have_any_sum():
    listed = metrics.mode_statistics(X, X[:2], weights=[0.2, 0.8])
    array = metrics.mode_statistics(X, X[:2], weights=np.array([1.0, 4.0]))
    assert listed.total_variation == array.total_variation


def test_samples_of_the_mixture():
    # 200 repetitions of 500 samples of grid2d: the divergence of multinomial shares has the mean
    # (M - 1) / 2n (and 1e-2 of that in the next order), the total variation that of normal errors.
    keys = jax.random.split(jax.random.key(0), 200)
    statistics = jax.vmap(
        lambda key: metrics.mode_statistics(data.target("grid2d")(key, 500), MODES)
    )(keys)
    assert_mean(statistics.kl_divergence, 8 / (2 * 500))
    assert_mean(statistics.total_variation, 9 / 2 * np.sqrt(2 / np.pi * 8 / 81 / 500))
    assert np.all(statistics.covered == 9)
    assert np.all(statistics.within_radius == 1)
    # 491 degrees of freedom in each of two components.
    np.testing.assert_allclose(statistics.within_std, data.GRID2D_STD, rtol=5.5 / np.sqrt(4 * 491))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mode_statistics(X, X, radius=-1.0), "radius must be positive"),
        (lambda: metrics.mode_statistics(X, X, weights=np.ones(3) / 3), "weights must have shape"),
        (lambda: metrics.mode_statistics(X, X[:2], weights=[1.0, 0.0]), "weights must be positive"),
        (lambda: metrics.mode_statistics(X, X[:2], weights=[0.2, 0.3, 0.5]), r"shape \(2,\)"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
