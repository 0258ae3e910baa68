"""The interface: a new process is its map and its variance, and everything follows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr

import kacjax
from kacjax import KacProcess, Process, WienerProcess
from tests.processes.compilations import count_compilations

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


@pytest.mark.long
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
            with pytest.raises(
                ValueError, match=r"do not broadcast|must hold the process's parameters"
            ):
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


@pytest.mark.long
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


class PowerProcess(Process):
    """Normal of deviation s^power: its variance underflows in float32."""

    power: float

    def from_normal(self, s, n):
        return s**self.power * n

    def variance(self, s):
        return s ** (2 * self.power)


@pytest.mark.parametrize("power", [1.0, 2.0])
@pytest.mark.parametrize("s", [1e-30, 1e-24, 1e-12, 1e-6, 0.5, 10.0])
def test_linear_velocity_where_the_variance_underflows(power, s):
    """`power / s`, with finite gradients; jitted, batched and by itself."""
    process, s = PowerProcess(power), jnp.float32(s)
    np.testing.assert_allclose(process.linear_velocity(s), power / s, rtol=1e-5)
    both = jax.jit(process.linear_velocity)(jnp.stack([s, jnp.float32(0.3)]))
    np.testing.assert_allclose(both, power / jnp.stack([s, jnp.float32(0.3)]), rtol=1e-5)
    slopes = jax.grad(lambda p, s: PowerProcess(p).linear_velocity(s), (0, 1))(power, s)
    assert np.all(np.isfinite(slopes))
    if s > 1e-18:
        np.testing.assert_allclose(slopes[1], -power / s**2, rtol=1e-3)


@pytest.mark.long
@pytest.mark.parametrize("process", [KacProcess(), WienerProcess(), UniformProcess()])
def test_linear_velocity_of_every_positive_time(process):
    s = jnp.asarray(10.0 ** np.arange(-37, 3), jnp.float32)
    value = process.linear_velocity(s)
    assert np.all(np.isfinite(value))
    assert np.all(value[:-1] > 0)
    assert np.all(np.isfinite(jax.vmap(jax.grad(process.linear_velocity))(s)))
    start = 0.5 if isinstance(process, WienerProcess) else 1.0
    np.testing.assert_allclose(value[:30] * s[:30], start, rtol=1e-5)
    with pytest.raises(ValueError, match="s must be positive and finite, got 0"):
        process.linear_velocity(0.0)


@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow), "bfloat16"]
)
@pytest.mark.parametrize(
    "process", [UniformProcess(), WienerProcess(0.7), KacProcess(), PowerProcess(2.0)]
)
def test_conditional_law_is_finite_everywhere(process, dtype):
    """Inside, at the edge, and far outside; the nearest of several laws has the largest density."""
    with jax.enable_x64(dtype == "float64"):
        y = jnp.asarray([0.0, 0.1, 0.5, 1.0, 1.001, 2.0, 50.0, 1e4], dtype)
        y = jnp.concatenate([y, -y])
        for s in (1e-30, 1e-24, 1e-12, 1e-3, 1 / 3, 1.0):
            s = jnp.asarray(s, dtype)
            law = process.conditional_law(s, y)
            for part in law:
                assert part.dtype == ("float64" if dtype == "float64" else "float32")
                assert np.all(np.isfinite(part))
            if dtype != "bfloat16" and s > 1e-20:
                assert np.all(np.diff(law[0][:8]) <= 0) or s >= 1e-3
                assert law[0][6] > law[0][7]
            np.testing.assert_allclose(law[1][8:], -law[1][:8], rtol=1e-5, atol=1e-6)
        gradient = jax.grad(lambda y: process.conditional_law(s, y)[1])(jnp.asarray(3.0, dtype))
        assert np.isfinite(gradient)


@pytest.mark.long
def test_conditional_law_of_bounded_support():
    """The law inside; outside the ratio to the edge is kept, which is the flow of the edge."""
    process, s = UniformProcess(), 0.7
    b, slope = -np.expm1(-s), np.exp(-s)
    y = jnp.array([-0.9, 0.0, 0.3, 0.999]) * b
    log_density, velocity = process.conditional_law(s, y)
    np.testing.assert_allclose(log_density, process.log_density(s, y), rtol=1e-4)
    np.testing.assert_allclose(velocity, process.velocity(s, y), rtol=1e-5, atol=1e-7)
    far = jnp.array([1.01, 1.5, -4.0]) * b
    log_density, velocity = process.conditional_law(s, far)
    np.testing.assert_allclose(velocity, far * slope / b, rtol=1e-5)
    assert -np.log(2 * b) - 20 > log_density[0] > log_density[1] > log_density[2]


class InfiniteProcess(Process):
    """Of tails so heavy that its variance is infinite: log-normal, with one that overflows."""

    def from_normal(self, s, n):
        return s * jnp.sinh(2 * n)

    def variance(self, s):
        return jnp.full_like(s, jnp.inf)


def test_conditional_law_of_infinite_variance():
    y = jnp.array([-3.0, 0.0, 0.1, 50.0])
    log_density, velocity = InfiniteProcess().conditional_law(0.5, y)
    np.testing.assert_allclose(velocity, y / 0.5, rtol=1e-4, atol=1e-5)
    n = np.arcsinh(y / 0.5) / 2
    expected = -(n**2) / 2 - np.log(np.sqrt(2 * np.pi) * np.cosh(2 * n))
    np.testing.assert_allclose(log_density, expected, rtol=1e-4)


def test_blurred_brownian_motion():
    """Against the convolution's own moments; others refuse it."""
    process, s, y = WienerProcess(0.7), 0.3, jnp.linspace(-1, 1, 5)
    std = lambda s: 0.2 + 0.5 * s  # noqa: E731
    variance = lambda s: 0.49 * s + std(s) ** 2  # noqa: E731
    log_density, velocity = process.conditional_law(s, y, blur=(std(s), 0.5))
    expected = jax.scipy.stats.norm.logpdf(y, scale=np.sqrt(variance(s)))
    np.testing.assert_allclose(log_density, expected, rtol=1e-5)
    rate = jax.grad(variance)(s) / (2 * variance(s))
    np.testing.assert_allclose(velocity, rate * y, rtol=1e-5)
    for other in (KacProcess(), UniformProcess()):
        with pytest.raises(ValueError, match=f"blur must be None .* for {type(other).__name__}"):
            other.conditional_law(s, y, blur=(0.1, 0.0))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("process", [KacProcess(), WienerProcess(), UniformProcess()])
