"""The properties of a process that are checked, each a generator of messages."""

import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from kacjax.processes.checks._probe import SAMPLES, TAILS, Probe

Messages = Iterator[str]


def _monotone(probe: Probe) -> Messages:
    falls = -np.diff(probe.x, axis=1)
    excess = np.nan_to_num(falls - 1e-5 * probe.scale, nan=-np.inf)
    worst = np.unravel_index(np.argmax(excess), excess.shape)
    if excess[worst] > 0:
        n, s = probe.n.ravel()[worst[1] : worst[1] + 2], probe.s.ravel()[worst[0]]
        ends = f"from n = {n[0]:.3g} to {n[1]:.3g}, at s = {s:.3g}"
        yield f"from_normal must not fall, and falls by {falls[worst]:.3g} {ends}"


def _symmetry(probe: Probe) -> Messages:
    if probe.process.symmetric:
        say = "from_normal of -n is {found}, not {wanted}: set symmetric to false if that is meant"
        yield from probe.differ(probe.x[:, ::-1], -probe.x, 1e-5 * probe.scale, say)


def _variance(probe: Probe) -> Messages:
    x = np.where(np.isfinite(probe.wide_x), probe.wide_x, 0)
    mean = probe.mean(x)
    variance = probe.mean(np.square(x - mean))
    own = probe.call("variance", probe.s)
    if not np.all(np.isfinite(own)):
        yield f"variance is {own[~np.isfinite(own)][0]}, and must be finite for a path"
        return
    say = "variance is {found}, but the map has {wanted}"
    yield from probe.differ(own, variance, 0.015 * variance, say)
    say = "the mean is {found}, and must be 0"
    yield from probe.differ(mean, 0, 0.01 * np.sqrt(variance), say)


def _samples(probe: Probe) -> Messages:
    y, v = (part[2:] for part in probe.samples)
    few = probe.points.shape[1]
    field = probe.call("velocity", probe.s, y[:, :few])
    fastest = np.max(np.abs(v), axis=1, keepdims=True)
    say = "samples move with {wanted} where velocity is {found}"
    yield from probe.differ(field, v[:, :few], 2e-3 * fastest, say)
    # The mean size, bounded, to 5.5 standard errors.
    most = 3 * np.sqrt(probe.call("variance", probe.s))
    sizes, of_map = (np.minimum(np.abs(part), most) for part in (y, probe.wide_x))
    wanted = probe.mean(of_map)
    allowed = 5.5 * np.std(sizes, 1, keepdims=True) / math.sqrt(y.shape[1]) + 0.015 * wanted
    say = "samples are {found} far from 0 in the mean, where the map has {wanted}"
    yield from probe.differ(np.mean(sizes, 1, keepdims=True), wanted, allowed, say)
    # Shares of samples against the map's, on both sides of atoms; by Kolmogorov and Smirnov.
    size, share = y.shape[1], probe.share.ravel()
    distance = math.sqrt(math.log(2e7) / (2 * size))
    for index, s in enumerate(probe.s.ravel()):
        columns, grids = (part[index].reshape(part.shape[1], -1).T for part in (y, probe.x))
        for column, grid in zip(columns[:4], grids[:4], strict=True):
            ordered, near = np.sort(column), 8 * probe.eps * np.abs(grid)
            most = np.searchsorted(ordered, grid + near, "right") / size
            least = np.searchsorted(ordered, grid - near, "left") / size
            gap = np.maximum(share - most, least - share)
            if np.max(gap) > distance:
                k = int(np.argmax(gap))
                text = f"{most[k]:.3g} of {SAMPLES} samples lie below {grid[k]:.3g}"
                yield f"{text}, where the map has {share[k]:.3g}, at s = {s:.3g}"
                return


def _inverse(probe: Probe) -> Messages:
    n, slope = probe.at_grid("to_normal"), np.maximum(probe.dx_dn, 1e-30)
    say = "to_normal of from_normal(n) is {found}, not {wanted}"
    yield from probe.differ(n, probe.n, 2e-3 + 1e-5 * probe.scale / slope, say, probe.inner)


