r"""Couplings: which datum of a batch meets which noise.

A coupling permutes the standard normal variables `n` that noise is made of (`Process.from_normal`), so
that it is one for every process, and the noise at `T` keeps its law. `independent` leaves them as they
are drawn. `ot` pairs data and normals in the batch so that the sum of their squared distances is
least, which makes trajectories straighter and few steps better.

Labels stay with their data. To pair across classes would give each class noise of a law of its own,
from which generation does not start; the couplings here therefore pair within classes, and within
equal conditions, so that conditions that are all different leave the noise as it is.

A coupling of a user's own is any callable `coupling(key, x0, n, labels)`, with labels None if there
are none, that returns for each datum the index of its normal variables.

Sources: A. Tong et al., *Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal
Transport*, arXiv 2302.00482; A. Pooladian et al., *Multisample Flow Matching*, arXiv 2304.14772; classes
as in H. K. Cheng, A. Schwing, *The Curse of Conditions*, arXiv 2503.10636.
"""

import abc
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from kacjax._optional import require
from kacjax._typing import Key
from kacjax._validation import check_count, check_positive, choose
from kacjax.processes.base import normal

Points: TypeAlias = Float[Array, "batch *event"]
Labels: TypeAlias = Any
Indices: TypeAlias = Int[Array, " batch"]


class Coupling(eqx.Module):
    """A coupling, as a pytree; a user's own may be any callable of these arguments."""

    @abc.abstractmethod
    def __call__(self, key: Key, x0: Points, n: Points, labels: Labels = None) -> Indices:
        """For each datum the index of its normal variables.

        Args:
            key: Random key.
            x0: Data.
            n: Standard normal variables, of the shape of the data.
            labels: Their classes, or None.
        """


class OptimalTransport(Coupling):
    r"""The permutation $\pi$ with the least $\sum_i |x_i - n_{\pi(i)}|^2$, within classes; `ot` by name.

    It is Optax's Hungarian algorithm, over the whole batch, of all devices and micro-batches alike.
    Data that are equal meet the noises that are left for them at random. Time grows with the cube of
    the number of rows that are matched together: on a busy CPU of two cores a batch of 256 took 0.12 s,
    one of 512 0.7 s, in groups of 64 0.01 and 0.02 s (`benchmarks/results/couplings.json`).

    Attributes:
        size: Rows that are matched together, in random groups; it divides the batch. All if missing.

    Raises:
        ValueError: If `size` is no positive integer or does not divide the batch.

    Example:
        >>> x0, n = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([[0.9], [-0.4], [0.2]])
        >>> kacjax.couplings.OptimalTransport()(jax.random.key(0), x0, n)
        Array([1, 2, 0], dtype=int32)
    """

    size: int | None = eqx.field(static=True, default=None)

    def __check_init__(self) -> None:
        if self.size is not None:
            check_count("size", self.size)

    def __call__(self, key: Key, x0: Points, n: Points, labels: Labels = None) -> Indices:
        """For each datum the index of its normal variables, a permutation."""
        batch = len(x0)
        size = self.size or batch
        if batch % size:
            raise ValueError(f"size must divide the batch, {batch}, got {size}.")
        x0, n, labels = jax.tree.map(jnp.asarray, (x0, n, labels))
        # Orders of their own, so that ties are not decided by position; a group with labels keeps
        # its noises, of which there are then as many as data for each class.
        first, second = jax.random.split(key)
        data = jax.random.permutation(first, batch).reshape(-1, size)
        if labels is None:
            noise = jax.random.permutation(second, batch).reshape(-1, size)
        else:
            noise = jax.random.permutation(second, data, axis=1, independent=True)

        def match(rows: Array, columns: Array) -> Array:
            own = [jax.tree.map(lambda leaf, k=k: leaf[k], labels) for k in (rows, columns)]
            cost, penalty = _cost(x0[rows], n[columns], *own)
            # A pair across classes costs more than all others together could save.
            i, j = optax.assignment.hungarian_algorithm(cost + size * penalty)
            return jnp.zeros_like(columns).at[i].set(columns[j])

        matched = jax.vmap(match)(data, noise)
        return jnp.zeros_like(data, shape=(batch,)).at[data.ravel()].set(matched.ravel())


