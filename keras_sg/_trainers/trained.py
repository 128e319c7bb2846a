"""What a trainer, which is mixed into `DecoupledModel`, finds in the class that it is mixed into."""

from typing import TYPE_CHECKING, Any, Protocol

import keras

from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Pair
from keras_sg._trainers.reports import Measures
from keras_sg._types import Logs, Nested, Tensor, Variable


class Trained(Protocol):
    """A `keras.Model` that knows its interfaces, and reports on them."""

    # Of `keras.Model`, compiled.
    optimizer: keras.optimizers.Optimizer
    run_eagerly: bool
    jit_compile: bool
    steps_per_execution: int
    distribute_strategy: Any
    variables: list[Variable]
    trainable_variables: list[Variable]
    non_trainable_variables: list[Variable]
    metrics_variables: list[Variable]

    # Of `DecoupledModel`.
    runner: Any  # `keras_sg.schedules.schedule.Runner`, or None where one program holds the whole network
    labels_are_checked: bool

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces in the model."""

    def measured(self, pairs: list[Pair]) -> Measures:
        """What there is to report of pairs."""

    def report(self, measures: Measures, batch: Tensor) -> None:
        """Report how well the synthesizers did in a step."""

    def __call__(self, x: Nested, **kwargs: Any) -> Nested:
        """The model's outputs."""

    def compute_metrics(self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested = None) -> Logs:
        """Update the model's own metrics."""


# Where types are checked, the base of a trainer; otherwise what it is mixed into comes behind it.
if TYPE_CHECKING:

    class Model(Trained):
        """With those methods of `keras.Model` that trainers extend."""

        def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History: ...
        def train_on_batch(self, *args: Any, **kwargs: Any) -> Any: ...
        def make_train_function(self, force: bool = False) -> Any: ...
        def get_metrics_result(self) -> Logs: ...
        def jax_state_sync(self) -> None: ...
        def state_sync(self) -> None: ...  # in its place from Keras 3.16 on

else:
    Model = object