def _cdf(probe: Probe) -> Messages:
    value, say = probe.at_grid("cdf"), "cdf is {found}, where the map has {wanted}"
    yield from probe.differ(value, probe.share, 1e-3, say, probe.inner)
    if probe.process.symmetric:
        half = probe.call("atom_mass", probe.s) / 2
        middle = np.where(probe.n < 0, half / 2, 1 - half / 2)
        say = "cdf is {found} on an atom, and must be {wanted}, the middle of its step"
        yield from probe.differ(value, middle, 1e-3, say, probe.atom & (half > 1e-3))


def _quantile(probe: Probe) -> Messages:
    lower, tails = np.minimum(probe.share, 0.5), probe.column([1e-10, 1e-20, 1e-36])
    u = np.concatenate([lower, tails], axis=1)
    value, count = probe.call("quantile", probe.s, u), lower.shape[1]
    say = "quantile is {found}, where the map has {wanted}"
    yield from probe.differ(value[:, :count], probe.x, 1e-3 * probe.scale, say, probe.n <= 0)
    bad = ~np.isfinite(value)
    if np.any(bad):
        yield f"quantile is not finite at u = {u.ravel()[np.argwhere(bad)[0][1]]:.1g}"


def _density(probe: Probe) -> Messages:
    density, logarithm = probe.at_grid("density"), probe.at_grid("log_density")
    gaussian = np.exp(-np.square(probe.n) / 2) / math.sqrt(2 * math.pi)
    wanted = gaussian / np.maximum(probe.dx_dn, 1e-30)
    say = "density is {found}, where mass by length of the map is {wanted}"
    allowed = (0.05 + probe.noise) * wanted
    yield from probe.differ(density, wanted, allowed, say, probe.inner & (probe.noise < 0.5))
    with np.errstate(divide="ignore"):
        wanted = np.log(density)
    say = "log_density is {found}, where the logarithm of density is {wanted}"
    allowed = 1e-3 * (1 + np.abs(wanted))
    yield from probe.differ(logarithm, wanted, allowed, say, density > 1e-30)


def _velocity(probe: Probe) -> Messages:
    moving = np.where(probe.inner, np.abs(probe.dx_ds), 0)
    allowed = 5e-3 * np.max(moving, axis=1, keepdims=True)
    allowed = allowed + 1e3 * probe.eps * probe.scale / probe.s
    say = "velocity is {found}, where quantiles move with {wanted} (continuity equation)"
    yield from probe.differ(probe.at_grid("velocity"), probe.dx_ds, allowed, say, probe.inner)
    step = 0.01
    ahead, behind = (probe.call("variance", probe.s * (1 + d)) for d in (step, -step))
    if np.all(np.isfinite(ahead)) and np.all(behind > 0):
        wanted = (np.log(ahead) - np.log(behind)) / (4 * step * probe.s)
        say = "linear_velocity is {found}, but half of d log variance / ds {wanted}"
        own = probe.call("linear_velocity", probe.s)
        yield from probe.differ(own, wanted, 0.01 * np.abs(wanted), say)


def _atoms(probe: Probe) -> Messages:
    x, share = probe.wide_x, ndtr(probe.wide)
    near = 8 * probe.eps * np.abs(probe.ends)
    low, high = x <= (probe.ends + near)[:, :1], x >= (probe.ends - near)[:, 1:]
    below = np.max(np.where(low, share, 0), axis=1, keepdims=True)
    above = 1 - np.min(np.where(high, share, 1), axis=1, keepdims=True)
    mass = probe.call("atom_mass", probe.s)
    say = "atom_mass is {found}, but the map sends {wanted} to its ends"
    yield from probe.differ(mass, below + above, 0.021, say)
    flat = (np.diff(x, axis=1) == 0) & ~(low | high)[:, 1:] & ~(low | high)[:, :-1]
    flat &= np.abs(probe.wide[:, 1:]) < 4
    if np.any(flat):
        s, n = np.argwhere(flat)[0][:2]
        place = f"near n = {probe.wide.ravel()[n]:.3g}, at s = {probe.s.ravel()[s]:.3g}"
        yield f"from_normal is flat between its ends, {place}: atoms must be at the ends"
    if np.any(mass > 0.05):
        yield from _atom_terms(probe, above)


