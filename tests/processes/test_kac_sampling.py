"""Samples of the Kac process: their law, their atoms, their derivatives."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.scipy.special import ndtr

from kacjax import KacProcess, WienerProcess
from kacjax.processes.kac import law, sampler
from kacjax.processes.kac.process import METHODS
from tests.statistics import frequency_bound, ks_bound, ks_distance
from tools.make_squash_table import exact_polynomials

pytestmark = pytest.mark.optimised

LAMBDAS = np.concatenate([np.logspace(-4, 4, 41), np.linspace(15.5, 19, 8)])
# (a, c, s): little and much time, the kink of the table, the paper's setting, the diffusion limit.
SETTINGS = [
    (9.0, 3.0, 1.0),
    (9.0, 3.0, 0.05),
    (1e-3, 1.0, 1.0),
    (0.7, 10.0, 1.0),
    (17.0, 1.0, 1.0),
    (17.2, 0.1, 1.0),
    (60.0, 2.0, 0.5),
    (1e4, 100.0, 1.0),
]


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


# The exact methods take long to compile.
every_method = pytest.mark.parametrize("method", ["squash", *map(slow, METHODS[1:])])


def randomised_uniforms(process, s, y, key):
    """The distribution function, spread evenly over the atoms' steps: uniform if y has the law."""
    atom = process.atom_mass(s) / 2
    cone = process.c * s
    spread = atom * jax.random.uniform(key, y.shape, y.dtype)
    u = process.cdf(s, jnp.where(jnp.abs(y) < cone, y, 0))
    return jnp.where(y >= cone, 1 - spread, jnp.where(y <= -cone, spread, u))


