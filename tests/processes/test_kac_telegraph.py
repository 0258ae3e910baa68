"""Jump times, positions and whole paths."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from kacjax import KacProcess
from kacjax.processes.kac import telegraph
from kacjax.processes.kac.telegraph import jump_bound
from tests.processes.compilations import count_compilations
from tests.statistics import frequency_bound, ks_bound, ks_distance

pytestmark = pytest.mark.optimised


def draw_jumps(key, a, horizon, num, max_jumps=60):
    draw = lambda key: telegraph.jump_times(key, jnp.float32(a), jnp.float32(horizon), max_jumps)  # noqa: E731
    return jax.jit(jax.vmap(draw))(jax.random.split(key, num))


def test_counts_are_poisson_and_gaps_exponential():
    """20,000 paths; false-alarm rate 1e-7 a comparison."""
    times = draw_jumps(jax.random.key(0), 3.0, 2.0, 20_000)
    counts = jnp.sum(jnp.isfinite(times), axis=-1)
    for count in range(12):
        mass = scipy.stats.poisson.pmf(count, 6.0)
        assert abs(np.mean(counts == count) - mass) < frequency_bound(mass, counts.size)
    # Given that there is a jump, the first is uniform in law under its distribution function.
    first = np.asarray(times[:, 0])[np.asarray(counts) > 0]
    uniforms = -np.expm1(-3.0 * first) / -np.expm1(-6.0)
    assert ks_distance(uniforms) < ks_bound(first.size)
    finite = np.where(np.isfinite(times), times, 2.0)
    assert np.all(np.diff(finite, axis=-1) >= 0)
    assert finite.max() <= 2.0


def test_bound_comes_from_the_poisson_tail():
    bound = jump_bound(2.5, 2.0, 1000)
    assert 1000 * scipy.stats.poisson.sf(bound - 1, 5.0) <= telegraph.TAIL
    assert 1000 * scipy.stats.poisson.sf(bound - 2, 5.0) > telegraph.TAIL
    # For more components than 1 - TAIL / components can tell from 1.
    bound = jump_bound(9.0, 1.0, 10**9)
    assert 1e9 * scipy.stats.poisson.sf(bound - 1, 9.0) <= telegraph.TAIL
    assert 1e9 * scipy.stats.poisson.sf(bound - 2, 9.0) > telegraph.TAIL
    assert jump_bound(9.0, 0.0, 5) == 1
    # Of large means too.
    bound = jump_bound(1e5, 1.0, 10)
    assert 10 * scipy.stats.poisson.sf(bound - 1, 1e5) <= telegraph.TAIL
    assert 10 * scipy.stats.poisson.sf(bound - 2, 1e5) > telegraph.TAIL


@pytest.mark.long
def test_overflow_is_reported_and_never_cut():
    process = KacProcess(50.0, 1.0)
    run = lambda key: process.sample_path(key, jnp.ones(1), (10,), max_jumps=8)  # noqa: E731
    for draw in (run, jax.jit(run)):
        with pytest.raises(
            (eqx.EquinoxRuntimeError, jax.errors.JaxRuntimeError), match="jumped 8 times"
        ):
            jax.block_until_ready(draw(jax.random.key(0)))


@pytest.mark.long
def test_traced_rate_needs_a_bound():
    def run(a, bound=None):
        process = KacProcess(a, 1.0)
        return process.sample_path(jax.random.key(0), jnp.ones(1), (4,), max_jumps=bound)

    with pytest.raises(ValueError, match="max_jumps must be given"):
        jax.jit(run)(2.0)
    np.testing.assert_allclose(jax.jit(lambda a: run(a, 40))(2.0), run(2.0, 40), rtol=1e-6)


@pytest.mark.long
def test_paths_are_compiled_once():
    """Eager calls reuse the program: nothing is compiled at the second one, nor at another time."""
    process, key = KacProcess(), jax.random.key(0)

    def draw(scale):
        process.sample_path(key, scale * jnp.linspace(0.1, 1.0, 3), (5, 2))
        process.sample_with_velocity(key, scale * 0.5, (5, 2), method="path")

    draw(1.0)
    with count_compilations() as compiled:
        draw(1.0)
        draw(0.99)
    assert compiled == []


def test_position_is_the_integral_of_the_direction():
    """Against a fine Riemann sum, for every path, at a random time."""
    times = draw_jumps(jax.random.key(0), 4.0, 2.0, 30)
    direction = jax.random.rademacher(jax.random.key(1), (30,), jnp.float32)
    s = jax.random.uniform(jax.random.key(2), (30,), maxval=2.0)
    y = jax.vmap(telegraph.position)(times, direction, s)
    grid = (np.arange(20_000) + 0.5) / 20_000 * np.asarray(s)[:, None]
    flips = (np.asarray(times)[:, None, :] <= grid[..., None]).sum(-1)
    expected = np.asarray(direction) * np.mean((-1.0) ** flips, axis=1) * np.asarray(s)
    np.testing.assert_allclose(y, expected, atol=1.4e-3)


def test_paths_are_continuous_with_slopes_c_and_start_at_zero():
    times = jnp.linspace(0.0, 1.0, 2001)
    y = KacProcess(9.0, 3.0).sample_path(jax.random.key(0), times, (4, 3))
    assert y.shape == (2001, 4, 3)
    np.testing.assert_array_equal(y[0], 0)
    slopes = np.abs(np.diff(y, axis=0)) * 2000
    assert slopes.max() <= 3 * (1 + 1e-3)
    assert np.mean(np.abs(slopes - 3) < 0.02) > 0.97


@pytest.mark.long
def test_paths_have_the_covariance_of_the_process():
    """Cov(K(r), K(s)) = (Var(K(r)) + ...): checked at two times with 40,000 paths, to 4%."""
    process, r, s = KacProcess(3.0, 2.0), 0.4, 1.0
    y = process.sample_path(jax.random.key(0), jnp.array([s, r]), (40_000,))
    # The velocity's covariance is c^2 exp(-2 a |r - s|); integrate it twice.
    grid = (np.arange(400) + 0.5) / 400
    kernel = 4.0 * np.exp(-6.0 * np.abs(r * grid[:, None] - s * grid[None, :]))
    np.testing.assert_allclose(jnp.mean(y[0] * y[1]), kernel.mean() * r * s, rtol=0.04)
    np.testing.assert_allclose(jnp.var(y, axis=1), process.variance(jnp.array([s, r])), rtol=0.04)


@pytest.mark.slow
def test_rates_and_speeds_per_component():
    process = KacProcess(jnp.array([1.0, 20.0]), jnp.array([1.0, 3.0]))
    y = process.sample_path(jax.random.key(0), jnp.array([0.5, 1.0]), (20_000, 2))
    expected = jnp.stack([process.variance(jnp.full(2, s)) for s in (0.5, 1.0)])
    np.testing.assert_allclose(jnp.var(y, axis=1), expected, rtol=0.06)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_paths_in_every_precision(dtype):
    """Their last positions have the law, at 20,000 paths; false-alarm rate 1e-7."""
    with jax.enable_x64(dtype == "float64"):
        times = jnp.asarray([0.5], dtype)
        y = KacProcess(3.0, 2.0).sample_path(jax.random.key(0), times, (20_000,))
        assert y.dtype == ("float64" if dtype == "float64" else "float32")
        spread = jax.random.uniform(jax.random.key(1), y.shape)
        process, mass = KacProcess(3.0, 2.0), np.exp(-1.5) / 2
        u = np.where(
            y >= 1, 1 - mass * spread, np.where(y <= -1, mass * spread, process.cdf(0.5, y))
        )
    assert ks_distance(u) < ks_bound(20_000)


def test_bad_arguments():
    process = KacProcess()
    with pytest.raises(ValueError, match="times must be a vector"):
        process.sample_path(jax.random.key(0), 1.0, (2,))
    with pytest.raises(ValueError, match="times must be a vector of times"):
        process.sample_path(jax.random.key(0), jnp.zeros(0), (2,))
    with pytest.raises(ValueError, match="times must be finite"):
        process.sample_path(jax.random.key(0), jnp.array([jnp.inf]), (2,))
    with pytest.raises(ValueError, match="do not broadcast"):
        KacProcess(9.0, jnp.ones((2, 1))).sample_path(jax.random.key(0), jnp.ones(2), (3,))
    with pytest.raises(ValueError, match="times must not be negative"):
        process.sample_path(jax.random.key(0), jnp.array([-1.0]), (2,))
    with pytest.raises(ValueError, match="max_jumps must be an integer"):
        process.sample_path(jax.random.key(0), jnp.ones(1), (2,), max_jumps=0)
