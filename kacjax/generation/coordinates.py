r"""Straight coordinates: every path is flow matching, if space and time are scaled to fit.

With the noise's deviation $\sigma(t) = \sqrt{\operatorname{Var} K_{g(t)}}$ a point of a path is
$x_t = f x_0 + \sigma \varepsilon$, with $\varepsilon$ of variance 1. In the coordinates

$$ u = \frac{x}{f + \sigma}, \qquad \rho = \frac{\sigma}{f + \sigma} $$

it is $u = (1 - \rho) x_0 + \rho \varepsilon$, and the equation $\dot x = v(t, x)$ becomes

$$ \frac{du}{d\rho} = \frac{(f + \sigma) v - (f' + \sigma') x}{f \sigma' - f' \sigma}
   = \hat\varepsilon - \hat x_0, $$

where $\hat x_0, \hat\varepsilon$ are the data and the noise for which the best linear predictor of the
velocity is `v` (`ProbabilityPath.velocity_from_data`). As long as they stay the same the solution is a
straight line, along which one Euler step is exact. In time it is curved: a diffusion's like $\sqrt t$
near the data, that of the Kac process, which begins as $c s$ and ends as $\sqrt s$, in between.

Euler's method in these coordinates is DDIM for Brownian motion, whatever its clock, and its analogue for
the Kac process. For linear flow matching $u = x$ and $\rho = t$.

Source: J. Song, C. Meng, S. Ermon, *Denoising diffusion implicit models*, ICLR 2021; the change of
scale and time: T. Karras et al., *Elucidating the design space of diffusion-based generative models*,
NeurIPS 2022.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from kacjax._pytrees import as_arrays
from kacjax.paths import ProbabilityPath
from kacjax.processes import KacProcess, WienerProcess
from kacjax.schedules import CLOCKS, value_and_derivative

COORDINATES = ("straight", "time")

# The search for a time divides an interval of the fourth root of t into so many parts, so many times.
# The root, because of a diffusion's time rho^2 even the smallest has to be found to relative accuracy.
_PARTS, _ROUNDS, _ROOT = 128, 5, 4


def is_straightened(path: ProbabilityPath) -> bool:
    """Whether one scale fits all components: not where each has a process of its own."""
    known = (
        type(path.process) in (KacProcess, WienerProcess)
        and path.clock.__class__ in CLOCKS.values()
    )
    if known and all(jnp.ndim(leaf) == 0 for leaf in jax.tree.leaves((path.process, path.clock))):
        return True  # Without tracing anything.
    return jax.eval_shape(lambda: path.clock(jnp.asarray(path.T, float))).shape == () and (
        jax.eval_shape(lambda: path.process.variance(1.0)).shape == ()
    )


def place(path: ProbabilityPath, t: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The place $\rho(t)$ on the way from data, 0, to noise alone, 1; it rises with `t`."""
    return _place(as_arrays(path), t)


@eqx.filter_jit
def _place(path: ProbabilityPath, t: Array) -> Array:
    f, sigma = _schedules(path, t)
    return sigma / (f + sigma)


