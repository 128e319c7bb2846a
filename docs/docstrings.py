"""How the API pages read docstrings: Keras's sections, which Google's style does not all know."""

import re

import griffe

TITLES = ("Call arguments", "Args of the call", "Output shape", "Returns", "References", "Example")
SECTION = re.compile(rf"^({'|'.join(TITLES)}):\n((?:(?: {{4}}.*)?(?:\n|\Z))*)", re.MULTILINE)


class KerasSections(griffe.Extension):
    """Turns those sections into a heading and a paragraph, or a list where they describe arguments."""

    def on_object(self, *, obj, **kwargs):
        if obj.docstring:
            obj.docstring.value = SECTION.sub(_as_markdown, obj.docstring.value)


def _as_markdown(section):
    title, text = section[1], re.sub(r"^ {4}", "", section[2], flags=re.MULTILINE).strip()
    if title in ("Call arguments", "Args of the call"):
        text = re.sub(r"^(\S.*?): ", r"* `\1`: ", text, flags=re.MULTILINE)
    return f"**{title}:**\n\n{text}\n\n"
