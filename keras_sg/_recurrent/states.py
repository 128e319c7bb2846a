"""The states of a recurrent layer as one vector an example, and back.

An LSTM has two states, a stack of cells has those of each; an interface is one tensor.
"""

import keras
from keras import ops

from keras_sg._types import Nested, Tensor


class States:
    """Packs and unpacks the states of one recurrent layer.

    Args:
        layer: a `keras.layers.RNN` (`LSTM`, `GRU` and `SimpleRNN` are such), all of whose states are vectors.

    Attributes:
        sizes: list of the lengths of the states, in the layer's order.
        size: integer, their sum: the length of the packed vector.

    Raises:
        ValueError: a state is no vector.
    """

    def __init__(self, layer: keras.layers.RNN) -> None:
        self.layer = layer
        self.sizes = [self._checked(size) for size in keras.tree.flatten(layer.state_size)]
        self.size = sum(self.sizes)

    def _checked(self, size: object) -> int:
        if not isinstance(size, int):
            raise ValueError(
                "The states of a recurrent interface are vectors, whose lengths are whole numbers. Received: "
                f"layer {self.layer.name!r} (of type {type(self.layer).__name__}) with state_size="
                f"{self.layer.state_size}."
            )
        return size

    def initial(self, batch: int) -> Nested:
        """The states that the layer begins a sequence with, each `(batch, size)`, in its own structure."""
        return self.layer.get_initial_state(batch_size=batch)

    def pack(self, states: Nested, dtype: str) -> Tensor:
        """States in any structure, each `(batch, size)`, as one tensor `(batch, sum of the sizes)`."""
        return ops.concatenate([ops.cast(state, dtype) for state in keras.tree.flatten(states)], axis=-1)

    def unpack(self, packed: Tensor, like: Nested) -> Nested:
        """The inverse of `pack`, in the structure of `like`."""
        parts, begin = [], 0
        for size in self.sizes:
            parts.append(packed[:, begin : begin + size])
            begin += size
        return keras.tree.pack_sequence_as(like, parts)
