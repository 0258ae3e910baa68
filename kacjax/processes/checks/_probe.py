"""The values of a process that its checks look at, each method being compiled once."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import ndtr

from kacjax.processes.base import Process

SAMPLES = 20_000
TIMES = (1e-3, 0.05, 0.3, 1.0)
"""Parts of the last time."""

# Of differences in time, relative to it.
_STEP = 0.01
_NORMALS = np.arange(-360, 361) / 40
TAILS = np.array([-38.0, -20.0, -12.0, -8.0, -6.0, 6.0, 8.0, 12.0, 20.0, 38.0])


class Probe:
    """The map on a grid: times along the first axis, normal variables along the second.

    Attributes:
        event: The shape of the process's parameters.
        s: Times, of shape `(times, 1, ...)`.
        n: Normal variables within 5, of shape `(1, points, ...)`.
        x: The map of these; `dx_dn`, `dx_ds` its slopes, by differences.
        ends: What it is at -8 and 8.
        atom: Which points are at an end.
        inner: Which are not, with what their differences need.
        wide, wide_x: Normal variables within 9, and the map of these.
        tails: The map at `TAILS`.
    """

    def __init__(self, process: Process, T: float):
        self.process, self.T, self.dtype = process, T, jnp.result_type(float)
        self.eps = float(jnp.finfo(self.dtype).eps)
        self.event = np.shape(process.variance(self.array(T)))
        times = T * np.array(TIMES)
        steps = np.concatenate([times, times * (1 + _STEP), times * (1 - _STEP)])
        normals, tails = self.column(_NORMALS), self.column(TAILS)
        points = np.concatenate([normals, tails], axis=1)
        self.s = times.reshape(-1, 1, *self.ones)
        whole = self.call("from_normal", steps.reshape(-1, 1, *self.ones), points)
        wanted = (len(steps), points.shape[1], *self.event)
        if whole.shape != wanted:
            text = "of times, normal variables and parameters"
            raise ValueError(f"from_normal must return shape {wanted} {text}, got {whole.shape}.")
        count = len(times)
        here, after, before = whole[:count], whole[count : 2 * count], whole[2 * count :]
        self.wide, self.wide_x = normals, here[:, : len(_NORMALS)]
        self.tails = here[:, len(_NORMALS) :]
        last = [np.argmax(_NORMALS == -8), np.argmax(_NORMALS == 8)]
        self.ends = here[:, last]
        atoms = [
            self.at_end(part[:, : len(_NORMALS)], part[:, last]) for part in (here, after, before)
        ]
        # Within 5, every fourth point, with the neighbors for differences.
        index = np.flatnonzero(np.abs(_NORMALS) <= 5)[::4]
        self.n, self.x, self.atom = normals[:, index], here[:, index], atoms[0][:, index]
        step = _NORMALS[1] - _NORMALS[0]
        self.dx_dn = (here[:, index + 1] - here[:, index - 1]) / (2 * step)
        self.dx_ds = (after - before)[:, index] / (2 * _STEP * self.s)
        beside = [atoms[0][:, index + 1], atoms[0][:, index - 1], *(a[:, index] for a in atoms)]
        self.inner = ~functools.reduce(np.logical_or, beside)
        self.scale = np.max(np.abs(self.x), axis=1, keepdims=True)
        # What rounding, and corners of the slope, do to differences, relative to them.
        bend = np.abs(here[:, index + 1] - 2 * self.x + here[:, index - 1]) / (2 * step)
        rounding = 4 * self.eps * np.abs(self.x) / step
        self.noise = (bend + rounding) / np.maximum(self.dx_dn, 1e-30)
        self.share = ndtr(self.n)

    @property
    def ones(self) -> tuple[int, ...]:
        """The shape of a parameter that is alone."""
        return (1,) * len(self.event)

    def column(self, values: Any) -> np.ndarray:
        """Values along the second axis."""
        return np.reshape(values, (1, -1, *self.ones))

    def array(self, value: Any) -> jax.Array:
        """As JAX's floats."""
        return jnp.asarray(value, self.dtype)

    def call(self, name: str, *arguments: Any) -> np.ndarray:
        """The value of a method, in float64."""
        return np.asarray(_call(self.process, name, *map(self.array, arguments)), np.float64)

    def mean(self, values: np.ndarray) -> np.ndarray:
        """The Gaussian mean of values at `wide`."""
        weight = np.exp(-np.square(self.wide) / 2)
        return np.sum(weight / np.sum(weight) * values, axis=1, keepdims=True)

    def at_end(self, x: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Which points are at an end of the map, to rounding: on an atom, if there is one."""
        near = 8 * self.eps * np.abs(ends)
        return (x <= (ends + near)[:, :1]) | (x >= (ends - near)[:, 1:])

    @functools.cached_property
    def points(self) -> np.ndarray:
        """Displacements at which every method is called: those of `n`, then those of the tails."""
        return np.concatenate([self.x, self.tails], axis=1)

    @functools.cache  # noqa: B019
    def method(self, name: str) -> np.ndarray:
        """The values of a method at `points`."""
        return self.call(name, self.s, self.points)

    def at_grid(self, name: str) -> np.ndarray:
        """The values of a method at `x`."""
        return self.method(name)[:, : self.n.shape[1]]

    @functools.cached_property
    def samples(self) -> tuple[np.ndarray, np.ndarray]:
        """Displacements and velocities at times 0, `1e-12 T` and `s`, along the first axis."""
        s = self.T * np.array([0.0, 1e-12, *TIMES])
        s = self.array(s.reshape(-1, 1, *self.ones))
        shape = (len(s), SAMPLES // max(1, math.prod(self.event) // 4), *self.event)
        y, v = _draw(self.process, jax.random.key(0), s, shape)
        if y.shape != shape or v.shape != shape:
            raise ValueError(f"sample_with_velocity returns {y.shape} and {v.shape} for {shape}.")
        return np.asarray(y, np.float64), np.asarray(v, np.float64)

    def differ(
        self, found: Any, wanted: Any, allowed: Any, say: str, mask: Any = True
    ) -> Iterator[str]:
        """A message of where two arrays differ most, in terms of what is allowed, if they do."""
        shape = np.broadcast_shapes(*map(np.shape, (found, wanted, allowed, mask, self.s)))
        found, wanted, allowed, mask, s = (
            np.broadcast_to(part, shape) for part in (found, wanted, allowed, mask, self.s)
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            excess = np.where(found == wanted, 0, np.abs(found - wanted) / allowed)
        excess = np.where(mask, np.nan_to_num(excess, nan=np.inf), 0)
        worst = np.unravel_index(np.argmax(excess), shape)
        if excess[worst] > 1:
            text = say.format(found=f"{found[worst]:.4g}", wanted=f"{wanted[worst]:.4g}")
            where = f", at s = {s[worst]:.3g}"
            if shape[1] == self.n.shape[1]:
                where += f", n = {self.n.ravel()[worst[1]]:.3g}"
            yield text + where


@eqx.filter_jit
def _call(process: Process, name: str, *arguments: jax.Array) -> jax.Array:
    return getattr(process, name)(*arguments)


@eqx.filter_jit
def _draw(process: Process, key: jax.Array, s: jax.Array, shape: tuple[int, ...]) -> Any:
    return process.sample_with_velocity(key, s, shape)