def test_low_precision_is_computed_in_float32(process, dtype):
    """Every method takes it, gives float32, and the value of the rounded arguments."""
    s, y, u = (jnp.asarray(value, dtype) for value in (0.25, [0.1, -0.2], [0.2, 0.7]))
    names = ["velocity", "density", "log_density", "cdf", "to_normal"]
    # The map of a user's process is the user's own.
    for name in [*names, "from_normal"] if isinstance(process, KacProcess) else names:
        value = getattr(process, name)(s, y)
        exact = getattr(process, name)(s.astype(jnp.float32), y.astype(jnp.float32))
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, exact)
    for value in (
        process.quantile(s, u),
        process.density(s, 0.1),
        process.linear_velocity(s),
        process.atom_mass(s),
        *process.sample_with_velocity(jax.random.key(0), s, (3,)),
        *process.conditional_law(s, y),
    ):
        assert value.dtype == jnp.float32
        assert np.all(np.isfinite(value))


def test_what_is_no_number_is_refused_at_the_door(unchecked):
    key, process = jax.random.key(0), KacProcess()
    np.testing.assert_allclose(
        process.density(0.1, [0.1, 0.2]), process.density(0.1, jnp.array([0.1, 0.2]))
    )
    assert KacProcess(a=[9.0, 4.0]).variance(1.0).shape == (2,)
    for call, message in (
        (lambda: KacProcess(a="9"), "a must be a number or an array of real numbers, got '9'"),
        (lambda: KacProcess(c=None), "c must be a number"),
        (lambda: WienerProcess("1"), "sigma must be a number"),
        (lambda: process.velocity("0.1", 0.1), "s must be a number"),
        (lambda: process.density(0.1, ["a"]), r"y must be a number .* got \['a'\]"),
        (lambda: process.cdf(0.1, 1j), "y must be a number"),
        (lambda: process.cdf(0.1, jnp.array([1j])), "y must be a number"),
        (lambda: process.sample((2,), 0.1, key), r"key must be one jax.random.key, got \(2,\)"),
        (lambda: process.sample(0, 0.1, (2,)), "key must be one"),
        (lambda: process.sample(jax.random.split(key), 0.1, (2,)), "key must be one"),
        (lambda: process.sample(key, 0.1, 2), "shape must be a tuple of sizes, got 2"),
        (lambda: process.sample(key, 0.1, (2.0,)), "shape must be a tuple of sizes"),
        (lambda: process.sample(key, 0.1, (-1,)), "shape must be a tuple of sizes"),
        (lambda: process.sample(key, jnp.ones(2), ()), "do not broadcast against shape"),
        (lambda: process.sample_path((2,), jnp.ones(2), key), "key must be one"),
        (lambda: UniformProcess().sample(key, 0.1, key), "shape must be a tuple"),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.fixture
def unchecked():
    """Without the type checks of the tests, which would come first."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


def test_what_a_process_is_shown_with():
    assert repr(KacProcess()) == "KacProcess(a=9.0, c=3.0)"
    assert repr(WienerProcess()) == "WienerProcess(sigma=1.0)"


def test_calls_are_compiled_once():
    """Eager methods of a process that has only its map reuse their programs."""
    process, key = UniformProcess(), jax.random.key(0)

    def call():
        for name in ("velocity", "log_density", "cdf", "to_normal", "conditional_law"):
            getattr(process, name)(0.3, jnp.array([0.1, 0.2]))
        process.quantile(0.3, 0.4)
        process.linear_velocity(0.3)
        for each in (process, KacProcess(), WienerProcess()):
            each.sample_with_velocity(key, 0.3, (4,))

    call()
    with count_compilations() as compiled:
        call()
    assert compiled == []


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_second_derivative_of_the_quantile_in_the_tail(dtype):
    """0 on an atom and of a uniform law, infinite where it overflows: never NaN."""
    with jax.enable_x64(dtype == "float64"):
        for process in (KacProcess(), KacProcess(100.0, 10.0), WienerProcess(), UniformProcess()):
            quantile = lambda u, p=process: p.quantile(jnp.asarray(1.0, u.dtype), u)  # noqa: E731
            first, second = jax.grad(quantile), jax.grad(jax.grad(quantile))
            for u in (1e-30, 1e-3, 0.3, 0.5):
                u = jnp.asarray(u, dtype)
                assert np.isfinite(first(u))
                assert not np.isnan(second(u))
            if dtype == "float64":
                h = 1e-4 * 0.3
                difference = (first(0.3 + h) - first(0.3 - h)) / (2 * h)
                np.testing.assert_allclose(second(0.3), difference, rtol=1e-4, atol=1e-5)
    assert second(jnp.asarray(1e-30)) == 0


def test_processes_say_whether_they_have_atoms():
    assert KacProcess().has_atoms
    assert not WienerProcess().has_atoms


class Sinh(Process):
    """A map whose inverse is known: n = arsinh(y / sqrt(s))."""

    def from_normal(self, s, n):
        return jnp.sqrt(s) * jnp.sinh(n)

    def variance(self, s):
        return s * (np.exp(2) - 1) / 2


@pytest.mark.long
def test_derivatives_up_to_the_third_are_those_of_the_inverse(x64):
    process, known = Sinh(), lambda s, y: jnp.arcsinh(y / jnp.sqrt(s))
    mine, theirs = process.to_normal, known
    for order in range(4):
        for s, y in ((1.0, 0.7), (0.3, -1.9)):
            np.testing.assert_allclose(mine(s, y), theirs(s, y), rtol=1e-9, err_msg=str(order))
        mine, theirs = (jax.grad(f, order % 2) for f in (mine, theirs))
    # Also in a number that a process does not hold, but its class knows.
    with_number = lambda a: type("Own", (Sinh,), {"from_normal": lambda _, s, n: a * jnp.sinh(n)})()  # noqa: E731
    slope = jax.grad(lambda a: with_number(a).to_normal(1.0, 0.7))(2.0)
    np.testing.assert_allclose(slope, jax.grad(lambda a: jnp.arcsinh(0.7 / a))(2.0), rtol=1e-9)
    curvature = jax.grad(jax.grad(lambda y: process.log_density(1.0, y)))(0.7)
    density = lambda y: -(jnp.arcsinh(y) ** 2 + jnp.log1p(y * y)) / 2  # noqa: E731
    np.testing.assert_allclose(curvature, jax.grad(jax.grad(density))(0.7), rtol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("process", [KacProcess(), WienerProcess(), kacjax.UniformProcess()])
def test_at_time_zero_all_is_in_one_place(process):
    y = jnp.array([-0.5, 0.0, 0.5])
    np.testing.assert_array_equal(process.density(0.0, y), 0)
    np.testing.assert_array_equal(process.cdf(0.0, y), [0, 0.5, 1])
