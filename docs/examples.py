"""Docstrings of this library say `Example:`, which mkdocstrings is to read as code."""

import re

import griffe


class Examples(griffe.Extension):
    """Renames the section of every docstring."""

    def on_object(self, *, obj, **_):
        """Called for each object that is read."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(
                r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE
            )
