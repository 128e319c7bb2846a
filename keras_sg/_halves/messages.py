"""What crosses the link between the halves of a model: `Sent` upwards, `Target` downwards."""

import numbers
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_sg._types import Nested, Tensor


class Sent(NamedTuple):
    """What goes up: the tensor at the cut, of one batch.

    `h` is an array `(batch, ..., features)`; `step` how many updates the lower half had made before it, an
    integer, or None where that is not known.
    """

    h: np.ndarray
    step: int | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes its arrays are."""
        return _nbytes(self)


class Target(NamedTuple):
    """What comes down: what the synthesizer at the cut is to have predicted for a batch that was sent.

    `gradient` is the gradient that arrived at `h`, per example, in its shape; `loss` the loss of each
    example, `(batch,)`; both times the examples' weights, float32 or wider, and None where the synthesizer
    learns from none. `step` is that of the `Sent` that it belongs to.
    """

    gradient: np.ndarray | None
    loss: np.ndarray | None
    step: int | None = None

    @property
    def nbytes(self) -> int:
        """How many bytes its arrays are."""
        return _nbytes(self)


class Taught(NamedTuple):
    """In the place of `y`: labels, and the target of a batch, `x` being its `h`.

    What is missing is an array `(batch, 0)`: not all of Keras's data sets have room for None.
    """

    labels: Tensor
    gradient: Tensor
    loss: Tensor

    @classmethod
    def of(cls, *parts: Any) -> "Taught":
        """Of labels, gradient and loss, some of them None."""
        batch = next(len(part) for part in parts if part is not None)
        none = np.zeros((batch, 0), "float32")
        return cls(*(none if part is None else np.asarray(part) for part in parts))

    @property
    def given(self) -> list[Tensor | None]:
        """Labels, gradient and loss, None where they are missing."""
        return [None if tuple(part.shape[1:]) == (0,) else part for part in self]


def _nbytes(message: Sent | Target) -> int:
    return sum(part.nbytes for part in message if isinstance(part, np.ndarray))


class Pairs(keras.utils.PyDataset):
    """What was sent and the targets that came for it, in batches for `fit` of a `LowerModel`.

    Trained on it, only the synthesizer at the cut learns; the module is left as it is. Each pass goes through
    all pairs, example by example in a random order of its own: train with `fit(..., shuffle=False)`, for
    Keras would shuffle the batches once more.

    Args:
        batch_size: integer, examples in a batch; the last one may have fewer.
        limit: None, or how many examples are kept at most: the oldest batches give way to new ones.
        seed: integer, of the order.
        **kwargs: of `keras.utils.PyDataset`.

    Raises:
        ValueError: an argument is not as described, or what is added does not belong together.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    stack = [keras.layers.Dense(8, activation="relu", name="client"), keras.layers.Dense(3, name="server")]
    model = keras_sg.decouple(keras.Sequential([keras.Input((4,)), *stack]), "client", num_classes=3)
    lower, upper = keras_sg.split(model, "client")
    lower.compile("sgd")
    upper.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.ones((32, 4), "float32"), np.zeros(32, "int32")

    pairs = keras_sg.Pairs(batch_size=16)
    sent = lower.advance(x, y)
    pairs.add(sent, y, upper.teach(sent, y))
    lower.fit(pairs, epochs=3, shuffle=False, verbose=0)
    ```

    References:
        Nair et al. 2025, FSL-SAGE, https://arxiv.org/abs/2505.23182, section on the alignment of auxiliary
        models.
    """

    def __init__(self, batch_size: int = 32, limit: int | None = None, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in (("batch_size", batch_size), ("limit", 1 if limit is None else limit)):
            if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
                raise ValueError(
                    f"`{name}` is a number of examples, an integer of at least 1. "
                    f"Received: {name}={value!r} (of type {type(value).__name__})."
                )
        self.batch_size, self.limit = batch_size, limit
        self._kept: list[dict[str, np.ndarray]] = []
        self._joined: dict[str, np.ndarray] = {}  # all that is kept, once it is read
        self._rng = np.random.default_rng(seed)
        self._order = np.arange(0)

    def add(self, sent: Sent, y: Any, target: Target, sample_weight: Any = None) -> None:
        """Keep a batch.

        Args:
            sent: what was sent of it.
            y: its labels, as for `LowerModel.advance`; None if the synthesizer sees none.
            target: what came for it.
            sample_weight: weights of its examples, `(batch,)`, or None.
        """
        check_pair(sent, target, y, sample_weight)
        parts = {"h": sent.h, "labels": y, "gradient": target.gradient, "loss": target.loss}
        parts["weight"] = sample_weight
        found = {name: np.asarray(part) for name, part in parts.items() if part is not None}
        if self._kept and found.keys() != self._kept[0].keys():
            raise ValueError(
                "The batches that pairs are made of must all have the same parts. Received: one with "
                f"{sorted(found)} after one with {sorted(self._kept[0])}."
            )
        self._kept.append(found)
        self._joined = {}
        while self.limit is not None and len(self._kept) > 1 and self.examples > self.limit:
            del self._kept[0]
        self.on_epoch_end()

    @property
    def examples(self) -> int:
        """How many examples are kept."""
        return sum(len(batch["h"]) for batch in self._kept)

    def on_epoch_end(self) -> None:
        """Draw another order."""
        self._order = self._rng.permutation(self.examples)

    def __len__(self) -> int:
        return -(-self.examples // self.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        rows = self._order[index * self.batch_size : (index + 1) * self.batch_size]
        if not self._joined:
            self._joined = {name: np.concatenate([b[name] for b in self._kept]) for name in self._kept[0]}
        found = {name: part[rows] for name, part in self._joined.items()}
        y = Taught.of(*(found.get(name) for name in ("labels", "gradient", "loss")))
        return (found["h"], y, found["weight"]) if "weight" in found else (found["h"], y)


def check_pair(sent: Sent, target: Target, y: Nested, sample_weight: Nested) -> None:
    """Raise `ValueError` unless a target, labels and weights belong to what was sent."""
    if not isinstance(sent, Sent) or not isinstance(target, Target):
        raise ValueError(
            "A pair is what LowerModel.advance returned, a Sent, and what UpperModel.teach returned for it, "
            f"a Target. Received: objects of type {type(sent).__name__} and {type(target).__name__}."
        )
    if None not in (sent.step, target.step) and sent.step != target.step:
        raise ValueError(
            "The target is that of another batch: it belongs to what was sent after "
            f"{target.step} updates of the lower half. Pass the Sent that it came for. Received: one "
            f"that was sent after {sent.step} updates."
        )
    for name, part, expected in (
        ("gradient", target.gradient, np.shape(sent.h)),
        ("loss", target.loss, np.shape(sent.h)[:1]),
    ):
        if part is not None and np.shape(part) != expected:
            raise ValueError(
                f"The target's {name} must have the shape {expected}, for what was sent has the shape "
                f"{np.shape(sent.h)}. Received: a {name} of the shape {np.shape(part)}."
            )
    for name, part in (("labels", y), ("sample_weight", sample_weight)):
        if part is not None and np.shape(part)[:1] != np.shape(sent.h)[:1]:
            raise ValueError(
                f"There must be as many {name} as examples were sent, {len(sent.h)}. Received: {name} of the "
                f"shape {np.shape(part)}."
            )