def _atom_terms(probe: Probe, above: np.ndarray) -> Messages:
    """The terms of the upper atom: its probability, and how far the velocity jumps."""
    top, mask = probe.ends[:, 1:], (above > 0.025) & (above < 0.47)
    s, place = probe.array(probe.s), probe.array(top)
    log_mass, jump = (np.asarray(p, np.float64) for p in probe.process.atom_terms(s, place))
    # The velocity beside the atom, from the normal variables before it.
    inverse = statistics.NormalDist().inv_cdf
    edge = np.vectorize(inverse, otypes=[float])(np.clip(1 - above, 0.51, 0.99))
    normals = np.concatenate([edge - 0.04, edge - 0.08], axis=1)
    beside = probe.call("velocity", probe.s, probe.call("from_normal", probe.s, normals))
    speed = probe.call("velocity", probe.s, top)
    wanted = speed - (2 * beside[:, :1] - beside[:, 1:])
    say = "the velocity jumps by {wanted} onto an atom, where atom_terms says {found}"
    yield from probe.differ(jump, wanted, 0.05 * np.abs(speed), say, mask)
    if np.any(jump != 0):
        say = "atom_terms has the probability {found} for an atom of {wanted}"
        yield from probe.differ(np.exp(log_mass), above, 0.011, say, mask)


def _tails(probe: Probe) -> Messages:
    x, n = probe.tails, probe.column(TAILS)
    reach = np.abs(n) <= (12 if probe.dtype == jnp.float32 else 37)
    for wrong, what in ((np.isnan(x), "NaN"), (np.isinf(x) & reach, "infinite")):
        if np.any(wrong):
            far = TAILS[np.argwhere(wrong)[0][1]]
            tail = f"{math.erfc(abs(far) / math.sqrt(2)) / 2:.1g}"
            yield f"from_normal is {what} at n = {far:.3g}, whose tail of {tail} floats can express"
            return
    falls = np.diff(x, axis=1) < -1e-3 * np.abs(x[:, 1:])
    if np.any(falls):
        yield f"from_normal falls beyond n = {TAILS[np.argwhere(falls)[0][1]]:.3g}"
    for name in ("to_normal", "cdf", "velocity", "log_density"):
        bad = np.isnan(probe.method(name)[:, -len(TAILS) :])
        if np.any(bad):
            yield f"{name} is NaN at the displacement of n = {TAILS[np.argwhere(bad)[0][1]]:.3g}"


def _derivatives(probe: Probe) -> Messages:
    """In normal variable, displacement and time, at few points between those of the grid."""
    n = probe.column([-2.313, -1.187, -0.413, 0.0, 0.287, 0.913, 2.187])
    step = 0.01
    x = probe.call("from_normal", probe.s, np.concatenate([n, n + step, n - step], axis=1))
    x, ahead, behind = np.split(x, 3, axis=1)
    s, n = (np.broadcast_to(part, x.shape) for part in (probe.s, n))
    inner = ~np.any([probe.at_end(part, probe.ends) for part in (x, ahead, behind)], axis=0)
    if not np.any(inner):
        return
    found = _slopes(probe, ("from_normal",), s, n)["from_normal"][1]
    wanted = (ahead - behind) / (2 * step)
    bend = np.abs(ahead - 2 * x + behind) / (2 * step)
    error = np.abs(found - wanted) - 0.02 * np.abs(wanted) - bend - 1e-4 * probe.scale
    if not np.all(error[inner] <= 0):
        worst = np.argmax(np.where(inner, np.nan_to_num(error, nan=np.inf), -np.inf))
        numbers = f"{found.ravel()[worst]:.4g}, by differences {wanted.ravel()[worst]:.4g}"
        yield f"the derivative of from_normal in n is {numbers}, at n = {n.ravel()[worst]:.3g}"
    slopes = _slopes(probe, ("velocity", "cdf", "log_density"), s, x)
    for name, parts in slopes.items():
        for variable, value in zip(("s", "y"), parts, strict=True):
            if not np.all(np.isfinite(value[inner])):
                yield f"the derivative of {name} in {variable} is not finite"
    found, wanted = slopes["cdf"][1], probe.call("density", s, x)
    if np.any(np.abs(found - wanted)[inner] > 0.03 * np.max(np.abs(wanted)[inner])):
        yield "the derivative of cdf in y is not the density"
    yield from _parameters(probe, s, n)


