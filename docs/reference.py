"""The pages of the reference: every public name of kacjax once, under its shortest name.

MkDocs makes them when it builds the site, see `docs/hooks.py`.
"""

import importlib
import inspect
import pkgutil

import kacjax


def modules():
    """The names of the public modules of kacjax, of the first level."""
    found = (module.name for module in pkgutil.iter_modules(kacjax.__path__))
    return [name for name in found if not name.startswith("_")]


def public_names(module):
    """The public names of a module: its `__all__`, or else the functions and classes made there."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    ]


def _entry(full):
    """What mkdocstrings is asked for: an object, of which a module may have the name."""
    package, _, name = full.rpartition(".")
    value = getattr(importlib.import_module(package), name)
    where = getattr(value, "__module__", "")
    if where.rpartition(".")[2] != name:
        return f"::: {full}\n"
    options = f"    options:\n      heading: {full}\n      toc_label: {name}\n"
    return f"::: {where}.{name}\n{options}"


def _anchor(full):
    """The name under which mkdocstrings knows an object."""
    return _entry(full).split()[1]


def _title(module):
    return (module.__doc__ or "").strip()


def pages():
    """The texts of the pages by the names of their files."""
    shown, texts = {}, {}
    rows = []
    for name in ["kacjax", *modules()]:
        module = kacjax if name == "kacjax" else importlib.import_module(f"kacjax.{name}")
        own, elsewhere = [], []
        for public in public_names(module):
            value = getattr(module, public)
            # Names of one object; numbers and texts are objects of their own.
            mark = id(value) if callable(value) else f"{name}.{public}"
            full = f"{module.__name__}.{public}"
            if mark in shown:
                elsewhere.append((public, shown[mark]))
            else:
                shown[mark] = full
                own.append(full)
        parts = [f"# {module.__name__}\n", _title(module) + "\n"]
        if elsewhere:
            links = ", ".join(f"[`{public}`][{_anchor(full)}]" for public, full in elsewhere)
            parts.append(f"Also here: {links}.\n")
        parts += [_entry(full) for full in own]
        texts[f"reference/{name}.md"] = "\n".join(parts)
        first = _title(module).split("\n\n")[0].replace("\n", " ")
        rows.append(f"| [`{module.__name__}`]({name}.md) | {first} |")
    table = "\n".join(["| module | what is in it |", "| --- | --- |", *rows])
    texts["reference/index.md"] = (
        "# Reference\n\nEvery public name stands on one page, under the shortest name that it has. "
        "The examples are run by the tests.\n\n" + table + "\n"
    )
    return texts
