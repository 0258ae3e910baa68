"""Packages that come with an extra, imported where they are used."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Imports a module that only an extra of kacjax installs.

    Args:
        module: Its dotted name.
        extra: The extra that brings it.

    Raises:
        ImportError: If it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): it comes with an extra, "
            f'pip install "kacjax[{extra}]"'
        ) from error