def time_at(path: ProbabilityPath, rho: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The time with $\rho(t) = \rho$, the inverse of `place`."""
    rho = jnp.asarray(rho)
    T = jnp.asarray(path.T, rho.dtype)

    def of(root):
        return place(path, T * root**_ROOT)

    steps = jnp.arange(1, _PARTS, dtype=rho.dtype).reshape((1,) * rho.ndim + (-1,))

    def narrow(_, interval):
        low, width = interval
        width = width / _PARTS
        below = of(low[..., None] + width * steps) < rho[..., None]
        return low + width * jnp.sum(below, axis=-1, dtype=rho.dtype), width

    # A loop for the compiler's sake: it is part of the plan, and of every adaptive solver's program.
    low, width = jax.lax.fori_loop(0, _ROUNDS, narrow, (jnp.zeros_like(rho), jnp.ones_like(T)))
    # Newton's step squares what is left of the error, and carries the derivatives.
    middle = jax.lax.stop_gradient(low + width / 2)
    value, slope = value_and_derivative(of, middle)
    return T * jnp.clip(middle - (value - rho) / slope, 0, 1) ** _ROOT


def straighten(path: ProbabilityPath, t: Float[Array, "..."], state: Any) -> Any:
    r"""A state at time `t` in the coordinates $u = x / (f + \sigma)$.

    Args:
        path: The path.
        t: A time, or times of states on a common first axis.
        state: A pytree whose first leaf is the points; others, such as a log-density, stay.
    """
    f, sigma = _schedules(path, t)
    return _scale(state, 1 / (f + sigma))


def bend(path: ProbabilityPath, t: Float[Array, "..."], state: Any) -> Any:
    """The state with these coordinates, the inverse of `straighten`."""
    f, sigma = _schedules(path, t)
    return _scale(state, f + sigma)


class Frame(NamedTuple):
    r"""What the equation in straight coordinates takes from the path, at one place or at many.

    Attributes:
        t: The time.
        scale: $f + \sigma$.
        pace: $dt / d\rho = (f + \sigma)^2 / W$ with $W = f \sigma' - f' \sigma$.
        velocity_gain: The velocity's factor in $du / d\rho$, $(f + \sigma) / W$.
        drift: That of `u`, $-(f' + \sigma') (f + \sigma) / W$.
    """

    t: Array
    scale: Array
    pace: Array
    velocity_gain: Array
    drift: Array


def frame_at(path: ProbabilityPath, rho: Float[Array, "..."]) -> Frame:
    """The frame at any place, of its shape: a search for the time."""
    t = time_at(path, rho)
    f, f_prime = value_and_derivative(path.signal, t)
    g, g_prime = value_and_derivative(path.clock, t)
    sigma = _deviation(path, t)
    sigma_prime = sigma * g_prime * path.process.linear_velocity(g)
    scale, scale_prime = f + sigma, f_prime + sigma_prime
    gain = scale / (f * sigma_prime - f_prime * sigma)
    return Frame(t, scale, scale * gain, gain, -scale_prime * gain)


class FrameTable(eqx.Module):
    """Frames of places that are known beforehand: no search in a solver's loop, and no path.

    Attributes:
        places: The places.
        frames: Their frames.
    """

    places: Float[Array, " places"]
    frames: Frame

    def __call__(self, rho: Float[Array, ""]) -> Frame:
        """The frame of the nearest place."""
        index = jnp.argmin(jnp.abs(self.places.astype(rho.dtype) - rho))
        return Frame(*(values[index].astype(rho.dtype) for values in self.frames))


class StraightField(eqx.Module):
    r"""The right-hand side in $\rho$ of an equation in time; a pytree if its parts are.

    Attributes:
        field: The right-hand side in time.
        frames: The frame of a place: a `FrameTable`, or `frame_at` with its path.
    """

    field: Callable[..., Any]
    frames: Callable[[Array], Frame]

    def __call__(self, rho: Float[Array, " batch"], state: Any, args: Any) -> Any:
        r"""The slopes at one place, given for every point.

        That of the points is $du / d\rho$, those of all else are times $dt / d\rho$.
        """
        frame = self.frames(rho[0])
        slopes = self.field(jnp.broadcast_to(frame.t, rho.shape), _scale(state, frame.scale), args)
        (u, *_), (v, *others) = jax.tree.leaves(state), jax.tree.leaves(slopes)
        found = [
            frame.velocity_gain * v + frame.drift * u,
            *(frame.pace * slope for slope in others),
        ]
        return jax.tree.unflatten(jax.tree.structure(slopes), found)


def _scale(state: Any, factor: Array) -> Any:
    (x, *others), structure = jax.tree.flatten(state)
    factor = factor.astype(x.dtype).reshape(factor.shape + (1,) * (x.ndim - factor.ndim))
    return jax.tree.unflatten(structure, [x * factor, *others])


def _schedules(path: ProbabilityPath, t: Array) -> tuple[Array, Array]:
    return path.signal(t), _deviation(path, t)


def _deviation(path: ProbabilityPath, t: Array) -> Array:
    r"""$\sigma(t)$; 0 at time 0, where its derivative may be infinite and is taken for 0."""
    some = t > 0
    variance = path.process.variance(path.clock(jnp.where(some, t, 1)))
    return jnp.where(some, jnp.sqrt(variance), 0)
