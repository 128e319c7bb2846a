"""Every Python block in README and docs, and every example in a docstring, runs; and the site builds."""

import ast
import inspect
import pathlib
import re
import runpy
import subprocess
import sys
import textwrap

import pytest

import keras_sg
from keras_sg import tuning

pytestmark = pytest.mark.tensorflow
ROOT = pathlib.Path(__file__).parent.parent
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

PUBLIC = {
    f"{holder.__name__}.{name}": value
    for holder in (
        keras_sg,
        keras_sg.gradients,
        keras_sg.synthesizers,
        keras_sg.callbacks,
        keras_sg.callbacks.alignment,
        keras_sg.histories,
        keras_sg.labels,
        keras_sg.plotting,
        keras_sg.schedules,
        tuning,
    )
    for name, value in vars(holder).items()
    if callable(value)
    and getattr(value, "__module__", "").startswith("keras_sg")
    and not name.startswith("_")
}
WITH_EXAMPLES = {
    name: doc for name, value in PUBLIC.items() if "```python" in (doc := inspect.getdoc(value) or "")
}


def run(text):
    blocks = [textwrap.dedent(code) for _, code in BLOCK.findall(text)]
    exec(compile("\n".join(blocks), "<documentation>", "exec"), {})
    return blocks


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages(page, tmp_path, monkeypatch, two_devices):
    monkeypatch.chdir(tmp_path)
    # A page may ask for a strategy; a process has only one.
    monkeypatch.setattr("tensorflow.distribute.MirroredStrategy", lambda: two_devices)
    run(page.read_text())


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_docstrings(name):
    assert run(WITH_EXAMPLES[name])


def test_the_main_names_have_examples():
    names = {name.rsplit(".", 1)[1] for name in WITH_EXAMPLES}
    assert names >= {
        "SyntheticGradient",
        "SyntheticLoss",
        "DecoupledModel",
        "decouple",
        "balance",
        "strip",
        "decoupled_optimizer",
        "replace_gradient",
        "GradientAlignment",
        "MixSchedule",
        "UpdateSize",
        "Conv",
        "Critic",
        "InTurn",
        "OnRay",
        "SideBySide",
        "alignment",
        "curves",
        "gradients",
        "DecoupledHyperModel",
        "objective",
    }


def test_links_in_the_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "examples" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def committed(name):
    return (ROOT / "docs" / "pages" / name).read_text()


NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?")
GLANCE = runpy.run_path(str(ROOT / "docs" / "glance.py"))


@pytest.mark.parametrize("name", GLANCE["FIGURES"])
def test_the_figures_at_a_glance_show_numbers_of_the_pages(name):
    for panel in GLANCE["FIGURES"][name]:
        page, anchor = panel.source.split("#")
        parts = re.split(r"^#+ (.+)$", committed(page), flags=re.MULTILINE)
        sections = {
            re.sub(r"[^\w -]", "", title).lower().replace(" ", "-"): text
            for title, text in zip(parts[1::2], parts[2::2])
        }
        stand = set(NUMBER.findall(sections[anchor]))
        assert f"({panel.source})" in committed("results.md")
        for bars in panel.groups.values():
            assert not {bar.number for bar in bars} - stand, panel.source


@pytest.mark.parametrize("name", GLANCE["FIGURES"])
def test_the_figures_at_a_glance_are_what_is_drawn(name, tmp_path):
    """Their texts are; where a version of matplotlib puts a line is its own affair."""
    drawn = tmp_path / name
    GLANCE["save"](GLANCE["figure_of"](GLANCE["FIGURES"][name]), drawn)
    texts = [re.findall(r"<text [^>]*>([^<]+)</text>", svg) for svg in (drawn.read_text(), committed(name))]
    assert texts[0] == texts[1]
    told = re.search(rf"!\[([^\]]+)\]\({name}\)", committed("results.md"))[1]
    for panel in GLANCE["FIGURES"][name]:
        for bars in panel.groups.values():
            for bar in bars:
                assert bar.number in texts[1] and bar.number in NUMBER.findall(told)