def _slopes(probe: Probe, names: tuple[str, ...], *point: np.ndarray) -> dict[str, Any]:
    """Derivatives of methods in both arguments."""

    @eqx.filter_jit
    def both(process: Any, s: jax.Array, y: jax.Array) -> dict[str, tuple[jax.Array, jax.Array]]:
        one, found = jnp.ones_like(s), {}
        for name in names:
            _, slope = jax.linearize(getattr(process, name), s, y)
            found[name] = slope(one, 0 * one), slope(0 * one, one)
        return found

    values = both(probe.process, *map(probe.array, point))
    return jax.tree.map(lambda value: np.asarray(value, np.float64), values)


def _parameters(probe: Probe, s: np.ndarray, n: np.ndarray) -> Messages:
    """Derivatives of the map in each number of the process, against differences."""
    floats = jax.tree.map(lambda v: probe.array(v) if isinstance(v, float) else v, probe.process)
    numbers, rest = eqx.partition(floats, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(numbers)
    if not leaves:
        return
    times, normals, step = probe.array(s), probe.array(n), 0.01

    def moved(by: jax.Array) -> jax.Array:
        tree = jax.tree.unflatten(structure, [p + by[i] * p for i, p in enumerate(leaves)])
        return eqx.combine(tree, rest).from_normal(times, normals)

    @jax.jit
    def slope(by: jax.Array, along: jax.Array) -> tuple[jax.Array, jax.Array]:
        return jax.jvp(moved, (by,), (along,))

    names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(numbers)]
    for along, name in zip(jnp.eye(len(names), dtype=probe.dtype), names, strict=True):
        found = np.asarray(slope(0 * along, along)[1], np.float64)
        ahead, behind = (np.asarray(slope(d * along, along)[0]) for d in (step, -step))
        wanted = (ahead - behind) / (2 * step)
        size = np.max(np.abs(wanted), 1, keepdims=True) + 1e-3 * probe.scale
        # The map has a corner at the edge of an atom, where few points may lie.
        if np.mean(~(np.abs(found - wanted) <= 0.03 * size)) > 0.1:
            yield f"the derivative of from_normal in process{name} is not that of differences"


def _start(probe: Probe) -> Messages:
    y, v = probe.samples
    if not np.all(y[0] == 0):
        yield f"samples at s = 0 must be 0, and are up to {np.max(np.abs(y[0])):.3g}"
    s = 1e-12 * probe.T
    rate = probe.call("linear_velocity", s)
    for name, value in (("sample", y[1]), ("a sample's velocity", v[1]), ("linear_velocity", rate)):
        if not np.all(np.isfinite(value)):
            yield f"{name} is not finite at s = {s:.1g}, where paths begin"


