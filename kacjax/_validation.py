"""Checks of concrete values where they enter; traced values pass through."""

import operator
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

T = TypeVar("T")


def is_concrete(value: Any) -> bool:
    """Whether `value` holds numbers that can be looked at now, outside any trace."""
    return not isinstance(value, jax.core.Tracer) and isinstance(
        value, int | float | np.ndarray | np.generic | jax.Array
    )


def check_positive(name: str, value: Any) -> None:
    """Raises a `ValueError` unless every concrete number in `value` is positive and finite."""
    array = _check_numbers(name, value)
    if array is not None and not (np.all(np.isfinite(array)) and np.all(array > 0)):
        raise ValueError(f"{name} must be positive and finite, got {_show(array)}.")


def check_nonnegative(name: str, value: Any) -> None:
    """Raises a `ValueError` unless every concrete number in `value` is at least zero."""
    array = _check_numbers(name, value)
    if array is not None and not np.all(array >= 0):
        raise ValueError(f"{name} must not be negative or NaN, got {_show(array)}.")


def check_count(name: str, value: Any, minimum: int = 1) -> int:
    """The integer, of whatever type; raises a `ValueError` unless it is one of at least `minimum`."""
    try:
        number = minimum - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = minimum - 1
    if number < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}.")
    return number


def choose(name: str, value: str, known: Mapping[str, T]) -> T:
    """Looks `value` up in `known`, or raises a `ValueError` that lists what is known."""
    check_choice(name, value, known)
    return known[value]


