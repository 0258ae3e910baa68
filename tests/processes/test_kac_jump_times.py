"""Jump times and positions of telegraph paths, given one after the other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from kacjax import KacProcess

NUM = 20_000


def test_positions_are_signed_sums_of_segments():
    """By hand: forth until 0.2, back until 0.5, forth again."""
    jumps = jnp.array([[0.2, 0.5, jnp.inf], [jnp.inf] * 3])
    process, directions = KacProcess(a=1.0, c=2.0), jnp.array([1.0, -1.0])
    expected = {0.1: (0.2, -0.2), 0.3: (0.2, -0.6), 0.8: (0.4, -1.6)}
    for s, positions in expected.items():
        np.testing.assert_allclose(process.position_at(jumps, directions, s), positions, atol=1e-6)


def test_counts_and_gaps_have_the_poisson_law():
    """Mean and variance of 20,000 counts, within five deviations: false alarms below 1e-6."""
    times = KacProcess(a=9.0).sample_jump_times(jax.random.key(0), 0.7, (NUM,))
    counts = np.isfinite(np.asarray(times)).sum(-1)
    mean = 9.0 * 0.7
    assert abs(counts.mean() - mean) < 5 * np.sqrt(mean / NUM)
    assert abs(counts.var() - mean) < 5 * np.sqrt((mean + 2 * mean**2) / NUM)
    finite = np.where(np.isfinite(times), times, np.nan)
    assert np.all(np.diff(finite, axis=-1)[~np.isnan(np.diff(finite, axis=-1))] > 0)
    assert np.nanmax(finite) <= 0.7


def test_positions_have_the_variance_of_the_process():
    """The variance of 20,000 positions, within five deviations: false alarms below 1e-6."""
    process, s = KacProcess(a=9.0, c=3.0), 0.4
    jumps = process.sample_jump_times(jax.random.key(1), 1.0, (NUM,))
    directions = jax.random.rademacher(jax.random.key(2), (NUM,), jnp.float32)
    y = np.asarray(process.position_at(jumps, directions, s))
    error = 5 * np.sqrt(np.var(y**2) / NUM)
    assert abs(np.mean(y**2) - float(process.variance(s))) < error


def test_traced_rates_need_a_bound():
    """The number of jump times is the size of an array."""
    draw = jax.jit(lambda a: KacProcess(a).sample_jump_times(jax.random.key(0), 1.0, (3,)))
    with pytest.raises(ValueError, match="max_jumps must be given"):
        draw(9.0)
