"""What the site needs beyond `mkdocs.yml`: two pages whose text lives in the root of the repository."""

import pathlib

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files, config):
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to those files lead to their pages, from wherever they are written."""
    for source, target in PAGES.items():
        for prefix in ("", "../../"):
            markdown = markdown.replace(f"]({prefix}{source})", f"]({target})")
    return markdown


def on_config(config):
    # An edited docstring or root file is a reason for `mkdocs serve` to build again.
    config.watch += [str(ROOT / name) for name in ("keras_sg", *PAGES)]
    return config
