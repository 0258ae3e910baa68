"""The Kac process, or telegraph process: motion at speed `c` that turns at rate `a`."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr

from kacjax._typing import Array, ArrayLike, Float, Key, Scalar, Shape
from kacjax._validation import check_choice, check_nonnegative, check_positive, is_concrete
from kacjax.processes import base
from kacjax.processes.base import Blur, Pair, Process, Values, align
from kacjax.processes.kac import law, sampler, telegraph

METHODS = ("squash", "poisson-beta", "path")
# Of jump rates: squares of `a s` are to stay finite in float32.
_LARGEST = 1e15


class KacProcess(Process):
    r"""The Kac process of jump rate `a` and speed `c`, in each component independently.

    A path has not turned yet at time `s` with probability $e^{-as}$ and sits on the light cone, at an
    atom $\pm c s$. Choose $aT$ of 9 (one in 8,000) or more, unless atoms may be seen at the end, and
    the deviation at time `T`, about $c \sqrt{T/a}$, of 0.4 to 1 for data of deviation 1. The velocity
    never exceeds `c`; as $a, c \to \infty$ with $c^2 / a = \sigma^2$ this becomes Brownian motion.

    With $\beta = a/c$ and $r = \sqrt{(cs - y)(cs + y)}$, density inside the cone, velocity and variance are

    $$ p = \tfrac12 e^{-as} \beta \Bigl[ I_0(\beta r) + c s \frac{I_1(\beta r)}{r} \Bigr], \quad
       v = \frac{y}{s + (r/c) I_0(\beta r) / I_1(\beta r)}, \quad
       \operatorname{Var} = \frac{c^2}{a} s - \frac{c^2}{2 a^2} (1 - e^{-2as}). $$

    On and outside the cone, $v = \pm c$: the field jumps. A displacement within one rounding of
    `c * s` is an atom in every method, as a sample's is; once added to other numbers it no longer is.
    `to_normal` gives an atom the normal variable where it begins.

    Attributes:
        a: Jump rate (damping), positive, in 1 / time; may be traced, or one value per component.
        c: Speed, positive, in displacement / time; likewise.

    Raises:
        ValueError: If a concrete `a` or `c` is not positive and finite, or `a` is above 1e15.

    Source: R. Duong, J. Chemseddine, P. K. Friz, G. Steidl, *Telegrapher's Generative Model via Kac
    Flows*, arXiv 2506.20641.

    Example:
        >>> process = kacjax.KacProcess(a=9.0, c=3.0)
        >>> y, v = process.sample_with_velocity(jax.random.key(0), 0.1, (4, 2))
        >>> process, y.shape, bool(jnp.all(jnp.abs(v) <= 3))
        (KacProcess(a=9.0, c=3.0), (4, 2), True)
    """

    a: ArrayLike
    c: ArrayLike

    def __init__(self, a: ArrayLike = 9.0, c: ArrayLike = 3.0):
        self.a, self.c = base.as_numbers("a", a), base.as_numbers("c", c)
        check_positive("a", self.a)
        check_positive("c", self.c)
        if is_concrete(self.a) and np.any(np.asarray(self.a) > _LARGEST):
            limit = "beyond which it is Brownian motion of sigma = c / sqrt(a)"
            raise ValueError(f"a must be at most {_LARGEST:g}, {limit}, got {self.a}.")

    def from_normal(self, s: ArrayLike, n: ArrayLike) -> Values:  # noqa: D102
        s, n, a, c = align(s=s, n=n, a=self.a, c=self.c)
        return sampler.displace(s, a, c, n, True)[0]

    def from_normal_with_velocity(self, s: ArrayLike, n: ArrayLike) -> Pair:  # noqa: D102
        s, n, a, c = align(s=s, n=n, a=self.a, c=self.c)
        return sampler.displace(s, a, c, n, True)

    def sample_with_velocity(
        self, key: Key, s: ArrayLike, shape: Shape, method: str = "squash"
    ) -> Pair:
        r"""Draws displacements with their velocities, which are exact on the atoms.

        Derivatives of samples are exact along each path, at a fixed normal variable:
        $dy = v \, ds + (y / c) \, dc + (s v - y) / a \, da$. Gradients of *expectations* that contain
        the velocity miss the change of the atoms' mass $e^{-as}$: `flow_matching_loss` adds it, and
        `atom_terms` are for losses of one's own.

        Args:
            key: As in `Process`, as are `s`, `shape` and what is returned and raised.
            s: Process time.
            shape: Shape of the result.
            method: `squash`, a map of one normal variable per component; or, for verification and not
                differentiable in `a`, `poisson-beta`, exact by rejection, or `path`, jump by jump,
                for which `a` and `s` must not be traced.

        Example:
            >>> y, v = kacjax.KacProcess().sample_with_velocity(jax.random.key(0), 0.0, (2,))
            >>> y.tolist(), jnp.abs(v).tolist()
            ([0.0, 0.0], [3.0, 3.0])
        """
        check_choice("method", method, METHODS)
        shape = base.check_draw(key, shape)
        given = s
        s, a, c = align(s=s, a=self.a, c=self.c, shape=shape)
        if method == "squash":
            n = base.normal(key, shape, s.dtype)
            return sampler.displace(s, a, c, n, s.dtype == jnp.float64)
        if method == "poisson-beta":
            z, w = sampler.poisson_beta(key, a * s, shape)
            return c * s * z, c * w
        bound = telegraph.resolve_bound(None, self.a, given, math.prod(shape))
        flat_s, flat_a = _flatten(shape, s=s, a=a)
        paths = telegraph.sample_positions(key, flat_a, flat_s[:, None], bound)
        y, counts, direction = (part.reshape(shape) for part in paths)
        return c * y, jnp.where(counts > 0, self.velocity(s, c * y), c * direction)

    def to_normal(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c)
        z, one_minus_z2, _ = law.cone_coordinates(c, s, y)
        return law.to_normal(a * s, z, one_minus_z2)

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c)
        z, one_minus_z2, side = law.cone_coordinates(c, s, y)
        return c * jnp.where(side < 0, law.velocity(a * s, z, one_minus_z2), z)

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c)
        z, one_minus_z2, side = law.cone_coordinates(c, s, y)
        inner = jnp.log(a / c) + law.log_density_over_lam(a * s, z, one_minus_z2)
        return jnp.where(side < 0, inner, jnp.where(jnp.isnan(z), z, -jnp.inf))

    def conditional_law(  # noqa: D102
        self, s: ArrayLike, y: ArrayLike, *, width: Scalar = 0.3, blur: Blur = None
    ) -> Pair:
        base.refuse_blur(self, blur)
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c, positive=True)
        return law.spread_law(a, c, s, y, jnp.asarray(width, y.dtype))

    def atom_mass(self, s: ArrayLike) -> Values:  # noqa: D102
        s, a, c = align(s=s, a=self.a, c=self.c)
        return jnp.exp(-a * s) + jnp.zeros_like(c)

    def max_speed(self) -> ArrayLike:  # noqa: D102
        return self.c

    def atom_terms(self, s: ArrayLike, y: ArrayLike) -> Pair:  # noqa: D102
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c)
        _, _, side = law.cone_coordinates(c, s, y)
        jump = jnp.where(side < 0, 0, jnp.sign(y) * (2 * c / (a * s + 2)))
        return jnp.broadcast_to(-a * s - math.log(2), jump.shape), jump

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Values:  # noqa: D102
        s, y, a, c = align(s=s, y=y, a=self.a, c=self.c)
        z, one_minus_z2, side = law.cone_coordinates(c, s, y)
        inside = side < 0
        score = law.to_normal(a * s, jnp.where(inside, z, 0), jnp.where(inside, one_minus_z2, 1))
        # On the cone it is in the middle of a step that is half the atoms' mass high.
        outside = (1 + z * jnp.where(side > 0, 1, 1 - jnp.exp(-a * s) / 2)) / 2
        return jnp.where(inside, ndtr(score), outside)

    def variance(self, s: ArrayLike) -> Values:  # noqa: D102
        s, a, c = align(s=s, a=self.a, c=self.c)
        return jnp.square(c * s) * law.scaled_variance(a * s)

    def linear_velocity(self, s: ArrayLike) -> Values:  # noqa: D102
        s, a, c = align(s=s, a=self.a, c=self.c, positive=True)
        lam = a * s
        # Of the variance (c s)^2 kappa(lam) only kappa is differentiated: c s may underflow.
        kappa, change = jax.jvp(law.scaled_variance, (lam,), (lam,))
        return base.quotient(1 + change / (2 * kappa), s) + jnp.zeros_like(c)

    def sample_jump_times(
        self, key: Key, horizon: ArrayLike, shape: Shape = (), max_jumps: int | None = None
    ) -> Float[Array, "... jumps"]:
        """Draws the times at which paths turn; `position_at` says where they are in between.

        Args:
            key: Random key.
            horizon: Last time, broadcast against `shape`.
            shape: Shape of the paths.
            max_jumps: As in `sample_path`.

        Returns:
            Increasing times, `inf` past the horizon.

        Example:
            >>> process = kacjax.KacProcess(a=9.0)
            >>> jumps = process.sample_jump_times(jax.random.key(0), 0.5, (100,))
            >>> process.position_at(jumps, jnp.ones(100), 0.3).shape
            (100,)
        """
        shape = base.check_draw(key, shape)
        bound = telegraph.resolve_bound(max_jumps, self.a, horizon, math.prod(shape))
        s, a = _flatten(shape, s=horizon, a=self.a)
        return telegraph.sample_jumps(key, a, s, bound).reshape(*shape, bound)

    def position_at(
        self, jump_times: Float[Array, "... jumps"], direction: ArrayLike, s: ArrayLike
    ) -> Values:
        """Position at time `s` of paths with these jump times and first directions, 1 or -1."""
        shape, jumps = jump_times.shape[:-1], jump_times.reshape(-1, jump_times.shape[-1])
        direction, s, c = _flatten(shape, direction=direction, s=s, c=self.c)
        return (c * jax.vmap(telegraph.position)(jumps, direction, s)).reshape(shape)

    def sample_path(
        self, key: Key, times: ArrayLike, shape: Shape, max_jumps: int | None = None
    ) -> Float[Array, "times ..."]:
        """Draws whole paths: the positions of each at every time in `times`, in any order.

        Args:
            key: Random key.
            times: Process times, a vector, not negative.
            shape: Shape of the paths.
            max_jumps: Bound on the number of jumps, needed where `a` or `times` is traced; to reach
                it is an error at run time, by default of probability below 1e-9 a call.

        Example:
            >>> times = jnp.linspace(0.0, 1.0, 5)
            >>> kacjax.KacProcess().sample_path(jax.random.key(0), times, (3,)).shape
            (5, 3)
        """
        shape = base.check_draw(key, shape)
        times = base.as_numbers("times", times)
        check_nonnegative("times", times)
        if jnp.ndim(times) != 1 or jnp.size(times) == 0:
            raise ValueError(f"times must be a vector of times, got shape {jnp.shape(times)}.")
        bound = telegraph.resolve_bound(max_jumps, self.a, times, math.prod(shape))
        (times,), (a, c) = align(times=times), align(a=self.a, c=self.c, shape=shape)
        a = jnp.broadcast_to(a, shape).reshape(-1)
        each = jnp.broadcast_to(times, (a.size, times.size))
        y, _, _ = telegraph.sample_positions(key, a, each, bound)
        return c[None] * y.T.reshape(times.size, *shape)


def _flatten(shape: Shape, **values: Any) -> list[Array]:
    """What `align` returns as vectors with an entry for each number of `shape`."""
    return [jnp.broadcast_to(value, shape).reshape(-1) for value in align(shape=shape, **values)]
