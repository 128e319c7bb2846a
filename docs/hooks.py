"""What the site needs beyond `mkdocs.yml`: pages whose text lives elsewhere in the repository."""

import pathlib

import nbformat
from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
NOTEBOOKS = {"examples/walkthrough.ipynb": "walkthrough.md"}

HOW_TO_RUN = """\
This page is the notebook `{path}`, without what it prints and draws. To see that, run it, from the clone:

```
pip install ".[tensorflow,examples]" notebook
jupyter notebook {path}
```

Any other program that opens notebooks will do, too."""


def notebook_page(path):
    """The Markdown of a notebook: text as it is, code in blocks, and below the title how to run it."""
    parts = []
    for cell in nbformat.read(ROOT / path, as_version=4).cells:
        if cell.cell_type == "code":
            # What begins with % is for Jupyter, not Python.
            code = "".join(line for line in cell.source.splitlines(True) if not line.startswith("%"))
            parts.append(f"```python\n{code}\n```")
        else:
            parts.append(cell.source)
    title, _, text = parts[0].partition("\n")
    return "\n\n".join([title, HOW_TO_RUN.format(path=path), text.strip(), *parts[1:]]) + "\n"


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for source, page in NOTEBOOKS.items():
        files.append(File.generated(config, page, content=notebook_page(source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to those files lead to their pages, from wherever they are written."""
    for source, target in {**PAGES, **NOTEBOOKS}.items():
        for prefix in ("", "../../"):
            markdown = markdown.replace(f"]({prefix}{source})", f"]({target})")
    return markdown


def on_config(config):
    # An edited docstring, root file or notebook is a reason for `mkdocs serve` to build again.
    config.watch += [str(ROOT / name) for name in ("keras_sg", *PAGES, *NOTEBOOKS)]
    return config
