"""The leaves of a pytree by name, as files hold them: random keys as their bits."""

from typing import Any

import jax
import jax.numpy as jnp


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the tree's order; a Flax variable has the name of its attribute.

    Raises:
        ValueError: If two leaves have one name, as `{"a.b": x, "a": {"b": y}}` has it.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
        if (name := name or "value") in named:
            raise ValueError(f"two arrays of the state have the name {name}; rename one of them.")
        named[name] = leaf
    return named


def to_bits(leaf: Any) -> Any:
    """An array as it is stored, concrete or abstract."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    return jax.eval_shape(jax.random.key_data, leaf).update(sharding=leaf.sharding)


def from_bits(array: Any, leaf: Any) -> Any:
    """The inverse of `to_bits`, for the array that the abstract `leaf` describes."""
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return array
    found: list[Any] = []
    jax.eval_shape(lambda key: found.append(jax.random.key_impl(key)), leaf)
    return jax.random.wrap_key_data(array, impl=found[0])


def describe(named: dict[str, Any]) -> dict[str, str]:
    """Type and shape of each leaf, as text."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named.items()}


def check_same(where: object, saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises a `ValueError` that names the first leaf in which two descriptions differ."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{where} holds another state: {name} is {saved.get(name, 'missing')} there, "
                f"and {wanted.get(name, 'missing')} is wanted."
            )
