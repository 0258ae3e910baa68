"""What the networks share: a check of their input, a description, and a way back from it."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from kacjax._typing import Scalar
from kacjax._validation import check_positive, choose

MODELS: dict[str, type[nnx.Module]] = {}
"""Networks that a file can name. Add your own, with a `config`: `MODELS["Mine"] = Mine`."""


class Network(nnx.Module):
    """A network that knows its constructor keywords, and the number of its `classes` or None."""

    classes: int | None

    def remember(self, constructor: Callable, values: Mapping[str, Any]) -> None:
        """Keeps the constructor's keywords, all but `rngs`, as static structure."""
        names = [n for n in inspect.signature(constructor).parameters if n not in ("self", "rngs")]
        self._config = json.dumps({n: values[n] for n in names}, default=lambda x: x.item())
        self.classes = values["classes"]

    @property
    def config(self) -> dict[str, Any]:
        """Constructor keywords without `rngs`, as JSON holds them; see `kacjax.models.rebuild`."""
        return json.loads(self._config)


def positive(name: str, value: Scalar) -> float:
    """The value as a float; raises a `ValueError` unless it is a positive and finite number."""
    if isinstance(value, str | bytes) or np.ndim(value):
        raise ValueError(f"{name} must be a positive number, got {value!r}.")
    check_positive(name, value)
    return float(value)


def check_points(t: Any, x: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Times and points as arrays of the type of `x`, of float32 at least, if they fit `shape`."""
    t, x = jnp.asarray(t), jnp.asarray(x)
    if x.ndim == 0 or x.shape[1:] != shape:
        expected = ("batch", *shape)
        raise ValueError(f"x must have shape {expected}, got {x.shape}.".replace("'", ""))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x must hold floats (images: in [-1, 1]), got {x.dtype}.")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape {x.shape[:1]}, a time for each point, got {t.shape}.")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    return t.astype(dtype), x.astype(dtype)


def rebuild(name: str, config: Mapping[str, Any], rngs: nnx.Rngs | None = None) -> nnx.Module:
    """A network of the class `name` in `MODELS`, from its `config`, with fresh parameters.

    Raises:
        ValueError: If no network has that name, or the configuration does not fit it.

    Example:
        >>> network = kacjax.models.MLP(dim=2, rngs=nnx.Rngs(0), width=16, depth=1)
        >>> kacjax.models.rebuild("MLP", network.config).config == network.config
        True
    """
    network: Any = choose("name", name, MODELS)
    try:
        return network(**config, rngs=nnx.Rngs(0) if rngs is None else rngs)
    except TypeError as error:
        raise ValueError(f"config does not describe a network {name}: {error}") from error


def blank(make: Callable[[], nnx.Module]) -> nnx.Module:
    """The network that `make` makes with zeros for its variables: fast, as none is drawn.

    Example:
        >>> network = kacjax.models.blank(lambda: kacjax.models.MLP(dim=2, rngs=nnx.Rngs(0)))
        >>> float(jnp.abs(network.first.kernel[...]).max())
        0.0
    """
    graphdef, variables = nnx.split(nnx.eval_shape(make))
    zeros = jax.tree.map(lambda leaf: jnp.asarray(np.zeros(leaf.shape, leaf.dtype)), variables)
    return nnx.merge(graphdef, zeros)
