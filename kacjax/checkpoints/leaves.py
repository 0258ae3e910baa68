"""A state as named arrays that Orbax can store, and back.

Random keys are stored as their bits. Arrays without elements, which Orbax refuses, are not stored.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves by name, in the tree's order.

    Raises:
        ValueError: If two leaves have one name, as `{"a.b": x, "a": {"b": y}}` has it.
    """
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator=".") or "value"
        if name in named:
            raise ValueError(f"two arrays of the state have the name {name}; rename one of them.")
        named[name] = leaf
    return named


def abstract_leaf(leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, type and place of an array; of one without a place, the first device."""
    sharding = getattr(leaf, "sharding", None)
    if sharding is None:
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def stored(named: dict[str, Any]) -> dict[str, Any]:
    """What Orbax is given of named leaves, concrete or abstract."""
    return {name: _bits(leaf) for name, leaf in named.items() if leaf.size}


def unstored(arrays: dict[str, Any], named: dict[str, jax.ShapeDtypeStruct]) -> list[Any]:
    """The leaves that `named` describes, in its order, from what Orbax gave back."""
    return [_leaf(arrays.get(name), leaf) for name, leaf in named.items()]


def kinds(named: dict[str, Any]) -> dict[str, str]:
    """Type and shape of each leaf, as text."""
    return {name: f"{leaf.dtype}{list(leaf.shape)}" for name, leaf in named.items()}


def check_kinds(where: object, saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises a `ValueError` that names the first leaf in which two states differ."""
    for name in sorted(saved.keys() | wanted.keys()):
        if saved.get(name) != wanted.get(name):
            raise ValueError(
                f"{where} holds another state: {name} is {saved.get(name, 'missing')} there, "
                f"and {wanted.get(name, 'missing')} is wanted."
            )


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _bits(leaf: Any) -> Any:
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.Array):
        return jax.random.key_data(leaf)
    bits = jax.eval_shape(jax.random.key_data, leaf)
    return jax.ShapeDtypeStruct(bits.shape, bits.dtype, sharding=leaf.sharding)


def _leaf(array: Any, leaf: jax.ShapeDtypeStruct) -> Any:
    if array is None:
        return jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding)
    if _is_key(leaf):
        return jax.random.wrap_key_data(array, impl=_generator(leaf.dtype))
    return array


def _generator(dtype: Any) -> str:
    """The name of the generator that a type of random keys belongs to."""
    for name in ("threefry2x32", "rbg", "unsafe_rbg"):
        if jax.eval_shape(partial(jax.random.key, 0, impl=name)).dtype == dtype:
            return name
    raise ValueError(f"random keys of type {dtype} cannot be restored.")