def check_choice(name: str, value: str, known: Collection[str]) -> None:
    """Raises a `ValueError` that lists `known` unless `value` is in it."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(sorted(known))}; got {value!r}.")


def check_labels(labels: Any, num: int, classes: int | None = None, null: bool = True) -> Any:
    """Labels, one per sample: classes as int32, or conditions. None stays None.

    Classes are integers of shape `(num,)`; `null` allows `classes`, which is none. Conditions, where
    there are no `classes`, are floats of shape `(num, ...)`, or a pytree of such arrays and integers.
    """
    if labels is None:
        return None
    leaves, structure = jax.tree.flatten(labels)
    if structure.num_nodes > 1 and any(np.ndim(leaf) for leaf in leaves) and classes is None:
        return jax.tree.map(lambda leaf: _check_condition(leaf, num), labels)
    array = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    if array.ndim and jnp.issubdtype(array.dtype, jnp.floating) and classes is None:
        return _check_condition(array, num)
    if array.shape != (num,) or not jnp.issubdtype(array.dtype, jnp.integer):
        also = "" if classes is not None else f" Conditions are floats of shape ({num}, ...)."
        got = f"got {array.dtype} of shape {array.shape}."
        raise ValueError(f"labels must be integers of shape {(num,)}, {got}{also}")
    if is_concrete(array) and num:
        # In NumPy: within jit even constants of JAX would be traced.
        low, high = int(np.asarray(array).min()), int(np.asarray(array).max())
        highest = None if classes is None else classes - 1 + null
        if low < 0 or (highest is not None and high > highest):
            allowed = "not be negative" if highest is None else f"lie in 0..{highest}"
            note = f" ({classes}: no class)" if highest == classes and classes is not None else ""
            raise ValueError(f"labels must {allowed}{note}, got values from {low} to {high}.")
    return jnp.asarray(array, jnp.int32)


def _check_condition(leaf: Any, num: int) -> Array:
    """A part of a condition, as floats of the working precision or int32."""
    array = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
    whole = jnp.issubdtype(array.dtype, jnp.integer)
    if array.shape[:1] != (num,) or not (whole or jnp.issubdtype(array.dtype, jnp.floating)):
        asked = f"arrays of shape ({num}, ...), of floats or integers"
        raise ValueError(f"labels must hold {asked}, got {array.dtype} of shape {array.shape}.")
    if isinstance(array, np.ndarray) and not whole:
        array = array.astype(jnp.promote_types(jnp.result_type(float), jnp.float32))
    return jnp.asarray(array, jnp.int32) if whole else widen(jnp.asarray(array))


def is_number(value: Any) -> bool:
    """Whether a null label is one number, for all of a condition."""
    return jax.tree.structure(value) == jax.tree.structure(0) and np.ndim(value) == 0


def null_like(labels: Any, null: Any) -> Any:
    """The label that stands for none, for each of these: a number, or one condition as they are."""
    if is_number(null):
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, null), labels)
    fill = lambda leaf, one: jnp.broadcast_to(jnp.asarray(one, leaf.dtype)[None], leaf.shape)  # noqa: E731
    try:
        return jax.tree.map(fill, labels, null)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"null_label must be one condition like those of the data: {error}"
        ) from error


def as_floats(name: str, x: Any) -> Float[Array, "batch *event"]:
    """Points as floats of 32 bits at least; raises a `ValueError` if they are no floats or batch."""
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    if not jnp.issubdtype(array.dtype, jnp.floating) or array.ndim < 1:
        raise ValueError(
            f"{name} must hold floats of shape (batch, *event), got {array.dtype} of shape "
            f"{array.shape}."
        )
    return widen(jnp.asarray(array))


def as_arrays(tree: T) -> T:
    """The tree with Python's floats as arrays, still weakly typed; integers may be counts.

    `eqx.filter_jit` would take them for constants, and compile anew for every other value.
    """
    return jax.tree.map(lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf, tree)


def widen(array: Array) -> Array:
    """An array of floats of 32 bits at least, also under strict dtype promotion."""
    wide = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize >= 4
    return array if wide else array.astype(jnp.float32)


def check_path(velocity: Any, path: Any) -> None:
    """Raises a `ValueError` if a velocity knows its path, and it is another one; or is none."""
    if not callable(velocity):
        raise ValueError(f"velocity must be callable as velocity(t, x), got {velocity!r:.100}.")
    if not hasattr(path, "coefficients"):
        raise ValueError(f"path must be a kacjax.ProbabilityPath, got {type(path).__name__}.")
    own = getattr(velocity, "path", None)
    if own is None or own is path:
        return
    if not same_path(own, path):
        raise ValueError(f"path must be that of the velocity, {own}; got {path}.")


def same_path(one: Any, other: Any) -> bool:
    """Whether two paths agree, as far as their numbers are known; functions by their values."""
    (leaves, structure), (others, expected) = jax.tree.flatten(one), jax.tree.flatten(other)
    functions = False
    for a, b in zip(leaves, others, strict=True) if structure == expected else ():
        if is_concrete(a) and is_concrete(b):
            if np.shape(a) != np.shape(b) or not np.allclose(a, b, rtol=1e-6, atol=0):
                return False
        elif a is not b and callable(a):
            functions = True
    if functions and is_concrete(one.T):
        times = np.linspace(0, 1, 9)[1:-1] * np.asarray(one.T)
        with jax.ensure_compile_time_eval():
            a, b = one.coefficients(times), other.coefficients(times)
        pairs = [pair for pair in ((a.f, b.f), (a.g, b.g)) if all(map(is_concrete, pair))]
        return all(np.allclose(*pair, 1e-5, 1e-6) for pair in pairs)
    return structure == expected


def _check_numbers(name: str, value: Any) -> np.ndarray | None:
    """A concrete value as an array of numbers; None for a traced one."""
    if isinstance(value, jax.core.Tracer):
        return None
    array = np.asarray(value)
    if array.dtype.kind not in "biufV" or array.dtype == bool:  # V: bfloat16
        raise ValueError(f"{name} must be a number or an array of numbers, got {value!r}.")
    return array


def _show(array: np.ndarray) -> str:
    if array.ndim == 0:
        return str(array.item())
    return f"an array of shape {array.shape} from {array.min()} to {array.max()}"


@eqx.filter_custom_jvp
def refuse_gradient(value: Any, numbers: Any, message: str) -> Any:
    """The value; whoever differentiates it in the numbers meets a `ValueError` of this message."""
    return value


@refuse_gradient.def_jvp
def _refuse_gradient_jvp(primals, tangents):
    if any(tangent is not None for tangent in jax.tree.leaves(tangents[1])):
        raise ValueError(primals[2])
    return primals[0], tangents[0]
