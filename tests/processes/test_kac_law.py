"""The Kac law against the oracle, against scipy's Skellam law, and against itself."""

import itertools
import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from kacjax import KacProcess

pytestmark = pytest.mark.optimised

ORACLE = json.loads((pathlib.Path(__file__).parents[1] / "kac_law.json").read_text())["rows"]
COLUMN = {name: np.array([row[name] for row in ORACLE]) for name in ORACLE[0]}
DTYPES = ("float32", "float64")


def oracle_process(dtype):
    a, c, s, y = (jnp.asarray(COLUMN[name], dtype) for name in "acsy")
    return KacProcess(a, c), s, y


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_oracle(dtype):
    with jax.enable_x64(dtype == "float64"):
        process, s, y = oracle_process(dtype)
        relative, absolute = (1e-13, 1e-14) if dtype == "float64" else (5e-6, 2e-6)
        for name in ("density", "velocity"):
            value = getattr(process, name)(s, y)
            assert value.dtype == dtype
            np.testing.assert_allclose(value, COLUMN[name], rtol=relative)
        np.testing.assert_allclose(
            process.log_density(s, y), np.log(COLUMN["density"]), atol=relative
        )
        np.testing.assert_allclose(process.cdf(s, y), COLUMN["cdf"], atol=absolute)
        np.testing.assert_allclose(process.variance(s), COLUMN["variance"], rtol=1e-6)
        # exp(-a s) has the condition number a s, for the rounding of a s alone.
        rounding = np.finfo(dtype).eps * (4 + 4 * COLUMN["a"] * COLUMN["s"])
        error = np.abs(np.asarray(process.atom_mass(s), np.float64) - COLUMN["atom_mass"])
        assert np.all(error <= rounding * COLUMN["atom_mass"] + np.finfo(dtype).tiny)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lam", [1e-4, 0.01, 0.3, 2.0, 9.0, 25.0, 90.0, 400.0])
def test_cdf_is_skellam(lam, dtype):
    z = np.concatenate([np.linspace(-0.99, 0.99, 37), np.linspace(-0.1, 0.1, 21)])
    z = z.astype(dtype).astype(np.float64)
    skellam = scipy.stats.skellam(lam * (1 + z) / 2, lam * (1 - z) / 2)
    expected = skellam.sf(0) + skellam.pmf(0) / 2
    with jax.enable_x64(dtype == "float64"):
        value = KacProcess(lam, 1.0).cdf(1.0, jnp.asarray(z, dtype))
        np.testing.assert_allclose(value, expected, atol=1e-12 if dtype == "float64" else 3e-7)


@pytest.mark.parametrize(
    "lam", [30.0, *(pytest.param(lam, marks=pytest.mark.slow) for lam in (0.5, 5e3))]
)
def test_lower_tail_is_accurate_in_relative_terms(lam, x64):
    z = -min(1.0, 9 / np.sqrt(lam)) * np.linspace(0.3, 0.95, 9)
    process = KacProcess(lam, 1.0)
    with mpmath.workdps(30):

        def density(x):
            r = mpmath.sqrt(1 - x * x)
            bessel = mpmath.besseli(0, lam * r) + mpmath.besseli(1, lam * r) / r
            return lam / 2 * mpmath.exp(-lam) * bessel

        # From one place to the next.
        order = np.argsort(z)
        ends = np.concatenate([[-1.0], z[order]])
        parts = [
            mpmath.quad(density, mpmath.linspace(low, high, 40 if low == -1 else 4))
            for low, high in itertools.pairwise(ends)
        ]
        sums = itertools.accumulate(parts, initial=mpmath.exp(-lam) / 2)
        expected = np.empty(len(z))
        expected[order] = [float(value) for value in list(sums)[1:]]
    np.testing.assert_allclose(process.cdf(1.0, jnp.asarray(z)), expected, rtol=1e-8)


@jax.jit
def local_law(a, c, s, y):
    """Velocity, density, its scale, and the slopes of the distribution function at a point."""
    process = KacProcess(a, c)
    scale = jnp.exp(process.log_density(s, jnp.zeros_like(y))) + 1 / (c * s)
    slopes = jax.grad(process.cdf, (0, 1))(s, y)
    return process.velocity(s, y), process.density(s, y), scale, *slopes


