"""The version of this package, and which versions' files it reads."""

import re

__version__ = "0.2.0"


def check_readable(saved: str | None) -> None:
    """Raise `ValueError` if a configuration was saved by a newer major version of this package.

    Args:
        saved: version string, or None where the configuration does not name one.

    Raises:
        ValueError: it was; or `saved` is not a version.
    """
    if saved is None:
        return
    if not isinstance(saved, str) or not re.match(r"[0-9]+\.[0-9]", saved):
        raise ValueError(
            "An interface's configuration says which keras_sg saved it, as in 'keras_sg_version': "
            f"{__version__!r}, but this is no version: the file was changed by hand, or is damaged. Put the "
            "entry 'keras_sg_version' right, or take it out. "
            f"Received: keras_sg_version={saved!r} (of type {type(saved).__name__})."
        )
    if _major(saved) > _major(__version__):
        raise ValueError(
            f"This was saved by keras_sg {saved}, whose files keras_sg {__version__} cannot read. Install "
            f"keras_sg {_major(saved)} or newer to load it. Received: keras_sg_version={saved!r}."
        )


def _major(version: str) -> int:
    return int(version.split(".")[0])
