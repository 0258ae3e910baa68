"""What every network of the library has beside its call: a description that rebuilds it."""

from typing import Any

from flax import nnx


class Network(nnx.Module):
    """A network that knows its own constructor keywords.

    They are static structure: `nnx.split` leaves them out of the parameters, and two networks of
    equal keywords have equal graph definitions.
    """

    def remember(self, **keywords: Any) -> None:
        """Keeps the constructor keywords, all but `rngs`; sequences as tuples, to be hashable."""
        self._keywords = tuple(
            (name, tuple(value) if isinstance(value, list | tuple) else value)
            for name, value in keywords.items()
        )

    @property
    def config(self) -> dict[str, Any]:
        """Constructor keywords without `rngs`, as JSON holds them; see `kacjax.models.rebuild`."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self._keywords
        }
