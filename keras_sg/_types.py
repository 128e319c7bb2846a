"""The names that signatures use for what Keras leaves untyped."""

from typing import Any

Tensor = Any  # of the backend, or symbolic; where that is said, also what converts to one
Nested = Any  # a tensor, or a structure of them: lists, tuples, dictionaries
Variable = Any
Shape = tuple[int | Any, ...]  # None where a length is not known
Config = dict[str, Any]
Logs = dict[str, Any]

# Base of what is mixed into a class of Keras and extends its methods.
Mixin: Any = object