def test_every_public_name_is_on_an_api_page():
    pages = (ROOT / "docs" / "pages" / "api").glob("*.md")
    shown = set(re.findall(r"^::: (\S+)$", "\n".join(page.read_text() for page in pages), re.MULTILINE))
    parts = ("", ".callbacks", ".labels", ".plotting", ".schedules", ".synthesizers", ".tuning")
    holders = {f"keras_sg{part}" for part in parts}
    public = {name for name in PUBLIC if name.rsplit(".", 1)[0] in holders}
    assert len(public) > 20
    assert public | {"keras_sg.gradients.replace_gradient"} <= shown


def test_the_errors_on_the_page_of_limits_are_those_of_the_package():
    said = []
    for path in (ROOT / "keras_sg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else [node]  # what is put in is a gap
            said.append("\0".join(str(p.value) if isinstance(p, ast.Constant) else "" for p in parts))

    page = (ROOT / "docs" / "pages" / "limits.md").read_text()
    refused = page.split("\n## What keras_sg refuses\n")[1].split("\n## What is silent\n")[0]
    quoted = [text for _, text in re.findall(r"^(?:Error|Warning): (`+)(.+)\1$", refused, re.MULTILINE)]
    assert len(quoted) == refused.count("\nError: ") + refused.count("\nWarning: ") > 40
    for text in quoted:
        pieces = re.compile(".*".join(map(re.escape, text.split("..."))), re.DOTALL)
        assert any(pieces.search(one) for one in said), f"no error says: {text}"


def test_the_picture_of_ticks_is_what_the_schedule_does():
    draw = runpy.run_path(str(ROOT / "docs" / "ticks.py"))["picture"]
    assert draw() == (ROOT / "docs" / "pages" / "ticks.svg").read_text()


def test_the_page_of_the_notebook_has_all_of_it():
    pytest.importorskip("mkdocs")
    nbformat = pytest.importorskip("nbformat")
    path = "examples/walkthrough.ipynb"
    page = runpy.run_path(str(ROOT / "docs" / "hooks.py"))["notebook_page"](path)
    cells = nbformat.read(ROOT / path, as_version=4).cells
    code = [cell.source.removeprefix("%matplotlib inline\n") for cell in cells if cell.cell_type == "code"]
    assert [block.rstrip("\n") for _, block in BLOCK.findall(page)] == code
    assert page.startswith(cells[0].source.splitlines()[0] + "\n")
    assert page.count(f"jupyter notebook {path}") == 1
    for cell in cells:
        if cell.cell_type == "markdown":
            assert cell.source.split("\n", 1)[-1].strip() in page


def test_the_site_builds_and_needs_no_network(tmp_path):
    pytest.importorskip("mkdocs")
    # Strict: a page outside the navigation, a dead link or anchor, an argument that is not there.
    config = ROOT / "docs" / "mkdocs.yml"
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", config, "-d", tmp_path]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    pages = {str(page.relative_to(tmp_path)): page.read_text() for page in tmp_path.rglob("*.html")}
    names = ("index", "changelog", "contributing", "walkthrough", "log/performance", "api/interfaces")
    assert pages.keys() >= {f"{name}.html" for name in names}
    for name, page in pages.items():
        loaded = re.findall(r"<(?:script|link|img|iframe)\b[^>]*(?:src|href)=\W?(?:https?:)?//[^>]*", page)
        assert not loaded, f"{name} loads {loaded}"
    # Sections that the parser of docstrings does not know would be boxes.
    assert not [name for name, page in pages.items() if 'class="admonition' in page or "<details" in page]
    assert "<strong>Call arguments:</strong>" in pages["api/interfaces.html"]
    assert 'href="changelog.html"' in pages["contributing.html"].split("<article")[1]
