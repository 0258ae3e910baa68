"""What the networks share: a check of their input, and a description of themselves."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from kacjax._validation import as_floats


class Network(nnx.Module):
    """A network that knows its constructor keywords, and the number of its `classes` or None."""

    def remember(self, constructor: Callable, values: Mapping[str, Any]) -> None:
        """Keeps the constructor's keywords, all but `rngs`, as static structure."""
        names = [n for n in inspect.signature(constructor).parameters if n not in ("self", "rngs")]
        self._config = json.dumps({n: values[n] for n in names}, default=lambda x: x.item())
        self.classes = values["classes"]

    @property
    def config(self) -> dict[str, Any]:
        """Constructor keywords without `rngs`, as JSON holds them; see `kacjax.export.register`."""
        return json.loads(self._config)


def check_points(t: Any, x: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Times and points as arrays of the type of `x`, of float32 at least, if they fit `shape`."""
    t, x = jnp.asarray(t), as_floats("x", x)
    if x.shape[1:] != shape:
        expected = ", ".join(map(str, ("batch", *shape)))
        raise ValueError(f"x must have shape ({expected}), got {x.shape}.")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape {x.shape[:1]}, a time for each point, got {t.shape}.")
    return t.astype(x.dtype), x


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
