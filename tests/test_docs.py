"""The site: its examples run, its links lead somewhere, and nothing is missing from it."""

import importlib.util
import inspect
import json
import pathlib
import pkgutil
import re
import subprocess
import sys
import unicodedata

import jax
import jaxtyping
import numpy as np
import pytest
from flax import nnx

import kacjax

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"


def load(name):
    """A program of the site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


results, reference = load("results"), load("reference")
WRITTEN = {str(path.relative_to(DOCS)): path.read_text() for path in sorted(DOCS.rglob("*.md"))}
GENERATED = results.pages() | reference.pages()
PAGES = GENERATED | {name: results.fill(text) for name, text in WRITTEN.items()}
# Those that train U-Nets or students, or compile many solvers, take long.
SLOW = ("choose-solver.md", "guides/conditioning.md", "guides/data.md", "guides/few-steps.md")
SLOW += ("guides/likelihood.md",)
WITH_CODE = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, text in WRITTEN.items()
    if "```python\n" in text
]


@pytest.fixture
def users_settings(monkeypatch, tmp_path):
    """Examples are for users, who have not asked for strictness; their files go elsewhere."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.chdir(tmp_path)
    # Without what other examples have registered by the same name.
    classes = kacjax.export.velocity._CLASSES
    own = {name: cls for name, cls in classes.items() if cls.__module__.startswith("kacjax.")}
    monkeypatch.setattr(kacjax.export.velocity, "_CLASSES", own)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize("page", WITH_CODE)
def test_examples_run(page, users_settings, monkeypatch):
    """The Python of a page, from top to bottom, in one module."""
    blocks = re.findall(r"^```python\n(.*?)^```$", WRITTEN[page], re.DOTALL | re.MULTILINE)
    name = "example_" + re.sub(r"\W", "_", page)
    module = type(sys)(name)
    monkeypatch.setitem(sys.modules, name, module)  # For dataclasses, which look there.
    for code in blocks:
        exec(compile(code, page, "exec"), vars(module))


NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 4


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(notebook, users_settings, monkeypatch):
    """Their cells from top to bottom, without a window; and no output names a folder of ours."""
    monkeypatch.setenv("MPLBACKEND", "Agg")
    content = notebook.read_text()
    assert "/home/" not in content
    assert "/tmp/" not in content
    cells = json.loads(content)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    found = {"__name__": "notebook"}
    for part in code:
        exec(compile(part, notebook.name, "exec"), found)


