"""What MkDocs calls: pages made of the code and of the committed results, and formulas as MathML."""

import html
import pathlib
import re
import sys

from latex2mathml.converter import convert
from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import reference
import results

# As pymdownx.arithmatex leaves formulas for a script of the browser.
_FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)
# What the converter does not know in one spelling, it does in another.
_TEX = (
    (r"\\math(bb|cal) *([A-Za-z])", r"\\math\1{\2}"),
    (r"\\[bB]igg?l\b", r"\\left"),
    (r"\\[bB]igg?r\b", r"\\right"),
)
# A prime is raised by itself.
_PRIME = re.compile(r"<msup>(<mi>\w</mi>)<mi>&#x02032;</mi></msup>")


def on_files(files, config):
    """Adds the pages of results and reference, and the plots."""
    for name, text in (results.pages() | reference.pages()).items():
        files.append(File.generated(config, name, content=text))
    for source in sorted(results.FOLDER.glob("*.png")):
        name = f"results/files/{source.name}"
        files.append(File.generated(config, name, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown, **_):
    """Puts the tables in, which pages ask for by `<!-- results: NAME -->`."""
    return results.fill(markdown)


def on_page_content(content, **_):
    """Sets formulas as MathML; one that cannot be set is an error of the build."""

    def mathml(found):
        display = "block" if found["tag"] == "div" else "inline"
        tex = html.unescape(found["tex"]).strip()
        for pattern, other in _TEX:
            tex = re.sub(pattern, other, tex)
        formula = convert(tex, display=display)
        formula = _PRIME.sub(r"\1<mo lspace='0' rspace='0'>&#x02032;</mo>", formula)
        return f'<{found["tag"]} class="arithmatex">{formula}</{found["tag"]}>'

    return _FORMULA.sub(mathml, content)
