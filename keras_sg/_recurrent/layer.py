"""`RecurrentSyntheticGradient`: gradients from the future for a recurrent layer that is trained on windows.

A window of a long sequence enters with the state `s` that the window before left, and leaves with `r`. What
comes after it is not there yet, so backpropagation ends at its edge. Here a synthesizer says at `r` what
would come back from there, and learns to at `s`, where what does come back can be seen.
"""

from typing import Any

import keras
from keras import ops

from keras_sg import _keras, gradients
from keras_sg._interfaces import weights
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Step
from keras_sg._recurrent import checks
from keras_sg._recurrent.states import States
from keras_sg._types import Config, Nested, Shape, Tensor
from keras_sg.synthesizers import Identifier

# What an interface between layers has, and one between windows does not: what it is where it is not given.
_NOT_OURS = {"num_classes": None, "label_size": None, "update_period": 1, "labels_from": None}


@keras.saving.register_keras_serializable(package="keras_sg")
class RecurrentSyntheticGradient(Interface):
    """Wraps a recurrent layer so that it learns, on short windows, from what comes after them.

    It is called with a window of a sequence, `layer(inputs, ends=ends)`, and goes on, row by row, with the
    state that the call before left. In training, with `s` the state that enters the window, `r` the
    one that leaves it (all states of the layer, in one vector), `L` the window's loss, `B` the batch size
    and `g` the synthesizer,

        r receives                mix * g(r) / B, and nothing in rows whose sequence ends here
        the synthesizer descends  loss(g(s), t), with t = B * dL/ds, over the rows that did not begin here
        s receives                nothing: the window before is over

    What `r` receives is part of `dL/ds`: each window hands on what it is told of the next (bootstrapping).
    Were `g` right, the gradients of the windows would add up to that of backpropagation through the
    whole sequence. With `mix=0` they are those of truncated backpropagation through time.

    A weight (`sample_weight`) belongs to the loss of a step, and arrives at the states before it as part of
    the gradient; states themselves have none. A row that is to teach nothing has `ends` 1 and weights of 0
    in each of its windows. A mask is the layer's: where it is False, the state passes unchanged.

    Outside training the layer is the wrapped one: `evaluate` and `predict` begin every row with the
    layer's own initial state and leave what is carried alone, so they want whole sequences (there is nothing
    to backpropagate, so they may be long: give the model inputs of the shape `(None, features)`).

    Args:
        layer: `keras.layers.LSTM`, `GRU`, `SimpleRNN` or `RNN` around a cell or a list of cells.
        synthesizer: as for `SyntheticGradient`, at an interface of the shape `(batch, states)`: an LSTM has
            twice as many states as units. `"linear"`, a recipe, a layer, or a callable from that shape.
        auxiliary: whether the synthesizer has a second read-out that predicts, at the entering state, what it
            will say at the leaving one (in rows that neither begin nor end in the window), regressed on
            it with the same loss. The synthesizer then has twice as many outputs. What the two share
            (hidden layers) learns from both; a linear synthesizer has nothing to share.
        mix: share of the synthetic gradient that the leaving state receives, from 0 (truncated
            backpropagation) to 1.
        batch_size: rows of a batch, which is always the same; None where the input says it.
        loss: regression loss of the synthesizer, `"mse"`, `"mae"` or `"huber"`.
        **kwargs: `name` (by default the wrapped layer's), `dtype`, `trainable` (False freezes the layer).

    Call arguments:
        inputs: window, `(batch_size, steps, features)`.
        ends: `(batch_size,)`, 1 where the row's sequence ends with this window, else 0. Needed in training.
        mask: boolean, `(batch_size, steps)`; by default the mask of `inputs`.
        training: boolean; the interface is active when it is True.

    Output shape:
        The layer's.

    Attributes:
        layer: the wrapped layer.
        synthesizer: the synthesizer, a Keras layer once the interface is built.
        state: variable, `(batch_size, states)`: what the last window left. It is saved with the weights.
        fresh: variable, `(batch_size, 1)`: 1 where the next window begins a sequence.

    Raises:
        ValueError: an argument is not as described; the layer is stateful, returns its state, goes backwards
            or is no recurrent one; there is no batch size; a batch is of another; the synthesizer needs a
            label, or one is given; in training, `ends` are missing or of another shape; or a file holds the
            states of another batch size.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs, ends = keras.Input((3, 2)), keras.Input(())
    lstm = keras.layers.LSTM(8, return_sequences=True)
    h = keras_sg.RecurrentSyntheticGradient(lstm, batch_size=4)(inputs, ends=ends)
    model = keras_sg.DecoupledModel([inputs, ends], keras.layers.Dense(1)(h))
    model.compile("adam", "mse")
    x, y = np.ones((4, 30, 2)), np.ones((4, 30, 1))
    model.fit(keras_sg.Windows(x, y, steps=3, batch_size=4), shuffle=False, verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2.2 and appendix (recurrent
        networks; they say 0.1 for `mix`, and give the synthesizer the output alone).
    """

    between_layers = False
    own_arguments = ("ends",)

    def __init__(
        self,
        layer: keras.layers.RNN,
        synthesizer: Identifier = "linear",
        auxiliary: bool = False,
        mix: float = 0.3,
        batch_size: int | None = None,
        loss: str = "mse",
        **kwargs: Any,
    ) -> None:
        checks.check_layer(layer)
        if not isinstance(auxiliary, bool):
            raise ValueError(
                "`auxiliary` says whether the synthesizer foresees what it will say a window later, True or "
                f"False. Received: auxiliary={auxiliary!r} (of type {type(auxiliary).__name__})."
            )
        given = {name: kwargs[name] for name in _NOT_OURS if name in kwargs}
        checks.refuse_labels({name: value for name, value in given.items() if value != _NOT_OURS[name]})
        super().__init__(layer, synthesizer, loss=loss, mix=mix, **kwargs)
        if getattr(self._recipe, "needs_label", False):
            checks.refuse_labels({"synthesizer": synthesizer})
        self.auxiliary = auxiliary
        self.batch_size = checks.check_batch_size(batch_size)
        self.rows = self.batch_size or 0  # known once the layer is built

    def __call__(self, inputs: Nested, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("ends") is None and isinstance(inputs, keras.KerasTensor):
            checks.refuse_missing_ends(self.name)
        return super().__call__(inputs, *args, **kwargs)

    def build(self, input_shape: Shape) -> None:
        self.rows = checks.batch_size(self.batch_size, input_shape, self.name)
        super().build(input_shape)
        # Keras on PyTorch loses what is assigned to a variable while it is seen in another precision.
        options = {"trainable": False, "autocast": False}
        self.state = self.add_weight((self.rows, self.states.size), "zeros", name="state", **options)
        self.fresh = self.add_weight((self.rows, 1), "ones", name="fresh", **options)

    def _interface_shape(self, input_shape: Shape) -> Shape:
        """Build the wrapped layer; the shape of its states."""
        keras.layers.Wrapper.build(self, input_shape)
        self.states = States(self.layer)
        return (None, self.states.size)

    def _make_synthesizer(self, shape: Shape) -> keras.Layer:
        return super()._make_synthesizer(self._predicted_shape(shape))

    def _predicted_shape(self, shape: Shape) -> Shape:
        return (*shape[:-1], shape[-1] * (2 if self.auxiliary else 1))

    def _check_prediction(self, shape: Shape, predicted: Shape) -> None:
        expected = self._predicted_shape(shape)
        if predicted != expected:
            raise ValueError(
                f"The synthesizer of recurrent interface {self.name!r} must predict from states, {shape}, "
                f"gradients of the shape {expected}"
                f"{', the second half of them a window ahead (auxiliary)' if self.auxiliary else ''}. "
                f"Received: {self.synthesizer.name!r} with output of shape {predicted}."
            )

    def reset_state(self) -> None:
        """Let the next window begin a sequence in every row."""
        self.fresh.assign(ops.ones((self.rows, 1)))

    def call(  # type: ignore[override]
        self,
        inputs: Tensor,
        *,
        ends: Tensor | None = None,
        mask: Tensor | None = None,
        training: bool | None = None,
        decoupled_step: Step | None = None,
    ) -> Tensor:
        mask = _keras.mask_of(inputs) if mask is None else mask
        if not training:
            return self._idle(self.layer(inputs, mask=mask))
        inputs = checks.of_size(inputs, self.rows, self.name)
        last = checks.check_ends(ends, self.rows, self.name)  # (batch,), boolean

        entering, foreseen = self._enter(decoupled_step)
        output, leaving = self._run(inputs, entering, mask)
        if decoupled_step is None or not decoupled_step.probing:
            self._inject(leaving, last, foreseen, self._mix.in_step(plain=decoupled_step is None))
        self.state.assign(ops.cast(ops.stop_gradient(leaving), self.variable_dtype))
        self.fresh.assign(ops.cast(last[:, None], self.variable_dtype))
        return output

    def _enter(self, step: Step | None) -> tuple[Tensor, Tensor | None]:
        """The entering state, `(batch, states)`, behind which the synthesizer learns.

        Returns:
            Tuple of it and, if `auxiliary`, what is foreseen there.
        """
        fresh = ops.copy(self.fresh) > 0
        carried = ops.stop_gradient(ops.cast(ops.copy(self.state), self.compute_dtype))
        foreseen = None
        if step is None or not step.probing:
            weight = _counting(carried, ops.logical_not(fresh[:, 0]))
            predicted = self._predict(carried, None, weight, step)
            if self.auxiliary:
                predicted, foreseen = ops.split(predicted, 2, axis=-1)
            carried = self._exchange(carried, weight.times(predicted), 1.0, weight, step)
        initial = self.states.pack(self.states.initial(self.rows), carried.dtype)
        return ops.where(fresh, initial, carried), foreseen

    def _run(self, inputs: Tensor, entering: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The layer's output and its leaving state, `(batch, states)`."""
        states = self.states.unpack(entering, self.states.initial(self.rows))
        self.layer.return_state = True
        try:
            output, *leaving = self.layer(inputs, initial_state=states, mask=mask)
        finally:
            self.layer.return_state = False
        return output, self.states.pack(leaving, entering.dtype)

    def _inject(self, leaving: Tensor, last: Tensor, foreseen: Tensor | None, mix: float | Tensor) -> None:
        """Add losses, zero in value: what the leaving state receives, and what `foreseen` is regressed on."""
        if isinstance(mix, float) and mix == 0.0 and foreseen is None:
            return
        goes_on = ops.logical_not(last)
        weight = _counting(leaving, goes_on)
        said = self._predict(ops.stop_gradient(leaving), None, weight, None)[:, : self.states.size]
        said = gradients.widen(ops.stop_gradient(weight.times(said)))
        wide = gradients.widen(leaving)
        share = ops.cast(mix, said.dtype)
        received = ops.where(share == 0.0, ops.zeros_like(said), share * said) / self.rows
        self._add_silent_loss(ops.sum((wide - ops.stop_gradient(wide)) * received))
        if foreseen is not None:
            both = ops.logical_and(goes_on, ops.logical_not(ops.copy(self.fresh)[:, 0] > 0))
            counts = _counting(leaving, both).counting_elements(self.states.size)
            self._add_silent_loss(gradients.regression(foreseen, said, self.loss, counts))

    def _add_silent_loss(self, loss: Tensor) -> None:
        """Add a loss that is descended, but not reported: whatever scales the training loss scales it."""
        self.add_loss(ops.cast(loss - ops.stop_gradient(loss), keras.config.floatx()))

    def save_own_variables(self, store: Any) -> None:
        """What is carried; layer and synthesizer save theirs."""
        for name in ("state", "fresh"):
            store[name] = ops.convert_to_numpy(getattr(self, name))

    def load_own_variables(self, store: Any) -> None:
        checks.check_saved(store, self.rows, self.name)
        for name in ("state", "fresh"):
            getattr(self, name).assign(store[name])

    def get_config(self) -> Config:
        config = {key: value for key, value in super().get_config().items() if key not in _NOT_OURS}
        return {**config, "auxiliary": self.auxiliary, "batch_size": self.batch_size}


def _counting(state: Tensor, rows: Tensor) -> weights.Weight:
    """Weights at a state, `(batch, states)`: 1 in the rows, boolean `(batch,)`, that count, and else 0."""
    found = weights.at_interface(state, -1, (), rows)
    assert found is not None  # there is a mask
    return found
