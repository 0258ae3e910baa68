r"""The Kac process, or telegraph process: motion at speed `c` that turns at rate `a`.

Its law solves the telegrapher's equation $\partial_{ss} u + 2a \, \partial_s u = c^2 \partial_{yy} u$.
With probability $e^{-as}$ the path has not turned yet and sits on the light cone, $|y| = c s$: two
atoms; the rest has a density inside. Its velocity is bounded by `c`. As $a, c \to \infty$ with
$c^2 / a = \sigma^2$ it becomes Brownian motion of variance $\sigma^2 s$.

Source: R. Duong, J. Chemseddine, P. K. Friz, G. Steidl, *Telegrapher's Generative Model via Kac
Flows*, arXiv 2506.20641.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.scipy.special import ndtri
from jax.scipy.stats import norm

from kacjax._random import normal
from kacjax._typing import Array, ArrayLike, Float, Int, Key, Scalar, Shape
from kacjax._validation import check_choice, check_nonnegative, check_positive
from kacjax.processes.base import Process, align, align_time, check_level
from kacjax.processes.kac import jumps, law, tails
from kacjax.processes.kac.spread import spread
from kacjax.processes.kac.squash import CUT, squash

METHODS = ("squash", "poisson-beta", "path")


class KacProcess(Process):
    """The Kac process of jump rate `a` and speed `c`, in each component independently.

    Attributes:
        a: Jump rate (damping), positive, in 1 / time. May be traced, differentiated, vmapped, or
            an array that broadcasts against the components.
        c: Speed, positive, in displacement / time; likewise.

    Raises:
        ValueError: If a concrete `a` or `c` is not positive and finite.
    """

    a: ArrayLike = 9.0
    c: ArrayLike = 3.0

    def __check_init__(self):
        check_positive("a", self.a)
        check_positive("c", self.c)

    def transport(self, s: ArrayLike, n: ArrayLike) -> Float[Array, "..."]:
        r"""The map $X(s, n) = c s \operatorname{sign}(n) W(a s, |n|)$, right into the far tails.

        Beyond $|n| = 5.5$, and everywhere in float64, Newton steps refine what the sampler's
        polynomials give. Its derivatives in `s`, `a`, `c` and `n` are exact.
        """
        s, n, a, c = align_time(s, n, self.a, self.c)
        return _displace(s, a, c, n, True)[0]

    def sample_with_velocity(
        self, key: Key, s: ArrayLike, shape: Shape, method: str = "squash"
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""Draws displacements with their velocities, which are exact on the atoms.

        The velocity is decided by the sampler, which knows what has not jumped yet: $\pm c$ there
        and $v(s, y)$ elsewhere. Results are differentiable in `s`, `a` and `c`: at a fixed normal
        variable, $dy = v \, ds + (y / c) \, dc + (s v - y) / a \, da$.

        Args:
            key: Random key. With `squash`, the same key gives a `WienerProcess` the same normal
                variables: samples that meet in the diffusion limit.
            s: Process time, `s >= 0`, broadcast against `shape`.
            shape: Shape of the result.
            method: `squash`, a map of one normal variable per component. For verification also
                `poisson-beta`, exact by rejection, and `path`, which simulates every jump; these
                two are not differentiable in `a`.

        Returns:
            `(displacement, velocity)`, both of `shape`.

        Raises:
            ValueError: If a concrete `s` is negative, does not broadcast against `shape`, the
                method is unknown, or it is `path` and `a` or `s` is traced.
        """
        check_choice("method", method, METHODS)
        given = s
        s, a, c = align(self._time(s, shape), self.a, self.c, shape=shape)
        if method == "squash":
            n = normal(key, shape, s.dtype)
            return _displace(s, a, c, n, s.dtype == jnp.float64)
        if method == "poisson-beta":
            z, w = _poisson_beta(key, a * s, shape)
            return c * s * z, c * w
        max_jumps = jumps.jump_bound(self.a, given, math.prod(shape))
        flat_s, flat_a = (jnp.broadcast_to(value, shape).reshape(-1) for value in (s, a))
        paths = jumps.sample_positions(key, flat_a, flat_s[:, None], max_jumps)
        y, counts, direction = (part.reshape(shape) for part in paths)
        return c * y, jnp.where(counts > 0, self.velocity(s, c * y), c * direction)

    def sample(
        self, key: Key, s: ArrayLike, shape: Shape, method: str = "squash"
    ) -> Float[Array, "..."]:
        """Draws displacements at time `s`; see `sample_with_velocity`."""
        return self.sample_with_velocity(key, s, shape, method)[0]

    def velocity(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""The velocity field $v(s, y) = a y / (a s + 2 h(q))$, bounded by `c`.

        Here $q = (a/c)^2 (c s - y)(c s + y)$ and $h$ is `kacjax.special.bessel_quotient`. On and
        outside the light cone, $|y| \ge c s$, it is $\operatorname{sign}(y) \, c$. The field jumps
        there, so recompute a sample's velocity from its rounded `y` only if you must:
        `sample_with_velocity` knows it.
        """
        s, y, a, c = align_time(s, y, self.a, self.c)
        z, room, inside = law.cone_coordinates(c, s, y)
        return c * jnp.where(inside > 0, law.velocity(a * s, z, room), z)

    def log_density(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""Logarithm of the density of the continuous part, which has mass $1 - e^{-as}$.

        $$ \log \tfrac12 e^{-as} \frac{a}{c} \Bigl[ I_0(x) + c s \frac{a}{c} \frac{I_1(x)}{x} \Bigr],
           \quad x = \frac{a}{c} \sqrt{(cs - y)(cs + y)}; \qquad -\infty \text{ for } |y| \ge c s. $$
        """
        s, y, a, c = align_time(s, y, self.a, self.c)
        z, room, inside = law.cone_coordinates(c, s, y)
        # The density in y is that in z over c s, and lam / (c s) = a / c has no s to divide by.
        inner = jnp.log(a / c) + law.log_density_over_lam(a * s, z, room)
        return jnp.where(inside > 0, inner, jnp.where(jnp.isnan(z), z, -jnp.inf))

    def spread_law(
        self, s: ArrayLike, y: ArrayLike, width: Scalar
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        r"""Log-density and velocity of the law whose atoms fill $1 - \omega \le |y| / cs \le 1$.

        It satisfies the continuity equation exactly; see `kacjax.processes.kac.spread`, also for
        the continuation outside the cone, for `s > 0`.
        """
        s, y, a, c = align_time(s, y, self.a, self.c)
        return spread(a, c, s, y, jnp.asarray(width, y.dtype))

    def atom_mass(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""Probability $e^{-as}$ of no jump yet, shared by the atoms at $\pm c s$."""
        s, a, c = align_time(s, self.a, self.c)
        return jnp.exp(-a * s) + jnp.zeros_like(c)

    def cdf(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""Distribution function; in the middle of its step, $e^{-as}/2$ high, at each atom."""
        s, y, a, c = align_time(s, y, self.a, self.c)
        lam = a * s
        z, room, inside = law.cone_coordinates(c, s, y)
        interior = tails.cdf(lam, jnp.where(inside > 0, z, 0), jnp.where(inside > 0, room, 1))
        step = jnp.sign(jnp.abs(y) - c * s)
        lower_atom = jnp.exp(-lam) / 2
        on_cone = jnp.where(z < 0, lower_atom / 2, 1 - lower_atom / 2)
        outside = jnp.where(step > 0, (1 + z) / 2, jnp.where(z == 0, 0.5, on_cone))
        return jnp.where(inside > 0, interior, jnp.where(jnp.isnan(z), z, outside))

    def quantile(self, s: ArrayLike, u: ArrayLike) -> Float[Array, "..."]:
        """Quantile function of the whole law, atoms included, for `u` in (0, 1).

        In the lower tail it is accurate for every normal floating-point `u`; for the upper tail
        use the symmetry `quantile(s, 1 - u) = -quantile(s, u)`.
        """
        check_level(u)
        s, u = align_time(s, u)
        return self.transport(s, ndtri(u))

    def normal_score(self, s: ArrayLike, y: ArrayLike) -> Float[Array, "..."]:
        r"""The normal variable behind a displacement; at an atom the one where it begins."""
        s, y, a, c = align_time(s, y, self.a, self.c)
        z, room, _ = law.cone_coordinates(c, s, y)
        return tails.signed_score(a * s, z, room)

    def variance(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""Variance $\frac{c^2}{a} s - \frac{c^2}{2 a^2} (1 - e^{-2as})$, about $c^2 s^2$ at first."""
        s, a, c = align_time(s, self.a, self.c)
        return jnp.square(c * s) * law.scaled_variance(a * s)

    def linear_velocity(self, s: ArrayLike) -> Float[Array, "..."]:
        r"""The best linear predictor of the velocity, from $1/s$ at first to $1/(2s)$ in the end."""
        s, a, c = align_time(s, self.a, self.c)
        lam = a * s
        # Of the variance (c s)^2 kappa(lam) only kappa is differentiated: c s may underflow.
        kappa, slope = jax.jvp(law.scaled_variance, (lam,), (jnp.ones_like(lam),))
        return (1 + lam * slope / (2 * kappa)) / s + jnp.zeros_like(c)

    def sample_jump_times(
        self, key: Key, horizon: ArrayLike, shape: Shape = (), max_jumps: int | None = None
    ) -> tuple[Float[Array, "..."], Int[Array, "..."]]:
        """Draws the times at which paths turn.

        Args:
            key: Random key.
            horizon: Last time, broadcast against `shape`.
            shape: Shape of the paths.
            max_jumps: Room for jump times. Without it, the number that is exceeded in this call
                with probability below 1e-9, by the Poisson tail; it must be given where `a` or
                the horizon is traced.

        Returns:
            `(times, counts)`: increasing times of shape `(*shape, max_jumps)`, padded with `inf`
            past the horizon, and how many are finite. Positions at any time follow by
            `position_at`.

        Raises:
            ValueError: If a concrete horizon is negative, or the bound cannot be computed.
            RuntimeError: When run, if a path jumps more often than there is room for.
        """
        bound = jumps.resolve_bound(max_jumps, self.a, horizon, math.prod(shape))
        horizon, a, _ = align(self._time(horizon, shape), self.a, self.c, shape=shape)
        horizon, a = jnp.broadcast_to(horizon, shape), jnp.broadcast_to(a, shape)
        return jumps.sample_jumps(key, a, horizon, bound)

    def position_at(
        self,
        jump_times: Float[Array, "... jumps"],
        direction: Float[Array, "..."],
        s: ArrayLike,
    ) -> Float[Array, "..."]:
        """Position at time `s` of paths with these jump times and first directions, 1 or -1.

        `s` broadcasts against the paths' shape and must not lie past the jump times' horizon.
        """
        direction, s, _, c = align(direction, s, self.a, self.c, shape=jump_times.shape[:-1])
        shape = jump_times.shape[:-1]
        direction, s = jnp.broadcast_to(direction, shape), jnp.broadcast_to(s, shape)
        return c * jumps.position(jump_times, direction, s)

    def sample_path(
        self, key: Key, times: ArrayLike, shape: Shape, max_jumps: int | None = None
    ) -> Float[Array, "times ..."]:
        """Draws whole paths: the positions of each at every time in `times`, in any order.

        Memory is bounded by the result and one block of paths, whatever the number of paths.

        Args:
            key: Random key.
            times: Process times, of shape `(num_times,)`.
            shape: Shape of the paths.
            max_jumps: As in `sample_jump_times`.

        Returns:
            Positions of shape `(num_times, *shape)`.

        Raises:
            ValueError: If a concrete time is negative, `times` is not a vector, or the bound
                cannot be computed.
            RuntimeError: When run, if a path jumps more often than there is room for.
        """
        check_nonnegative("times", times)
        if jnp.ndim(times) != 1 or jnp.size(times) == 0:
            raise ValueError(f"times must be a vector of times, got shape {jnp.shape(times)}.")
        bound = jumps.resolve_bound(max_jumps, self.a, times, math.prod(shape))
        (times,) = align(times)
        (a,) = align(self.a, shape=shape)
        a = jnp.broadcast_to(a, shape).reshape(-1)
        each = jnp.broadcast_to(times, (a.size, times.size))
        y, _, _ = jumps.sample_positions(key, a, each, bound)
        return align(self.c, shape=shape)[0][None] * y.T.reshape(times.size, *shape)


def _poisson_beta(key: Key, lam: Array, shape: Shape) -> tuple[Array, Array]:
    """Exact draws of `(z, w)`: given the number of jumps, the time in each direction is a Beta."""
    count_key, share_key, sign_key = jax.random.split(key, 3)
    count = jax.random.poisson(count_key, lam, shape)
    first = (count // 2 + 1).astype(lam.dtype)
    second = ((count + 1) // 2).astype(lam.dtype)
    share = jax.random.beta(share_key, first, jnp.maximum(second, 1))
    sign = jax.random.rademacher(sign_key, shape, lam.dtype)
    w = law.velocity(lam, 2 * share - 1, 4 * share * (1 - share))
    atom = count == 0
    return jnp.where(atom, sign, sign * (2 * share - 1)), jnp.where(atom, sign, sign * w)


@partial(jax.jit, static_argnums=4)
def _displace(s: Array, a: Array, c: Array, n: Array, refined: bool) -> tuple[Array, Array]:
    """Displacement and velocity of the normal variables `n`."""
    return _displacement(s, a, c, n, refined)


@partial(jax.custom_jvp, nondiff_argnums=(4,))
def _displacement(s: Array, a: Array, c: Array, n: Array, refined: bool) -> tuple[Array, Array]:
    z, w, _ = _place(a * s, n, refined)
    return (c * s) * z, c * w


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _place(lam: Array, n: Array, refined: bool) -> tuple[Array, Array, Array]:
    """Place and velocity in units of the cone, and 1 for atoms, else 0."""
    # The table ends at CUT; what lies beyond starts there and is refined.
    z, w, atom = squash(lam, jnp.clip(n, -CUT, CUT) if refined else n)
    z, w, atom = _refine(lam, n, z, w) if refined else (z, w, atom)
    return z, w, atom.astype(z.dtype)


@_place.defjvp
def _place_jvp(refined, primals, tangents):
    # For second derivatives of samples; the first ones are those of `_displacement`.
    lam, n = primals
    lam_dot, n_dot = tangents
    z, w, atom = _place(lam, n, refined)
    room, inner = (1 - z) * (1 + z), 1 - atom
    slope = lam * law.velocity_slope(lam, w, room)
    z_lam = inner * (w - z) / jnp.where(lam > 0, lam, 1)
    w_lam = inner * law.acceleration(lam, z, w, room)
    log_density = law.log_density_over_lam(lam, z, room) + jnp.log(jnp.where(lam > 0, lam, 1))
    z_n = jnp.where(atom > 0, 0, jnp.exp(norm.logpdf(n) - log_density))
    z_dot = z_lam * lam_dot + z_n * n_dot
    w_dot = w_lam * lam_dot + slope * z_n * n_dot
    return (z, w, atom), (z_dot, w_dot, jnp.zeros_like(atom))


def _refine(lam: Array, n: Array, z: Array, w: Array) -> tuple[Array, Array, Array]:
    """Newton steps on what the table gives, wherever it is not exact to rounding."""
    size = jnp.abs(n)
    atom = size >= tails.atom_score(lam)
    start = tails.to_root(lam, z, jnp.maximum((1 - z) * (1 + z), 0))
    start = jnp.minimum(start * jnp.maximum(size / CUT, 1), jnp.sqrt(2 * lam))
    fine, room = tails.from_root(lam, tails.refine(lam, start, size, steps=4))
    sign = jnp.sign(n)
    keep = (size <= CUT) & (n.dtype == jnp.float32)
    z = jnp.where(keep, z, sign * fine)
    w = jnp.where(keep, w, sign * law.velocity(lam, fine, room))
    return jnp.where(atom, sign, z), jnp.where(atom, sign, w), atom


@partial(_displacement.defjvp, symbolic_zeros=True)
def _displacement_jvp(refined, primals, tangents):
    s, a, c, n = primals
    lam = a * s
    z, w, atom = _place(lam, n, refined)
    y, v, room = (c * s) * z, c * w, (1 - z) * (1 + z)
    # Along the flow (n fixed) y has the slopes (v, (s v - y) / a, y / c) in (s, a, c), and
    # v = c w(lam, n) those of w. Written without a division per component.
    atom = atom > 0
    force = c * jnp.where(atom, 0, law.acceleration(lam, z, w, room))
    rows = [(v, a * force), ((c * s / a) * (w - z), s * force), (s * z, w)]
    terms = [
        (y_slope * tangent, v_slope * tangent)
        for (y_slope, v_slope), tangent in zip(rows, tangents[:3], strict=True)
        if not isinstance(tangent, SymbolicZero)
    ]
    if not isinstance(tangents[3], SymbolicZero):
        density = (a / c) * jnp.exp(law.log_density_over_lam(lam, z, room))
        spread = jnp.where(atom, 0, norm.pdf(n) / density)
        slope = a * law.velocity_slope(lam, w, room)
        terms.append((spread * tangents[3], slope * spread * tangents[3]))
    zeros = (jnp.zeros_like(y), jnp.zeros_like(v))
    return (y, v), jax.tree.map(lambda *parts: sum(parts), zeros, *terms)