def slugs(text):
    """The anchors of the headings of a page, as Python-Markdown makes them."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        plain = unicodedata.normalize("NFKD", re.sub(r"[`*]", "", heading))
        plain = re.sub(r"[^\w\s-]", "", plain.encode("ascii", "ignore").decode()).strip().lower()
        yield re.sub(r"[-\s]+", "-", plain)


def links(text):
    """What a text links to within the site, pictures too."""
    text = re.sub(r"^```.*?^```$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text)
    return [link for link in found if not re.match(r"https?://", link)]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in links(PAGES[page]):
        target, _, anchor = link.partition("#")
        assert not target.startswith("/"), f"{link} is absolute"
        parts = [*pathlib.PurePosixPath(page).parent.parts]
        for part in pathlib.PurePosixPath(target).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        name = "/".join(parts) if target else page
        if name.startswith("results/files/"):
            assert (results.FOLDER / parts[-1]).exists(), link
        elif name in PAGES:
            assert not anchor or anchor in slugs(PAGES[name]), link
        else:
            assert (DOCS / name).stat().st_size > 5000, link


DATA, PATH = np.zeros((20, 2), np.float32), kacjax.kac_path()


def train(data=DATA, network=None, **options):
    network = mlp() if network is None else network
    return kacjax.fit(network, PATH, data, jax.random.key(0), 5, 4, progress=False, **options)


def mlp(**options):
    return kacjax.models.MLP(2, rngs=nnx.Rngs(0), width=4, depth=1, **options)


def draw(shape=(3, 2), path=PATH, velocity=lambda t, x: x, **options):
    return kacjax.generate(velocity, path, jax.random.key(0), shape, 2, **options)


ERRORS = {
    "integers": lambda: train(np.zeros((20, 2), int)),
    "not finite": lambda: train(DATA * np.nan),
    "a vector": lambda: train(np.zeros(500)),
    "a list": lambda: train([DATA]),
    "shape": lambda: train(network=mlp(), data=np.zeros((20, 3))),
    "output": lambda: train(network=jax.tree_util.Partial(lambda w, t, x: w * t, np.ones(1))),
    "final time": lambda: kacjax.Velocity(mlp(T=1.0), kacjax.kac_path(T=2.0)),
    "no argument": lambda: train(
        network=jax.tree_util.Partial(lambda w, t, x: w * x, np.ones(1)), labels=np.zeros(20, int)
    ),
    "dropout": lambda: train(network=mlp(classes=2), label_dropout=0.1),
    "no classes": lambda: train(network=mlp(), label_dropout=0.1),
    "prior": lambda: draw(path=kacjax.kac_path(signal="constant")),
    "path": lambda: draw(velocity=kacjax.Velocity(mlp(), kacjax.kac_path(a=1.0))),
    "no samples": lambda: draw(shape=(0, 2)),
    "labels": lambda: draw(
        velocity=kacjax.Velocity(mlp(classes=2), PATH), labels=np.zeros((1,), int)
    ),
    "solver": lambda: draw(solver="eulr"),
    "chunks": lambda: jax.jit(lambda: draw(chunk_size=2))(),
    "register": lambda: kacjax.export.path_to_dict(kacjax.kac_path(clock=lambda u: u)),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_in_troubleshooting_as_they_are(case, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    lines = re.findall(r"^\*\*.*\*\*$", WRITTEN["troubleshooting.md"], re.MULTILINE)
    messages = [part for line in lines for part in re.findall(r"`([^`]+)`", line)]
    # Numbers and what is left out may be anything.
    fixed = [re.split(r"\.\.\.|\d[\d.]*", message) for message in messages]
    patterns = [".*".join(map(re.escape, parts)) for parts in fixed]
    with jax.numpy_dtype_promotion("standard"), pytest.raises(ValueError) as caught:  # noqa: PT011
        ERRORS[case]()
    found = [pattern for pattern in patterns if re.match(pattern, str(caught.value), re.DOTALL)]
    assert any(len(pattern) > 20 for pattern in found), caught.value


def commands():
    """The commands of this repository that pages and README name, with their flags."""
    for text in [*WRITTEN.values(), (ROOT / "README.md").read_text()]:
        for module, rest in re.findall(
            r"python -m ((?:experiments|benchmarks|tools)\S*)(.*)", text
        ):
            module = re.sub(r"[^\w.].*", "", module).rstrip(".")
            yield module, re.findall(r"(?<!\S)--([a-z0-9-]+)", rest.partition("`")[0])


def test_commands_and_their_flags_are_there():
    fields = "".join(path.read_text() for path in (ROOT / "experiments").rglob("*.py"))
    benchmarks = "".join(path.read_text() for path in (ROOT / "benchmarks").glob("*.py"))
    found = list(commands())
    assert len(found) > 30
    for module, flags in found:
        if not module.endswith("NAME"):
            assert importlib.util.find_spec(module), module
        for flag in flags:
            name = flag.replace("-", "_")
            if module.startswith("experiments"):
                assert flag == "help" or re.search(rf"^    {name}: ", fields, re.MULTILINE), flag
            else:
                assert f'"--{flag}"' in benchmarks, flag


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    assert sorted(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)) == sorted(PAGES)


def test_every_figure_is_there_for_both_grounds():
    names = {name.partition("-")[0] for name in map(str, (p.name for p in DOCS.glob("images/*")))}
    assert names == {draw.__name__ for draw in load("figures").FIGURES}
    for name in names:
        for ground in ("light", "dark"):
            assert (DOCS / "images" / f"{name}-{ground}.png").stat().st_size > 5000


def test_every_committed_result_has_a_place():
    text = "".join(text for name, text in GENERATED.items() if name.startswith("results/"))
    for file in sorted(results.FOLDER.iterdir()):
        if file.suffix == ".png":
            assert text.count(f"(files/{file.name})") == 1, file
        elif file.suffix == ".json":
            assert f"`benchmarks/results/{file.name}`" in text, file
        else:
            rows = [line for line in file.read_text().splitlines() if line.startswith("|")]
            assert rows
            assert all(row in text for row in rows), file


def public_names():
    """Every public name of kacjax and of its public modules, as people import it."""
    for name in ["", *(m.name for m in pkgutil.iter_modules(kacjax.__path__))]:
        if name.startswith("_"):
            continue
        module = importlib.import_module(f"kacjax.{name}".rstrip("."))
        names = getattr(module, "__all__", None)
        if names is None:
            names = [
                n
                for n, value in inspect.getmembers(module)
                if (inspect.isclass(value) or inspect.isroutine(value))
                and getattr(value, "__module__", "") == module.__name__
                and not n.startswith("_")
            ]
        for each in names:
            yield module.__name__, each


def test_the_reference_has_every_public_name_once():
    shown = [
        full
        for name, text in GENERATED.items()
        if name.startswith("reference/")
        for full in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    ]
    assert len(set(shown)) == len(shown)
    names = list(public_names())
    assert len(names) > 150
    for module, name in names:
        page = GENERATED[f"reference/{module.removeprefix('kacjax.')}.md"]
        own = f"{module}.{name}"
        if f"\n::: {own}\n" not in page and f"heading: {own}\n" not in page:
            (full,) = re.findall(rf"\[`{name}`\]\[(\S+?)\]", page)
            assert full in shown, f"{module}.{name}"


@pytest.mark.long
def test_the_version_has_one_source():
    text = (ROOT / "pyproject.toml").read_text()
    assert 'dynamic = ["version"]' in text
    assert "\nversion = " not in text
    cited = re.search(r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited[1] == kacjax.__version__


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").rglob("*.html"):
        text = re.sub(r"<(code|pre|script)\b.*?</\1>", "", page.read_text(), flags=re.DOTALL)
        assert 'class="arithmatex">\\' not in text, page
        assert "$$" not in text, page