@pytest.mark.long
@settings(max_examples=40, deadline=None)
@given(
    st.floats(1e-3, 300.0),
    st.floats(0.05, 20.0),
    st.floats(0.05, 3.0),
    st.floats(-0.999, 0.999).filter(lambda z: abs(z) > 1e-200 or z == 0),
)
def test_law_in_float64(a, c, s, z):
    """Continuity equation, density as a derivative, bounds, symmetry and scaling at any point."""
    with jax.enable_x64(True):
        process, y = KacProcess(a, c), z * c * s
        v, p, scale, dF_ds, dF_dy = local_law(*(jnp.asarray(x) for x in (a, c, s, y)))
        np.testing.assert_allclose(dF_dy, p, rtol=1e-9)
        np.testing.assert_allclose(dF_ds + v * p, 0, atol=1e-9 * c * scale)
        assert abs(v) < c
        assert np.sign(v) == np.sign(z)
        np.testing.assert_allclose(process.velocity(s, -y), -v, rtol=1e-13)
        np.testing.assert_allclose(process.cdf(s, -y) + process.cdf(s, y), 1, rtol=1e-12)
        stretched = KacProcess(a / 2, c / 3)
        np.testing.assert_allclose(
            stretched.velocity(2 * s, y * 2 / 3), v / 3, rtol=1e-9, atol=1e-300
        )


@pytest.mark.long
def test_continuity_equation_by_finite_differences(x64):
    """The rule for the derivative of the distribution function is not assumed, but checked."""
    process, y = KacProcess(5.0, 2.0), jnp.linspace(-1.3, 1.3, 41)
    step = 1e-5
    cdf = jax.jit(lambda p, s: KacProcess(p[0], p[1]).cdf(s, y))
    given_ = jnp.array([5.0, 2.0])
    slope = (cdf(given_, 0.7 + step) - cdf(given_, 0.7 - step)) / (2 * step)
    flux = process.velocity(0.7, y) * process.density(0.7, y)
    np.testing.assert_allclose(slope, -flux, atol=1e-9)
    for name, index in (("a", 0), ("c", 1)):
        h = jnp.zeros(2).at[index].set(step)
        difference = (cdf(given_ + h, 0.7) - cdf(given_ - h, 0.7)) / (2 * step)
        exact = jax.jacfwd(cdf)(given_, 0.7)[:, index]
        np.testing.assert_allclose(exact, difference, atol=1e-8, err_msg=name)


