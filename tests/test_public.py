"""The public surface: examples that run, what an import loads, which way imports point."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import subprocess
import sys

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import kacjax

ROOT = pathlib.Path(kacjax.__file__).parent
MODULES = ["kacjax", *(m.name for m in pkgutil.walk_packages(kacjax.__path__, "kacjax."))]
PACKAGES = [m for m in MODULES if (ROOT.parent / m.replace(".", "/")).is_dir()]
GLOBALS = {
    "kacjax": kacjax,
    "jax": jax,
    "jnp": jnp,
    "np": np,
    "nnx": nnx,
    "eqx": eqx,
    "optax": optax,
    "diffrax": diffrax,
}


def load(name):
    """The module, or the test is skipped where it needs an extra that is missing."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        pytest.skip(f"needs {error.name}")


@pytest.fixture
def users_settings(monkeypatch):
    """Examples are for users, who have not asked for strictness."""
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, users_settings, tmp_path, monkeypatch):
    """Every example of the module's docstrings, with its output."""
    module = load(name)
    monkeypatch.chdir(tmp_path)
    failures = []
    finder = doctest.DocTestFinder(exclude_empty=True)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    # Those of private modules are for readers of the source, who see its names.
    private = any(part.startswith("_") for part in name.split("."))
    names = (vars(module) if private else {}) | GLOBALS
    for case in finder.find(module, name, globs=names):
        report = []
        runner.run(case, out=report.append)
        failures += report
    assert not failures, "".join(failures)


def public_objects():
    """Every name that a package shows, and its public methods, once each, with where it is."""
    seen = {}
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            if inspect.ismodule(value) or not callable(value) or not hasattr(value, "__module__"):
                continue
            if value.__module__.startswith("kacjax"):
                seen.setdefault(id(value), (f"{package}.{name}", value))
    return dict(seen.values())


OBJECTS = public_objects()


@pytest.mark.parametrize("name", OBJECTS)
def test_public_names_have_an_example(name):
    """Those of the package and of its rooms; a class may show it in a method of its own."""
    value = OBJECTS[name]
    texts = [inspect.getdoc(value) or ""]
    assert texts[0], f"{name} has no docstring"
    if issubclass(type(value), type) and issubclass(value, Exception | tuple):
        return  # What a function raises or returns is shown by the function.
    if inspect.isclass(value):
        texts += [inspect.getdoc(m) or "" for m in vars(value).values() if callable(m)]
    assert any(">>>" in text for text in texts), f"{name} has no example"


def test_every_name_is_there():
    for package in PACKAGES:
        try:
            module = importlib.import_module(package)
        except ModuleNotFoundError:
            continue
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"{package}.{name}"
        assert len(set(getattr(module, "__all__", ()))) == len(getattr(module, "__all__", ()))


LAZY = ("orbax", "sklearn", "matplotlib", "tyro", "ott", "torch", "grain", "PIL", "pooch", "tqdm")


@pytest.mark.long
def test_an_import_is_light():
    """`import kacjax` loads nothing that only some need; a room is imported when it is used."""
    program = (
        "import sys, kacjax; print(*{name.split('.')[0] for name in sys.modules});"
        "assert 'kacjax.metrics' not in sys.modules; kacjax.metrics; kacjax.schedules.LinearSignal"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT.parent
    )
    assert done.returncode == 0, done.stderr
    # tqdm is a dependency, small, and loaded with the bars of progress.
    assert not set(done.stdout.split()) & (set(LAZY) - {"tqdm"})


def imports(path, top_level=False):
    """The modules that a file imports, of which those under TYPE_CHECKING do not count."""
    tree = ast.parse(path.read_text())
    found = set()

    def visit(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
                continue
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if not (top_level and inside):
                if isinstance(child, ast.Import):
                    found.update(alias.name for alias in child.names)
                elif isinstance(child, ast.ImportFrom):
                    found.add(child.module)
                    found.update(f"{child.module}.{alias.name}" for alias in child.names)
            visit(child, inside or function)

    visit(tree, False)
    return found


FILES = sorted(ROOT.rglob("*.py"))


def room(path):
    """The part of the package that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_the_mathematics_knows_nothing_of_flax():
    free = {"processes", "schedules", "paths", "predictions", "couplings", "exact", "losses"}
    free |= {"generation", "metrics"}
    for path in FILES:
        if room(path) in free:
            assert not [name for name in imports(path) if name.split(".")[0] == "flax"], path
            assert "kacjax.models" not in imports(path), path


def test_imports_point_one_way():
    """Between the rooms of the package there is no circle, of imports within functions neither."""
    rooms = {room(path) for path in FILES} - {"__init__"}
    edges = {name: set() for name in rooms}
    for path in FILES:
        for name in imports(path):
            parts = name.split(".")
            if parts[0] == "kacjax" and len(parts) > 1 and room(path) in rooms:
                edges[room(path)] |= {parts[1]} & rooms - {room(path)}
    order = []
    while free := sorted(name for name in edges if edges[name] <= set(order) and name not in order):
        order += free
    assert len(order) == len(rooms), {n: e - set(order) for n, e in edges.items() if n not in order}
    # Down the drawing: from noise to generation.
    chain = ("processes", "paths", "losses")
    assert [order.index(name) for name in chain] == sorted(order.index(name) for name in chain)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.long
def test_no_house_words():
    """Identifiers are those of the field."""
    words = ("normal_score", "parameterisation", "optimiser", "neighbour", "colour", "centre")
    for path in FILES:
        names = {
            getattr(
                node, "id", getattr(node, "attr", getattr(node, "arg", getattr(node, "name", "")))
            )
            for node in ast.walk(ast.parse(path.read_text()))
        }
        found = {n for n in names if isinstance(n, str) and any(w in n.lower() for w in words)}
        assert not found, f"{path}: {found}"