class Sinkhorn(Coupling):
    r"""Each datum draws its normals from the entropic transport plan, by OTT-JAX.

    The plan minimizes $\langle P, C \rangle + \varepsilon \bar C \, KL(P)$ with the mean cost $\bar C$; for
    small $\varepsilon$ it is `OptimalTransport`, for large independent. Rows are drawn one by one: some
    normals are taken twice and others not, but each as often on average.

    Attributes:
        epsilon: The weight $\varepsilon$ of the entropy, positive.
        iterations: The most of Sinkhorn's iterations.

    Raises:
        ImportError: If OTT-JAX is missing: `pip install "kacjax[metrics]"`.
        ValueError: If a number is out of its range.

    Example:
        >>> x0, n = jnp.array([[-1.0], [0.0], [1.0]]), jnp.array([[0.9], [-0.4], [0.2]])
        >>> kacjax.couplings.Sinkhorn(epsilon=0.01)(jax.random.key(0), x0, n)
        Array([1, 2, 0], dtype=int32)
    """

    epsilon: float = eqx.field(static=True, default=0.05)
    iterations: int = eqx.field(static=True, default=200)

    def __check_init__(self) -> None:
        check_positive("epsilon", self.epsilon)
        check_count("iterations", self.iterations)

    def __call__(self, key: Key, x0: Points, n: Points, labels: Labels = None) -> Indices:
        """For each datum the index of its normal variables, drawn from the plan."""
        geometry = require("ott.geometry.geometry", "metrics").Geometry
        solve = require("ott.solvers.linear", "metrics").solve
        x0, n, labels = jax.tree.map(jnp.asarray, (x0, n, labels))
        cost, penalty = _cost(x0, n, labels, labels)
        cost = cost - jnp.min(cost)
        scale = self.epsilon * jnp.maximum(jnp.mean(cost), jnp.finfo(cost.dtype).tiny)
        # In units of the entropy's weight; e^-50 of the plan crosses classes.
        cost = cost / scale + jnp.where(penalty > 0, jnp.max(cost) / scale + 50, 0)
        # OTT-JAX counts on both promotions, whatever the caller has set.
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            problem = geometry(cost_matrix=jax.lax.stop_gradient(cost), epsilon=1.0)
            found = solve(problem, max_iterations=self.iterations)
        return jax.random.categorical(key, found.g.astype(cost.dtype)[None] - cost, axis=1)


COUPLINGS: dict[str, Coupling | None] = {"independent": None, "ot": OptimalTransport()}
"""Couplings by name; None leaves the noise as it is drawn."""


def make_coupling(coupling: str | Callable[..., Any]) -> Callable[..., Any] | None:
    """The coupling of this name, or the callable itself; None if it is `independent`."""
    return coupling if callable(coupling) else choose("coupling", coupling, COUPLINGS)


def couple(
    coupling: Callable[..., Any], key: Key, x0: Points, labels: Labels = None
) -> Float[Array, "batch *event"]:
    """The normal variables that `path.sample(key, ...)` draws, one row for each datum.

    Args:
        coupling: The coupling.
        key: Random key.
        x0: Data.
        labels: Their classes.

    Raises:
        ValueError: If the coupling returns anything but an index for each datum.

    Example:
        >>> coupling = lambda key, x0, n, labels: jnp.argsort(jnp.argsort(x0[:, 0]))
        >>> kacjax.couplings.couple(coupling, jax.random.key(0), jnp.ones((4, 2))).shape
        (4, 2)
    """
    n = normal(key, x0.shape, x0.dtype)
    rows = coupling(jax.random.fold_in(key, 1), x0, n, labels)
    kind, shape = getattr(rows, "dtype", type(rows)), jnp.shape(rows)
    if shape != x0.shape[:1] or not jnp.issubdtype(kind, jnp.integer):
        asked = f"integers of shape {x0.shape[:1]}"
        raise ValueError(f"coupling must return {asked}, got {kind} of shape {shape}.")
    return n[rows]


def _cost(x: Array, n: Array, rows: Labels, columns: Labels) -> tuple[Array, Array]:
    """Half the squared distances, and what a pair across classes costs besides."""
    x, n = (part.reshape(len(part), -1) for part in (x, n))
    # Without the mean, which all pairings have in common, and which would cost digits.
    x = x - jnp.mean(x, axis=0, keepdims=True)
    squares = jnp.sum(jnp.square(x), axis=1)[:, None] + jnp.sum(jnp.square(n), axis=1)[None]
    # An assignment of numbers that are not finite might never end.
    cost = jnp.nan_to_num(squares / 2 - x @ n.T, posinf=0, neginf=0)

    def differ(one: Array, other: Array) -> Array:
        one, other = (leaf.reshape(len(leaf), -1) for leaf in (one, other))
        return jnp.any(one[:, None] != other[None], axis=-1)

    across = jnp.zeros(cost.shape, bool)
    for each in jax.tree.leaves(jax.tree.map(differ, rows, columns)):
        across |= each
    return cost, jnp.where(across, jnp.max(cost) - jnp.min(cost) + 1, 0).astype(cost.dtype)
