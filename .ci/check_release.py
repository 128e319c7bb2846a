"""`python .ci/check_release.py TAG ADDRESS`: may this be released under TAG, from a repository at ADDRESS?"""

import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).parent.parent


def problems(tag, repository):
    """What has to be put right before; a list of sentences.

    Args:
        tag: "v" and the version.
        repository: the address where the tag lies.
    """
    found = []
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    path = settings["tool"]["hatch"]["version"]["path"]
    (version,) = re.findall(r'^__version__ = "(.+)"$', (ROOT / path).read_text(), re.MULTILINE)
    if tag != f"v{version}":
        found.append(f"The tag has to be that of the version in {path}, 'v{version}'. Received: {tag!r}.")
    address = settings["project"]["urls"]["Repository"]
    if address != repository:
        found.append(
            "The links of the README that an index shows begin with Repository in [project.urls] of "
            f"pyproject.toml, which has to be where the tag lies, {repository!r}. Received: {address!r}."
        )
    return found


if __name__ == "__main__":
    sys.exit("\n".join(problems(*sys.argv[1:])) or None)
