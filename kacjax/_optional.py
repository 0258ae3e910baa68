"""Packages that come with an extra, imported where they are used."""

import importlib
from typing import Any


def require(module: str, extra: str) -> Any:
    """Imports a module that an extra of kacjax installs; an `ImportError` names the extra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} cannot be imported ({error}): it comes with an extra, "
            f'pip install "kacjax[{extra}]"'
        ) from error