def _shapes(probe: Probe) -> Messages:
    s = jax.ShapeDtypeStruct(probe.s.shape, probe.dtype)
    wanted = (len(probe.s), 3, *probe.event)
    n = probe.column([-1.1, -0.3, 0.4])
    index = [np.argmin(np.abs(probe.n.ravel() - value)) for value in n.ravel()]
    names = ("to_normal", "velocity", "log_density", "density", "cdf", "conditional_law")
    arguments = {"from_normal": n, "quantile": probe.column([0.2, 0.4, 0.7])}
    for name, second in (arguments | dict.fromkeys(names, probe.x[:, index])).items():
        y = jax.ShapeDtypeStruct(second.shape, probe.dtype)
        for value in jax.tree.leaves(jax.eval_shape(getattr(probe.process, name), s, y)):
            if value.shape != wanted:
                shapes = f"{value.shape} for {s.shape} and {y.shape}"
                yield f"{name} returns shape {shapes}, where broadcasting gives {wanted}"
            if value.dtype != probe.dtype:
                yield f"{name} returns {value.dtype.name} for {y.dtype.name}"
    wanted = (len(probe.s), 1, *probe.event)
    for name in ("variance", "atom_mass", "linear_velocity"):
        value = jax.eval_shape(getattr(probe.process, name), s)
        if np.broadcast_shapes(value.shape, wanted) != wanted:
            yield f"{name} returns shape {value.shape} for {s.shape}"


def _transforms(probe: Probe) -> Messages:
    s, y = probe.array(probe.s), probe.array(probe.points)

    @eqx.filter_jit
    def each(process: Any) -> dict[str, jax.Array]:
        names = ("to_normal", "velocity", "log_density", "cdf")
        return {name: jax.vmap(getattr(process, name))(s, y) for name in names}

    few = probe.n.shape[1]
    for name, mapped in each(probe.process).items():
        plain, mapped = probe.at_grid(name), np.asarray(mapped)[:, :few]
        scale = np.max(np.abs(plain[np.isfinite(plain)]), initial=0)
        # At the edge of an atom a rounding may take a point to the other side.
        close = np.isclose(mapped, plain, 1e-3, 1e-3 * scale, equal_nan=True)
        if not np.all(close | ~probe.inner | (probe.noise > 0.1)):
            yield f"{name} has other values under vmap"
    plain = np.asarray(probe.process.from_normal(s, probe.array(probe.n)))
    if not np.allclose(plain, probe.x, 1e-4, 1e-4 * np.max(probe.scale)):
        yield "from_normal has other values under jit"
    key, shape, s = jax.random.key(0), (5, *probe.event), probe.array(probe.T)
    plain, alone = probe.process.sample_with_velocity(key, s, shape)[0], probe.process.sample
    size = 1e-5 * np.max(np.abs(plain))
    if not np.allclose(alone(key, s, shape), plain, 1e-4, size):
        yield "sample draws others than sample_with_velocity"
    numbers, rest = eqx.partition(probe.process, lambda v: isinstance(v, float) or eqx.is_array(v))
    twice = jax.tree.map(lambda v: jnp.stack([jnp.asarray(v)] * 2), numbers)
    draw = lambda part: eqx.combine(part, rest).sample(key, s, shape)  # noqa: E731
    if not np.allclose(jax.vmap(draw, axis_size=2)(twice)[1], plain, 1e-4, size):
        yield "samples are others if the process's numbers are batched by vmap"


def _conditional_law(probe: Probe) -> Messages:
    far = np.concatenate([probe.x[:, ::10], 3 * probe.ends, 1e3 * probe.ends], axis=1)
    parts = probe.process.conditional_law(probe.array(probe.s), probe.array(far))
    for name, value in zip(("log-density", "velocity"), parts, strict=True):
        bad = ~np.isfinite(np.asarray(value))
        if np.any(bad):
            yield f"the {name} of conditional_law is not finite at y = {far[bad][0]:.3g}"


PROPERTIES: dict[str, Callable[[Probe], Messages]] = {
    "monotone map": _monotone,
    "symmetry": _symmetry,
    "variance": _variance,
    "samples": _samples,
    "inverse": _inverse,
    "cdf": _cdf,
    "quantile": _quantile,
    "density": _density,
    "velocity": _velocity,
    "atoms": _atoms,
    "tails": _tails,
    "derivatives": _derivatives,
    "start": _start,
    "shapes and types": _shapes,
    "transformations": _transforms,
    "conditional law": _conditional_law,
}
"""What is looked at, by name."""