def check_law(process, s, size, method="squash", block=500_000):
    uniforms = []
    for seed in range(-(-size // block)):
        key, spread_key = jax.random.split(jax.random.key(seed))
        num = min(block, size - seed * block)
        y = process.sample_with_velocity(key, s, (num,), method=method)[0]
        uniforms.append(jax.jit(randomised_uniforms)(process, s, y, spread_key))
    uniforms = np.concatenate([np.asarray(u) for u in uniforms])
    assert ks_distance(uniforms) < ks_bound(size)


@pytest.mark.parametrize(
    ("a", "c", "s", "method"),
    [
        *((*setting, "squash") for setting in SETTINGS[:5]),
        (*SETTINGS[0], "path"),
        slow(*SETTINGS[0], "poisson-beta"),
        *(slow(*setting, method) for setting in SETTINGS[1:] for method in METHODS[1:]),
    ],
)
def test_law_of_samples(a, c, s, method):
    """20,000 samples; false-alarm rate 1e-7 a comparison."""
    check_law(KacProcess(a, c), s, 20_000, method)


@pytest.mark.slow
@pytest.mark.parametrize(("a", "c", "s"), SETTINGS)
def test_law_of_ten_million_samples(a, c, s):
    """False-alarm rate 1e-7: the distance must be below 9.2e-4."""
    check_law(KacProcess(a, c), s, 10_000_000)


@pytest.mark.slow
def test_law_at_random_settings():
    """Ten random settings of a million samples each; false-alarm rate 1e-7 each."""
    generator = np.random.default_rng(0)
    for _ in range(10):
        a, c, s = np.exp(generator.uniform(np.log([0.05, 0.1, 0.05]), np.log([200, 50, 5])))
        check_law(KacProcess(float(a), float(c)), float(s), 1_000_000)


@every_method
def test_atoms_and_their_velocities(method):
    """In 50,000 samples, exactly those on the cone move at speed c, and as many as should."""
    process, s = KacProcess(3.0, 2.0), 0.5
    y, v = process.sample_with_velocity(jax.random.key(1), s, (50_000,), method=method)
    atom = jnp.abs(v) == 2.0
    mass = float(process.atom_mass(s))
    assert abs(float(jnp.mean(atom)) - mass) < frequency_bound(mass, atom.size)
    np.testing.assert_allclose(jnp.abs(y[atom]), 1.0, rtol=1e-6)
    np.testing.assert_array_equal(jnp.sign(v), jnp.sign(y))
    # From inside, the velocity stays below c * lam / (lam + 2).
    assert np.max(np.abs(v[~atom])) <= 2.0 * 1.5 / 3.5 * (1 + 1e-5)


@every_method
def test_velocity_is_the_field(method, x64):
    process, s = KacProcess(6.0, 1.5), jnp.array([[0.01], [0.3], [4.0]])
    y, v = process.sample_with_velocity(jax.random.key(0), s, (3, 2000), method=method)
    atom = jnp.abs(v) == 1.5
    np.testing.assert_allclose(v[~atom], process.velocity(s, y)[~atom], rtol=1e-6)


@pytest.mark.long
def test_float32_squash_against_float64():
    """The polynomials against Newton's method, for lam from 1e-4 to 1e4 and across the kink."""
    x = np.concatenate([np.linspace(0.02, 0.98, 25), [0.999]])
    single = jnp.asarray(LAMBDAS, jnp.float32)[:, None]
    with jax.enable_x64(True):
        lam = jnp.asarray(single, jnp.float64)
        n = (x * np.minimum(law.atom_score(lam), 5.4)).astype(np.float32)
        exact = sampler.displace(
            lam, jnp.ones_like(lam), jnp.ones_like(lam), jnp.asarray(n, jnp.float64), True
        )
        exact = [np.asarray(value) / scale for value, scale in zip(exact, (lam, 1), strict=True)]
    z, w, atom = sampler.squash(single, jnp.asarray(n))
    assert not np.any(atom)
    np.testing.assert_allclose(z, exact[0], rtol=1e-6)
    np.testing.assert_allclose(w, exact[1], rtol=2e-6)


def test_table_is_small_and_made_by_the_script(x64):
    file = pathlib.Path(law.__file__).with_name("tables.npz")
    table = law.TABLES["squash"]
    assert file.stat().st_size <= 64 * 1024
    assert np.abs(table).max() < 20
    for panel, local in ((0, -0.3), (21, 0.9), (22, -0.9), (30, 0.5)):
        made = exact_polynomials((panel + (local + 1) / 2) / sampler.PANELS)
        stored = np.polynomial.polynomial.polyval(local, table[:, panel])
        np.testing.assert_allclose(stored, made, atol=5e-6 * np.abs(made).max())


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_quantile_round_trip(dtype):
    """|cdf(quantile(u)) - u|, and its relative size in the lower tail down to 1e-6."""
    with jax.enable_x64(dtype == "float64"):
        process = KacProcess(jnp.asarray(LAMBDAS, dtype)[:, None], 1.0)
        u = jnp.asarray(
            np.concatenate([np.logspace(-6, -2, 17), np.linspace(0.02, 0.98, 49)]), dtype
        )
        y = jax.jit(lambda u: process.quantile(1.0, u[None]))(u)
        value = jax.jit(lambda y: process.cdf(1.0, y))(y)
        inside = np.broadcast_to(u, y.shape) > np.asarray(process.atom_mass(1.0)) / 2 * (1 + 1e-4)
        inside &= np.asarray(jnp.abs(y)) < 1
        error = np.abs(np.asarray(value, np.float64) - np.asarray(u, np.float64))[inside]
        level = np.broadcast_to(np.minimum(u, 1 - u), y.shape)[inside]
        assert error.max() <= (2e-6 if dtype == "float32" else 1e-13)
        relative = (error / level)[level <= 0.01]
        assert relative.max() <= (1e-4 if dtype == "float32" else 1e-9)


@pytest.mark.slow
def test_far_tails_in_float32(x64):
    """Quantiles down to the smallest normal float32, against float64."""
    u = np.logspace(np.log10(1.2e-38), -9, 20)
    for lam in (1.0, 20.0, 60.0, 86.0, 90.0, 300.0, 1e4):
        exact = KacProcess(lam, 1.0).quantile(1.0, jnp.asarray(u))
        single = KacProcess(jnp.float32(lam), jnp.float32(1)).quantile(
            jnp.float32(1), jnp.asarray(u, jnp.float32)
        )
        assert single.dtype == jnp.float32
        np.testing.assert_allclose(single, exact, rtol=3e-5)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", slow("float64")])
def test_map_beyond_what_a_probability_can_express(dtype):
    r"""Normal variables whose tails underflow: `to_normal` inverts the map, up to the atom.

    The atom begins at the `n` with $\log P(|N| \ge n) = -\lambda$.
    """
    with jax.enable_x64(dtype == "float64"):
        n = jnp.asarray([0.5, 5.4, 5.6, 9.0, 12.9, 13.1, 14.5, 20.0, 30.0, 37.0, 39.0, 60.0], dtype)
        for lam in (50.0, 300.0, 900.0, 1e4, 1e8):
            process = KacProcess(jnp.asarray(lam, dtype), jnp.asarray(1.0, dtype))
            y = process.from_normal(1.0, n)
            score = law.atom_score(jnp.asarray(lam, dtype))
            log_tail = np.log(2.0) + scipy.stats.norm.logsf(float(score))
            np.testing.assert_allclose(log_tail, -lam, rtol=1e-5)
            np.testing.assert_array_equal(y == 1, n >= score)
            assert np.all(np.diff(y) >= 0)
            inside = np.asarray(y < 1 - 1e-4)
            tolerance = 2e-5 if dtype == "float32" else 1e-9
            found = np.asarray(process.to_normal(1.0, y))
            np.testing.assert_allclose(found[inside], np.asarray(n)[inside], rtol=tolerance)


@pytest.mark.long
def test_quantile_has_the_atoms():
    process = KacProcess(1.0, 2.0)
    atom = np.exp(-1.0) / 2
    u = jnp.array([1e-6, atom * 0.999, atom * 1.001, 0.5, 1 - atom * 1.001, 1 - atom * 0.999])
    y = process.quantile(1.0, u)
    np.testing.assert_array_equal(jnp.abs(y) == 2, [True, True, False, False, False, True])
    assert np.all(np.diff(y) >= 0)
    np.testing.assert_allclose(jnp.abs(y[2]), 2, rtol=2e-3)


@pytest.mark.long
def test_map_is_monotone_and_continuous_across_every_seam():
    """Dense grids of n around the atoms and 5.5, and of lam around every panel boundary."""
    for lam in (1e-3, 1.0, 12.0, 17.0, 17.2, 40.0):
        n = jnp.linspace(0.0, 8.0, 2001)
        n = jnp.concatenate([-n[:0:-1], n])
        y = KacProcess(lam, 1.0).from_normal(1.0, n)
        # Just inside the atoms, past 5.5, Newton in float32 leaves some 1e-4.
        assert np.min(np.diff(y)) >= -2e-4
        np.testing.assert_allclose(y, -y[::-1], atol=1e-7)
    zeta = np.arange(1, sampler.PANELS) / sampler.PANELS
    lam = sampler.HALFWAY * zeta / (1 - zeta)
    n = jnp.linspace(0.01, 5.4, 50)[None]
    low, high = (
        sampler.squash(jnp.asarray(lam * factor, jnp.float32)[:, None], n)[:2]
        for factor in (1 - 1e-6, 1 + 1e-6)
    )
    for below, above in zip(low, high, strict=True):
        smooth = np.asarray(jnp.abs(below) < 0.999)
        assert np.max(np.abs(below - above)[smooth]) < 5e-6


@pytest.mark.long
@pytest.mark.parametrize(
    "lam",
    [17.0, *map(slow, (0.01, 0.5, 4.0, 30.0, 1e3))],
)
def test_derivatives_against_differences_of_the_quantile(lam, x64):
    """Slopes of position and velocity along the flow, to 1e-6; on the atoms too."""
    n = jax.random.normal(jax.random.key(1), (500,))
    n = jnp.concatenate([n, jnp.array([9.0, -9.0])])
    point = (0.5, lam / 0.5, 2.0)
    full = [jnp.full(n.shape, value) for value in point]
    score = float(law.atom_score(jnp.asarray(lam)))
    away = np.asarray(jnp.abs(jnp.abs(n) - score) > 1e-3)

    def both(s, a, c, n):
        return jnp.stack(sampler.displace(s, a, c, n, True))

    for index in range(4):
        arguments = [*full, n]
        step = 1e-5 * (point[index] if index < 3 else 1.0)
        up, down = list(arguments), list(arguments)
        up[index], down[index] = up[index] + step, down[index] - step
        difference = (both(*up) - both(*down)) / (2 * step)
        tangents = [jnp.zeros_like(n)] * 4
        tangents[index] = jnp.ones_like(n)
        _, exact = jax.jvp(both, tuple(arguments), tuple(tangents))
        scale = 1 + np.max(np.abs(exact), axis=1, keepdims=True)
        np.testing.assert_allclose(
            (exact / scale)[:, away], (difference / scale)[:, away], atol=1e-6
        )
    if score > 9:
        return
    on_atoms = jax.jvp(
        both, (*full, n), (*[jnp.zeros_like(n)] * 2, jnp.ones_like(n), jnp.zeros_like(n))
    )[1]
    np.testing.assert_allclose(on_atoms[:, -2:], [[0.5, -0.5], [1, -1]])


@pytest.mark.long
def test_gradient_of_the_variance_by_samples():
    """E[y^2] differentiated through 400,000 samples is the derivative of the variance, to 3%."""

    def by_samples(a, c, s):
        y = KacProcess(a, c).sample(jax.random.key(0), s, (400_000,))
        return jnp.mean(y**2)

    point = (4.0, 2.0, 0.6)
    expected = jax.grad(lambda a, c, s: KacProcess(a, c).variance(s), (0, 1, 2))(*point)
    np.testing.assert_allclose(jax.grad(by_samples, (0, 1, 2))(*point), expected, rtol=0.03)


def test_the_same_key_couples_kac_and_wiener():
    """Root mean square distance of coupled samples falls like 1/a in the diffusion limit."""
    key, distances = jax.random.key(0), []
    for a in (1e2, 1e3):
        kac = KacProcess(a, a**0.5).sample(key, 1.0, (20_000,))
        distances.append(float(jnp.std(kac - WienerProcess().sample(key, 1.0, (20_000,)))))
    assert distances[0] < 0.01
    np.testing.assert_allclose(distances[0] / distances[1], 10, rtol=0.3)


@pytest.mark.long
def test_vectors_of_processes():
    """Rates and speeds per component and per sample, by broadcasting and by vmap."""
    key = jax.random.key(0)
    c = jnp.array([[0.5, 1.0, 4.0]])
    y = KacProcess(jnp.array([[1.0, 9.0, 40.0]]), c).sample(key, jnp.ones((50_000, 1)), (50_000, 3))
    expected = KacProcess(jnp.array([1.0, 9.0, 40.0]), c[0]).variance(1.0)
    np.testing.assert_allclose(jnp.var(y, axis=0), expected, rtol=0.05)
    processes = KacProcess(jnp.array([1.0, 9.0]), jnp.array([2.0, 3.0]))
    mapped = jax.vmap(lambda p: p.sample(key, 0.3, (5,)))(processes)
    for row, a, c in zip(mapped, (1.0, 9.0), (2.0, 3.0), strict=True):
        np.testing.assert_allclose(row, KacProcess(a, c).sample(key, 0.3, (5,)), rtol=1e-5)


def test_no_transcendental_and_no_gather_per_component():
    """The compiled sample adds to the normal variables only work that is per sample."""

    def count(process, names, columns):
        run = jax.jit(lambda key, s: process.sample_with_velocity(key, s, (64, columns)))
        text = run.lower(jax.random.key(0), jnp.ones((64, 1))).as_text()
        wide = [line for line in text.splitlines() if f"64x{columns}x" in line]
        return {
            name: sum(f"stablehlo.{name}" in line or f"chlo.{name}" in line for line in wide)
            for name in names
        }

    names = ("gather", "exponential", "log", "power", "sine", "bessel_i1e", "while")
    assert count(KacProcess(), names, 300) == count(WienerProcess(), names, 300)


def test_extreme_times_are_finite():
    for s in (0.0, 1e-30, 1e10):
        y, v = KacProcess().sample_with_velocity(jax.random.key(0), s, (100,))
        assert np.all(np.isfinite(y))
        assert np.all(np.abs(v) <= 3)


@pytest.mark.parametrize("method", ["squash", slow("poisson-beta"), "path"])
def test_at_time_0_all_is_atom(method):
    y, v = KacProcess().sample_with_velocity(jax.random.key(0), 0.0, (100,), method)
    np.testing.assert_array_equal(y, 0)
    np.testing.assert_array_equal(jnp.abs(v), 3)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_second_derivatives_of_samples(dtype):
    """Against differences of the first, inside and on the atoms, and at `n = 0`."""
    with jax.enable_x64(dtype == "float64"):
        step, tolerance = (1e-2, 2e-2) if dtype == "float32" else (1e-5, 1e-6)
        process = KacProcess(jnp.asarray(2.0, dtype), jnp.asarray(3.0, dtype))
        n = jnp.asarray([-3.0, -0.5, 0.0, 0.7, 1.2, 3.0], dtype)
        points = jnp.stack([jnp.full(n.shape, 2.0, dtype), n], axis=-1)
        first = jax.grad(lambda point: process.from_normal(point[0], point[1]))
        moves = step * jnp.eye(2, dtype=dtype)
        around = points[:, None, None] + jnp.stack([moves, -moves], axis=1)[None]
        ahead, behind = jnp.moveaxis(jax.jit(jax.vmap(jax.vmap(jax.vmap(first))))(around), 2, 0)
        second = jax.jit(jax.vmap(jax.jacfwd(first)))(points)
        expected = jnp.moveaxis((ahead - behind) / (2 * step), 1, 2)
        np.testing.assert_allclose(second, expected, atol=10 * tolerance, rtol=tolerance)


@pytest.mark.slow
def test_score_has_the_derivatives_of_the_inverse(x64):
    """Those of the map at fixed `n`, turned round; exact at 0, where the score has no sign."""
    process, s = KacProcess(2.0, 1.0), 0.9
    y = jnp.linspace(-0.8, 0.8, 9)
    n = process.to_normal(s, y)
    along_s, along_n = jax.jit(jax.vmap(jax.grad(process.from_normal, (0, 1)), (None, 0)))(s, n)
    score_s, score_y = jax.jit(jax.vmap(jax.grad(process.to_normal, (0, 1)), (None, 0)))(s, y)
    np.testing.assert_allclose(score_y, 1 / along_n, rtol=1e-8)
    np.testing.assert_allclose(score_s, -along_s / along_n, rtol=1e-8, atol=1e-12)
    assert np.isfinite(jax.grad(process.to_normal)(0.0, 0.0))


@pytest.mark.long
def test_to_normal_inverts_from_normal(x64):
    n = jnp.linspace(-1.2, 1.2, 11)
    process = KacProcess(2.0, 1.0)
    np.testing.assert_allclose(
        process.to_normal(1.0, process.from_normal(1.0, n)), n, rtol=1e-9, atol=1e-12
    )
    np.testing.assert_allclose(process.cdf(1.0, process.from_normal(1.0, n)), ndtr(n), rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample(jax.random.key(0), -1.0, (2,)), "s must not be negative"),
        (lambda p: p.sample(jax.random.key(0), jnp.ones(3), (2,)), "do not broadcast"),
        (
            lambda p: p.sample_with_velocity(jax.random.key(0), 1.0, (2,), method="table"),
            "method must be one of",
        ),
        (lambda p: p.velocity(-1.0, 0.1), "s must not be negative or NaN, got -1.0"),
        (lambda p: p.cdf(-1.0, 0.1), "s must not be negative"),
        (lambda p: p.atom_mass(-1.0), "s must not be negative"),
        (lambda p: p.variance(jnp.array([0.1, -1.0])), "s must not be negative"),
        (lambda p: p.quantile(0.1, 1.5), r"u must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(KacProcess())


@pytest.mark.long
@pytest.mark.parametrize("method", ["squash", slow("poisson-beta"), slow("path")])
@pytest.mark.parametrize("dtype", ["float32", slow("float64"), "bfloat16"])
def test_own_atoms_are_known(dtype, method):
    """All of what the sampler calls an atom is one wherever it is given back, and only that.

    `s` is uniform in (1e-3, 0.3), 32,000 components: about 11,000 atoms at 4,000 times (by `squash`).
    """
    with jax.enable_x64(dtype == "float64"):
        process = KacProcess()
        num = 4000 if method == "squash" else 400
        s = jax.random.uniform(jax.random.key(0), (num, 1), minval=1e-3, maxval=0.3)
        s = s.astype(dtype)
        shape = (num, 32_000 // num)
        y, v = process.sample_with_velocity(jax.random.key(1), s, shape, method)
        atom = np.abs(v) == 3
        assert 0.1 < np.mean(atom) < 0.999
        for run in (lambda f: f, jax.jit):
            velocity, log_density, cdf, n = (
                run(getattr(process, name))(s, y)
                for name in ("velocity", "log_density", "cdf", "to_normal")
            )
            np.testing.assert_array_equal(velocity[atom], v[atom])
            np.testing.assert_array_equal(np.isneginf(log_density), atom)
            mass = np.broadcast_to(process.atom_mass(s), y.shape)
            middle = np.where(y < 0, mass / 4, 1 - mass / 4)
            np.testing.assert_allclose(cdf[atom], middle[atom], rtol=1e-6)
            # The way back leads to the same atoms.
            back = np.asarray(run(process.from_normal)(s, n))
            np.testing.assert_array_equal(back[atom], y[atom])
            np.testing.assert_array_equal(np.abs(run(process.velocity)(s, back)) == 3, atom)


def test_points_near_the_cone_are_inside():
    """From two units in the last place on: the rule for atoms takes no more than it must."""
    process, s = KacProcess(), np.array(0.1, np.float32)
    cone = np.float32(3) * s
    steps = np.spacing(cone) * np.arange(-3, 4)
    velocity = process.velocity(s, jnp.asarray(cone + steps))
    np.testing.assert_array_equal(np.asarray(velocity) == 3, np.arange(-3, 4) >= -1)


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_slope_of_the_map_in_the_far_tails(dtype):
    """Both densities underflow at n = 20 in float32; the slope tends to that of a Gaussian's."""
    with jax.enable_x64(dtype == "float64"):
        n = jnp.asarray([10.0, 20.0, -20.0, 30.0], dtype)
        for lam in (1e3, 1e4):
            process = KacProcess(jnp.asarray(lam, dtype), jnp.asarray(1.0, dtype))
            slope = jax.vmap(jax.grad(lambda n, p=process: p.from_normal(1.0, n)))(n)
            h = 0.05
            difference = process.from_normal(1.0, n + h) - process.from_normal(1.0, n - h)
            np.testing.assert_allclose(slope, difference / (2 * h), rtol=3e-3)
            assert np.all(slope > 0)


@pytest.mark.long
@pytest.mark.parametrize("a", [1e-8, 0.1, 3.0, 20.0])
def test_the_map_is_exact_up_to_the_cone(a, x64):
    """In z, of which the cone's last millionth is told from the atom."""
    process = KacProcess(a, 1.0)
    z = 1 - jnp.logspace(-15, -1, 200)
    np.testing.assert_allclose(process.from_normal(1.0, process.to_normal(1.0, z)), z, atol=1e-14)


@pytest.mark.long
def test_the_mixed_derivative_is_continuous_at_the_center():
    process = KacProcess(9.0, 3.0)

    def along_time(n):
        velocity = lambda s: process.from_normal_with_velocity(s, n)[1]  # noqa: E731
        return jax.jvp(velocity, (0.3,), (1.0,))[1]

    slopes = jax.vmap(jax.grad(along_time))(jnp.array([0.0, 1e-3, -1e-3]))
    np.testing.assert_allclose(slopes, slopes[1], rtol=1e-4)


def test_a_jump_rate_beyond_floats_is_refused():
    with pytest.raises(
        ValueError, match=r"a must be at most 1e\+15, .*sigma = c / sqrt\(a\), got 1e\+20"
    ):
        KacProcess(1e20, 1e10)
