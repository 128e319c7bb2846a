"""Every Python block in the README and the docs, and every example in a docstring, runs."""

import inspect
import pathlib
import re
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
        keras_sg.plotting,
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
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
        "strip",
        "decoupled_optimizer",
        "replace_gradient",
        "GradientAlignment",
        "MixSchedule",
        "UpdateSize",
        "Conv",
        "Critic",
        "alignment",
        "curves",
        "gradients",
        "DecoupledHyperModel",
        "objective",
    }


def test_links_in_the_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
