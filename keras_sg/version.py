"""The version of this package, and which versions' files it reads."""

__version__ = "0.1.0"


def check_readable(saved: str | None) -> None:
    """Raise `ValueError` if a configuration was saved by a newer major version of this package.

    Args:
        saved: version string, or None where the configuration does not name one.
    """
    if saved is not None and _major(saved) > _major(__version__):
        raise ValueError(
            f"This was saved by keras_sg {saved}, whose files keras_sg {__version__} cannot read. Install "
            f"keras_sg {_major(saved)} or newer to load it. Received: keras_sg_version={saved!r}."
        )


def _major(version: str) -> int:
    return int(version.split(".")[0])
