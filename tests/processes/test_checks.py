"""The checker of processes: quiet on right ones, and it names what is wrong with broken ones."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import ndtr, ndtri

from kacjax import KacProcess, Process, QuantileProcess, UniformProcess, WienerProcess
from kacjax.processes import check


def random_quantile(shape, odd):
    """A learned process of random numbers."""
    process, key = QuantileProcess.gaussian(shape, bins=8, odd=odd), jax.random.key(0)
    heights, slopes = (
        p + 0.5 * jax.random.normal(key, p.shape) for p in (process.log_heights, process.log_slopes)
    )
    return QuantileProcess(heights, slopes, odd=odd)


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.long
@pytest.mark.parametrize(
    ("process", "T"),
    [
        (WienerProcess(0.7), 1.0),
        slow(WienerProcess(jnp.array([0.1, 7.0])), 4.0),
        (UniformProcess(2.0), 3.0),
        slow(KacProcess(), 1.0),
        slow(KacProcess(1.0, 0.2), 2.0),
        slow(KacProcess(jnp.array([2.0, 9.0, 60.0]), 2.0), 1.0),
        slow(QuantileProcess.gaussian(), 1.0),
        slow(random_quantile((), True), 1.0),
        slow(random_quantile((2,), False), 2.0),
        slow(QuantileProcess.gaussian(power=0.5), 1.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_ours_are_right(process, T):
    report = check(process, T)
    assert report.ok, report
    assert len(report.checked) == 16


@pytest.mark.slow
@pytest.mark.parametrize("process", [WienerProcess(), KacProcess(2.0, 1.0), UniformProcess()])
def test_ours_are_right_in_double_precision(process, x64):
    report = check(process)
    assert report.ok, report


class Base(Process):
    """Linear flow matching's noise, right in everything; each subclass below breaks something."""

    scale: float = 1.0

    def from_normal(self, s, n):
        return self.scale * s * n

    def variance(self, s):
        return (self.scale * s) ** 2


class Falling(Base):
    def from_normal(self, s, n):
        return s * (n - 0.5 * n**3)


class Skewed(Base):
    def from_normal(self, s, n):
        return s * (n + 0.3 * jnp.square(jnp.maximum(n, 0)))


class Off(Base):
    symmetric = False

    def from_normal(self, s, n):
        return s * (n + 1)


class WrongVariance(Base):
    def variance(self, s):
        return s


class InfiniteVariance(Base):
    def variance(self, s):
        return jnp.full_like(s, jnp.inf)


class WideSampler(Base):
    def sample_with_velocity(self, key, s, shape):
        n = 1.05 * jax.random.normal(key, shape)
        return s * n, n


class UniformSampler(Base):
    def sample_with_velocity(self, key, s, shape):
        n = jax.random.uniform(key, shape, minval=-1.6, maxval=1.6)
        return s * n, n


class SlowSampler(Base):
    def sample_with_velocity(self, key, s, shape):
        n = jax.random.normal(key, shape)
        return s * n, n / 2


class BrownianVelocity(Base):
    def velocity(self, s, y):
        return y / (2 * s)


class BrownianRate(Base):
    def linear_velocity(self, s):
        return 1 / (2 * s)


class WrongInverse(Base):
    def to_normal(self, s, y):
        return y / jnp.sqrt(s)


class OneSidedCdf(Base):
    def cdf(self, s, y):
        return 2 * ndtr(jnp.abs(y) / s) - 1


class ClampedQuantile(Base):
    """As a table of 1,000 quantiles has it."""

    def quantile(self, s, u):
        return s * ndtri(jnp.maximum(u, 1e-3))


class Unnormalized(Base):
    def density(self, s, y):
        return jnp.exp(-jnp.square(y / s) / 2)


class ForgottenAtoms(Base):
    """A clipped normal: at two deviations, 4.6 % of the mass, at one 32 %."""

    level: float = 1.0

    def from_normal(self, s, n):
        return s * jnp.clip(n, -self.level, self.level)

    def variance(self, s):
        h = self.level
        outer = 2 * ndtr(-h)
        return s**2 * (
            1 - outer - 2 * h * jnp.exp(-(h**2) / 2) / (2 * jnp.pi) ** 0.5 + h**2 * outer
        )


class InnerAtom(Base):
    def from_normal(self, s, n):
        return s * jnp.sign(n) * jnp.maximum(jnp.abs(n) - 0.5, 0)


class UpperTail(Base):
    """Through a uniform variable, which is 1 from n = 5.5 on."""

    def from_normal(self, s, n):
        return s * ndtri(ndtr(n))


class Frozen(Base):
    """A scale that no derivative sees."""

    def from_normal(self, s, n):
        return jax.lax.stop_gradient(self.scale) * s * n


class Kinked(Base):
    """Square roots whose derivatives are infinite at 0."""

    def log_density(self, s, y):
        return -jnp.square(y / s) / 2 - jnp.log(s) - 0.9189385 + 0 * jnp.sqrt(jnp.abs(y))


class LateStart(Base):
    def from_normal(self, s, n):
        return (s + 1e-3) * n

    def variance(self, s):
        return (s + 1e-3) ** 2


class Half(Base):
    def cdf(self, s, y):
        return ndtr(y / s).astype(jnp.float16)