@pytest.mark.long
def test_telegraph_equation(x64):
    """The density solves u_ss + 2 a u_s = c^2 u_yy, by automatic differentiation twice."""
    a, c = 3.0, 1.5
    process = KacProcess(a, c)
    points = [(0.5, 0.1), (0.5, -0.6), (1.2, 1.5), (2.0, 0.0)]
    u = process.density
    u_s = jax.grad(u, 0)

    @jax.jit
    def sides(s, y):
        return jax.grad(u_s, 0)(s, y) + 2 * a * u_s(s, y), c**2 * jax.grad(jax.grad(u, 1), 1)(s, y)

    for s, y in points:
        np.testing.assert_allclose(*sides(s, y), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("lam", [1e-3, 1.0, 40.0])
def test_total_mass_and_variance(lam, x64):
    """Density and atoms integrate to 1 and give the variance."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    process, s, c = KacProcess(lam / 0.5, 2.0), 0.5, 2.0
    y, weight = jnp.asarray(nodes) * c * s, jnp.asarray(weights) * c * s
    p = process.density(s, y)
    np.testing.assert_allclose(p @ weight + process.atom_mass(s), 1, rtol=1e-12)
    variance = (p * y**2) @ weight + process.atom_mass(s) * (c * s) ** 2
    np.testing.assert_allclose(process.variance(s), variance, rtol=1e-10)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_everything_is_finite_everywhere(dtype):
    """Values and gradients at the cone, inside it, at y = 0, s -> 0 and for extreme lam."""
    with jax.enable_x64(dtype == "float64"):
        lams = np.array([1e-12, 1e-4, 1.0, 1e2, 1e5, 1e10])
        eps = float(jnp.finfo(dtype).eps)
        zs = np.array([0.0, 1e-30, 0.3, 1 - 4 * eps, 1.0, 1 + 4 * eps, 2.0])
        zs = np.concatenate([zs, -zs])
        lam, z = (jnp.asarray(v.ravel(), dtype) for v in np.meshgrid(lams, zs))

        def value(name, a, c, s, y):
            return getattr(KacProcess(a, c), name)(s, y)

        one = jnp.asarray(1.0, dtype)
        for name in ("velocity", "density", "cdf", "log_density"):
            of = partial(value, name)
            out = jax.vmap(of, (0, None, None, 0))(lam, one, one, z)
            inside = jnp.abs(z) < 1
            assert not np.any(np.isnan(out)), name
            assert np.all(np.isfinite(out) | ~inside), name
            slopes = jax.vmap(jax.grad(of, (0, 1, 2, 3)), (0, None, None, 0))(lam, one, one, z)
            for slope in slopes:
                assert np.all(np.isfinite(slope)), name


@pytest.mark.long
@pytest.mark.parametrize("s", [1e-12, 1e-20, 1e-30])
def test_gradients_in_a_small_cone(s):
    """As `s` falls to 0 at a fixed place `z` in the cone, gradients tend to these.

    To first order in `s`, $v = a y / 2$, the density is $(a / 2c)(1 - a s / 2)$, and the
    distribution function is $1/2 + a y / 2c$.
    """
    a, c = 2.0, 3.0
    slopes = {
        "velocity": (0, 0, 0, a / 2),
        "log_density": (-a / 2, 1 / a, -1 / c, 0),
        "density": (-(a**2) / (4 * c), 1 / (2 * c), -a / (2 * c**2), 0),
        "cdf": (0, 0, 0, a / (2 * c)),
    }
    for name, wanted in slopes.items():

        def of(s, a, c, y, name=name):
            return getattr(KacProcess(a, c), name)(s, y)

        here = [jnp.float32(v) for v in (s, a, c, 0.25 * c * s)]
        found = jax.grad(of, (0, 1, 2, 3))(*here)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.long
def test_on_and_outside_the_cone():
    process = KacProcess(2.0, 3.0)
    y = jnp.array([-4.0, -3.0, 3.0, 4.0])
    np.testing.assert_array_equal(process.velocity(1.0, y), [-3, -3, 3, 3])
    np.testing.assert_array_equal(process.density(1.0, y), 0)
    atom = float(process.atom_mass(1.0)) / 4
    np.testing.assert_allclose(process.cdf(1.0, y), [0, atom, 1 - atom, 1], atol=1e-7)
    assert process.cdf(0.0, 0.0) == 0.5
    for name in ("velocity", "density", "log_density", "cdf", "to_normal"):
        assert np.isnan(getattr(process, name)(1.0, jnp.nan)), name
    inner = 3.0 * (1 - 1e-6)
    np.testing.assert_allclose(process.velocity(1.0, inner), 3 * 2 / 4, rtol=1e-4)


@pytest.mark.long
def test_diffusion_limit_rate(x64):
    """As a and c grow with c^2 / a = 1, variance and distribution approach Wiener's like 1/a."""
    from kacjax import WienerProcess

    y = jnp.linspace(-2.0, 2.0, 41)
    errors = []
    for a in (1e2, 1e3, 1e4):
        kac, wiener = KacProcess(a, a**0.5), WienerProcess(1.0)
        errors.append(
            [
                float(jnp.max(jnp.abs(kac.cdf(0.8, y) - wiener.cdf(0.8, y)))),
                float(jnp.abs(kac.variance(0.8) - wiener.variance(0.8))),
                float(jnp.max(jnp.abs(kac.velocity(0.8, y) - wiener.velocity(0.8, y)))),
            ]
        )
    ratios = np.array(errors)[:-1] / np.array(errors)[1:]
    np.testing.assert_allclose(ratios, 10, rtol=0.1)


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["a", "c"])
def test_bad_parameters(name, bad):
    with pytest.raises(ValueError, match=rf"{name} must be positive and finite, got {bad}"):
        KacProcess(**{name: bad})


def test_vmap_over_processes():
    a, c = jnp.array([1.0, 5.0]), jnp.array([2.0, 0.5])
    values = jax.vmap(lambda p: p.velocity(0.5, 0.1))(KacProcess(a, c))
    np.testing.assert_allclose(values, KacProcess(a, c).velocity(0.5, 0.1), rtol=1e-6)
