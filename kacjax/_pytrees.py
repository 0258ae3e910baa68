"""Pytrees as arguments of compiled functions."""

from typing import TypeVar

import jax
import jax.numpy as jnp

T = TypeVar("T")


def as_arrays(tree: T) -> T:
    """The tree with Python's floats as arrays, still weakly typed; integers may be counts.

    `eqx.filter_jit` would take them for constants, and compile anew for every other value.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, tree)
