"""The interface: a new process is its map and its variance, and everything follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

from kacjax import KacProcess, Process, WienerProcess

pytestmark = pytest.mark.optimised


class UniformProcess(Process):
    """Uniform on [-b(s), b(s)] with b(s) = 1 - exp(-s): the process of the MMD flow."""

    def from_normal(self, s, n):
        return -jnp.expm1(-s) * (2 * ndtr(n) - 1)

    def variance(self, s):
        return jnp.expm1(-s) ** 2 / 3


class MapOnly(Process):
    """A process with nothing but another one's map and variance."""

    process: Process

    def from_normal(self, s, n):
        return self.process.from_normal(s, n)

    def variance(self, s):
        return self.process.variance(s)


def test_a_new_process_in_ten_lines(x64):
    process, s = UniformProcess(), 0.7
    b = -np.expm1(-s)
    y = jnp.linspace(-0.9, 0.9, 13) * b
    np.testing.assert_allclose(process.cdf(s, y), (y / b + 1) / 2, rtol=1e-9)
    np.testing.assert_allclose(process.density(s, y), 1 / (2 * b), rtol=1e-6)
    np.testing.assert_allclose(process.velocity(s, y), y * np.exp(-s) / b, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(process.quantile(s, 0.75), b / 2, rtol=1e-12)
    x, v = process.sample_with_velocity(jax.random.key(0), s, (100,))
    np.testing.assert_allclose(v, process.velocity(s, x), rtol=1e-6, atol=1e-9)
    outside = jnp.array([-1.0, 1.2]) * b
    np.testing.assert_array_equal(process.density(s, outside), 0)
    np.testing.assert_allclose(process.cdf(s, outside), [0, 1], atol=1e-12)
    assert np.all(np.isfinite(process.velocity(s, outside)))


def test_samples_and_their_velocities_share_shapes_and_normals():
    """A parameter that does not fit the shape is refused by both, and never broadcasts noise."""
    key = jax.random.key(0)
    for process in (KacProcess(jnp.full(3, 9.0)), WienerProcess(jnp.ones(3))):
        for draw in (process.sample, process.sample_with_velocity):
            with pytest.raises(ValueError, match="do not broadcast"):
                draw(key, 0.5, (2, 1))
        y = process.sample(key, 0.5, (2, 3))
        np.testing.assert_allclose(y, process.sample_with_velocity(key, 0.5, (2, 3))[0], rtol=1e-6)
    with pytest.raises(ValueError, match="shape must hold the process's parameters"):
        MapOnly(WienerProcess(jnp.ones(3))).sample(key, 0.5, (2, 1))


@pytest.mark.parametrize(
    "process", [pytest.param(KacProcess(2.0, 1.5), marks=pytest.mark.slow), WienerProcess(0.7)]
)
def test_derived_formulas_agree_with_the_processes_own(process, x64):
    """Bisection and autodiff of the map against closed forms."""
    generic, s = MapOnly(process), 0.8
    y = jnp.linspace(-0.8, 0.8, 9)
    for name, tolerance in (("cdf", 1e-9), ("velocity", 1e-7), ("density", 1e-7)):
        own, derived = (jax.jit(getattr(p, name))(s, y) for p in (process, generic))
        np.testing.assert_allclose(derived, own, rtol=tolerance, atol=1e-9)
    key = jax.random.key(0)
    for own, derived in zip(
        process.sample_with_velocity(key, s, (50,)),
        jax.jit(lambda: generic.sample_with_velocity(key, s, (50,)))(),
        strict=True,
    ):
        np.testing.assert_allclose(derived, own, rtol=1e-9)


@pytest.mark.parametrize("process", [KacProcess(4.0, 2.0), WienerProcess(1.3), UniformProcess()])
def test_linear_velocity_is_the_regression(process):
    """E[v y] / E[y^2] over 200,000 samples, to 1%."""
    s = 0.4
    y, v = process.sample_with_velocity(jax.random.key(0), s, (200_000,))
    expected = jnp.mean(v * y) / jnp.mean(y * y)
    np.testing.assert_allclose(process.linear_velocity(s), expected, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    "process",
    [KacProcess(4.0, 2.0), WienerProcess(1.3)],
)
def test_every_method_under_jit_vmap_and_grad(process):
    key, s, y = jax.random.key(0), jnp.array([0.3, 0.5]), jnp.array([0.1, -0.2])
    for name in ("velocity", "density", "log_density", "cdf", "from_normal", "to_normal"):
        method = getattr(process, name)
        np.testing.assert_allclose(jax.jit(method)(s, y), method(s, y), rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(
            jax.jit(jax.vmap(method))(s, y), method(s, y), rtol=1e-5, atol=1e-7
        )
        total = lambda s, y, method=method: jnp.sum(method(s, y))  # noqa: E731
        gradient = jax.jit(jax.grad(total, (0, 1)))(s, y)
        assert all(bool(np.all(np.isfinite(g))) for g in gradient)
    for name in ("variance", "atom_mass", "linear_velocity"):
        method = getattr(process, name)
        np.testing.assert_allclose(jax.jit(jax.vmap(method))(s), method(s), rtol=1e-6)
        assert np.isfinite(jax.jit(jax.grad(method))(0.3))
    u = jnp.array([0.2, 0.9])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(process.quantile))(s, u), process.quantile(s, u), rtol=1e-5
    )
    run = jax.vmap(lambda key, s: process.sample_with_velocity(key, s, (3,)))
    jitted = jax.jit(run)(jax.random.split(key), s)
    np.testing.assert_allclose(
        jnp.stack(jitted), jnp.stack(run(jax.random.split(key), s)), rtol=1e-5
    )
    assert np.isfinite(jax.jit(jax.grad(lambda s: jnp.sum(process.sample(key, s, (3,)))))(0.3))


def test_wiener_law():
    """Moments of 100,000 samples to 2%, closed forms against each other."""
    process = WienerProcess(jnp.array([0.5, 2.0]))
    y, v = process.sample_with_velocity(jax.random.key(0), 0.3, (100_000, 2))
    np.testing.assert_allclose(jnp.var(y, axis=0), process.variance(0.3), rtol=0.02)
    np.testing.assert_allclose(v, y / 0.6, rtol=1e-5)
    np.testing.assert_allclose(
        process.density(0.3, 0.1),
        jax.vmap(jax.grad(lambda y, p: p.cdf(0.3, y)), (None, 0))(0.1, process),
        rtol=1e-5,
    )


@pytest.mark.parametrize("bad", [0.0, -2.0, float("nan"), float("inf")])
def test_bad_sigma(bad):
    with pytest.raises(ValueError, match=f"sigma must be positive and finite, got {bad}"):
        WienerProcess(bad)
