"""The velocity function that a network stands for."""

import functools
import inspect
from typing import Any

import equinox as eqx
from flax import nnx
from jaxtyping import Array, Float, Int

from kacjax._typing import Key
from kacjax._validation import check_choice
from kacjax.paths import ProbabilityPath

PARAMETERISATIONS = ("velocity", "data")


class NetworkVelocity(eqx.Module):
    """A velocity function `velocity(t, x)` made of a network and its parameters: a pytree.

    Attributes:
        parameters: All variables of the network.
        path: The path, for the parameterisation.
        graphdef: The network's structure, from `nnx.split`.
        parameterisation: What the network outputs: the `velocity` itself, or a prediction of the
            `data`, see `ProbabilityPath.velocity_from_data`.
    """

    parameters: Any
    path: ProbabilityPath
    graphdef: Any = eqx.field(static=True)
    parameterisation: str = eqx.field(static=True, default="velocity")

    def __check_init__(self):
        check_choice("parameterisation", self.parameterisation, PARAMETERISATIONS)

    @property
    def classes(self) -> int | None:
        """The number of classes of the network, if its `config` has one."""
        network = nnx.merge(self.graphdef, self.parameters)
        return getattr(network, "config", {}).get("classes")

    def __call__(
        self,
        t: Float[Array, " batch"],
        x: Float[Array, "batch *event"],
        label: Int[Array, " batch"] | None = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "batch *event"]:
        """The velocity at points `x` and times `t`.

        Args:
            t: Times.
            x: Points.
            label: Class of each point, for a network that takes one.
            key: Random key that switches dropout on; a network that takes none has no dropout.

        Raises:
            ValueError: If there are labels, and the network takes none.
        """
        network = nnx.merge(self.graphdef, self.parameters)
        names = _arguments(type(network))
        optional: dict[str, Any] = {}
        if label is not None:
            if "label" not in names:
                raise ValueError(
                    f"there are labels, but {type(network).__name__} takes no argument 'label'."
                )
            optional["label"] = label
        if key is not None and "key" in names:
            optional["key"] = key
        output = network(t, x, **optional)
        if self.parameterisation == "data":
            return self.path.velocity_from_data(t, x, output)
        return output


@functools.cache
def _arguments(network: type) -> frozenset[str]:
    """The optional arguments that calls of a network accept, among `label` and `key`."""
    parameters = inspect.signature(network.__call__).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return frozenset({"label", "key"})
    return frozenset({"label", "key"} & parameters.keys())
