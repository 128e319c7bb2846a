"""What examples import and the package does not need: where it is missing, how to install it."""

import contextlib
import pathlib

CLONE = pathlib.Path(__file__).parent.parent


@contextlib.contextmanager
def needs(extras):
    """Imports in its body come with the package's `extras`, such as `"tensorflow,examples"`.

    Raises:
        ImportError: one of them is not installed; it says which, and what to type.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(
            f'The module {error.name!r} is needed here and not installed: pip install "{CLONE}[{extras}]"'
        ) from error