class Summed(Base):
    def velocity(self, s, y):
        return jnp.sum(y) / s


class Branching(Base):
    """A branch on a number, which a program cannot have."""

    def to_normal(self, s, y):
        return y / s if float(jnp.max(s)) > 0 else y


class Silent(Base):
    def from_normal(self, s, n):
        return None


@pytest.mark.parametrize(
    ("process", "name", "message"),
    [
        (Falling, "monotone map", "from_normal must not fall, and falls by"),
        (Skewed, "symmetry", "set symmetric to false if that is meant"),
        (Off, "variance", "the mean is .*, and must be 0, at s = "),
        (WrongVariance, "variance", "variance is 0.001, but the map has 1e-06, at s = 0.001"),
        (InfiniteVariance, "variance", "variance is inf, and must be finite"),
        (WideSampler, "samples", "samples are .* far from 0 in the mean, where the map has"),
        (UniformSampler, "samples", "of 20000 samples lie below .*, where the map has"),
        (SlowSampler, "samples", "samples move with .* where velocity is"),
        (BrownianVelocity, "velocity", r"quantiles move with .* \(continuity equation\)"),
        (BrownianRate, "velocity", "linear_velocity is 500, but half of d log variance / ds 1000"),
        (WrongInverse, "inverse", "to_normal of from_normal"),
        (OneSidedCdf, "cdf", "cdf is .*, where the map has"),
        (ClampedQuantile, "quantile", "quantile is .* where the map has .* n = -5"),
        (Unnormalized, "density", "density is .*, where mass by length of the map is"),
        (ForgottenAtoms, "atoms", "atom_mass is 0, but the map sends 0.31.* to its ends"),
        (InnerAtom, "atoms", "flat between its ends, near n = -0."),
        (UpperTail, "tails", "from_normal is infinite at n = 6, whose tail of 1e-09"),
        (Frozen, "derivatives", "the derivative of from_normal in process.scale is not that"),
        (Kinked, "derivatives", "the derivative of log_density in y is not finite"),
        (LateStart, "start", "samples at s = 0 must be 0, and are up to"),
        (Half, "shapes and types", "cdf returns float16 for float32"),
        (Summed, "shapes and types", "velocity returns shape"),
        (Branching, "inverse", "raises ConcretizationTypeError|raises .*Error: "),
        (Silent, "map", "raises "),
    ],
)
def test_faults_are_found_and_named(process, name, message, without_hook):
    report = check(process(), properties=None if name == "map" else (name,))
    assert any(re.search(message, finding.message) for finding in report.findings), report
    assert all(finding.property == name for finding in report.findings)
    assert f"- {name}: " in repr(report)


def test_a_right_process_of_ones_own_is_quiet(without_hook):
    report = check(Base())
    assert report.ok, report
    assert repr(report) == "Base(): 16 properties tried, 0 faults"


class Known(ForgottenAtoms):
    """Its atoms' mass is known, but not to gradients; its field does not jump."""

    def atom_mass(self, s):
        return jnp.full_like(s, 2 * ndtr(-self.level))


class Jumping(Known):
    """On its atoms, which have twice the others' speed, by decree."""

    def velocity(self, s, y):
        return jnp.where(jnp.abs(y) >= s * self.level, 2 * y / s, y / s)


def test_terms_of_atoms(without_hook):
    """Where the velocity jumps onto an atom, `atom_terms` must say so."""
    assert check(Known(), properties=("atoms", "cdf")).ok
    ((_, message),) = check(Jumping(), properties=("atoms",)).findings
    assert message.startswith("the velocity jumps by 1")
    assert "where atom_terms says 0" in message


def test_a_report_is_shown_as_text(without_hook):
    report = check(BrownianVelocity(), properties=("velocity",))
    assert re.search(r"1 faults\n- velocity: velocity is", repr(report))
    for arguments, message in (
        ((WienerProcess(), 0.0), "T must be positive"),
        ((3,), "process must be a kacjax.Process, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            check(*arguments)
    with pytest.raises(ValueError, match=r"properties must be one of .* got 'speed'"):
        check(WienerProcess(), properties=("speed",))


@pytest.mark.slow
def test_one_fault_is_not_taken_for_many(without_hook):
    """A fault in one method, which no other one uses, is found in that method alone."""
    for process, name in (
        (WrongVariance(), "variance"),
        (SlowSampler(), "samples"),
        (ClampedQuantile(), "quantile"),
        (Unnormalized(), "density"),
        (Frozen(), "derivatives"),
    ):
        found = {finding.property for finding in check(process).findings}
        assert name in found
        assert found <= {name, "velocity", "derivatives"}


@pytest.mark.parametrize("odd", [True, False])
def test_a_spline_and_its_inverse_have_their_derivatives_at_knots_too(odd):
    process, n = QuantileProcess.gaussian(bins=8, odd=odd), jnp.linspace(-4.0, 4.0, 17)
    y, slopes = jax.vmap(jax.value_and_grad(lambda n: process.from_normal(1.0, n)))(n)
    inverse = jax.vmap(jax.grad(lambda y: process.to_normal(1.0, y)))(y)
    np.testing.assert_allclose(slopes, 1, rtol=1e-5)
    np.testing.assert_allclose(inverse, 1, rtol=1e-5)
