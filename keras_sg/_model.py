"""`DecoupledModel`: a functional Keras model that knows its interfaces."""

import contextlib
import functools
import json
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sg import _keras, schedules
from keras_sg._graphs.graph import layers_behind
from keras_sg._graphs.plain import strip
from keras_sg._interfaces import label_sources
from keras_sg._interfaces.interface import Interface, interfaces_in
from keras_sg._interfaces.step import Pair
from keras_sg._recurrent.fitting import check_windows
from keras_sg._trainers import Trainer, batches, reports
from keras_sg._trainers.periods import check_optimizer
from keras_sg._types import Config, Logs, Nested, Tensor

# Up to so many interfaces are each reported by themselves, where nobody says otherwise.
REPORTED = 8


@keras.saving.register_keras_serializable(package="keras_sg")
class DecoupledModel(Trainer, keras.Model):
    """A functional `keras.Model` whose training step serves the interfaces inside it.

    It is a `keras.Model(inputs, outputs)` in every respect but its training step, which

    * hands the labels `y` to conditional interfaces, at any depth, and to all interfaces how much each
      example counts (`sample_weight`, `class_weight`, a loss's `ignore_class`),
    * pairs the predictions of synthetic losses with their targets,
    * updates modules and synthesizers in one backward pass, and
    * reports, next to the model's own metrics, how well the synthesizers do: `sg_loss` (their
      regression loss) and `sg_cosine` (cosine between the predicted gradient and the target of the
      whole batch, each as one vector; for interfaces that regress on it), means over the interfaces.
      Where there are several, the same of each as `<layer name>_sg_loss`, `<layer name>_sg_cosine`; see
      `report_interfaces`.

    The reported `loss` is the model's own: losses of the synthesizers are not part of it. What
    `evaluate` reports is untouched, for interfaces do nothing outside training.

    Args:
        inputs: symbolic inputs, as for `keras.Model`.
        outputs: symbolic outputs, as for `keras.Model`.
        name: string, the model's name.
        report_interfaces: whether each interface is reported by itself where there are several. By
            default (None) up to 8 interfaces are: in a network of many small modules, keeping two
            metrics for each takes longer than training the module.


        labels_from: where in `y` the labels for conditional interfaces are, if it holds more than them: the
            key (a string) or the index (an integer) of an entry, or a callable from `y` to the labels,
            registered with Keras if the model is to be saved. The interfaces keep it; None leaves them
            what they have, so it goes with them into files, clones and models around this one.
        **kwargs: `trainable`.

    Attributes:
        interfaces: list of the interfaces in the model, at any depth, in order.

    Raises:
        ValueError: an output of the model is an interface; or one takes part in input or output
            (`synthetic_input`, `"feedback"`) and finds another than it wants, or sits where no step can
            follow it (`keras.layers.TimeDistributed`, a layer made in a `keras.RematScope`); or
            `report_interfaces` or `labels_from` are not as described, or interfaces have been told
            different ones.
        NotImplementedError: there is no trainer for the Keras backend in use.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16, activation="relu"), num_classes=3)(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(3, activation="softmax")(hidden))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(np.ones((32, 8)), np.zeros(32, "int32"), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343.
    """

    ends_in_loss = True

    # Keras rebuilds as functional what has the positional arguments of `keras.Model`, and no others.
    def __init__(
        self,
        inputs: Nested,
        outputs: Nested,
        name: str | None = None,
        *,
        report_interfaces: bool | None = None,
        labels_from: label_sources.Source | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        if report_interfaces is not None and not isinstance(report_interfaces, bool):
            raise ValueError(
                "`report_interfaces` says whether `fit` reports each interface by itself: True, False, or "
                f"None (up to {REPORTED} interfaces). Received: report_interfaces={report_interfaces!r} "
                f"(of type {type(report_interfaces).__name__})."
            )
        self.report_interfaces = report_interfaces
        _keras.register_step(self)
        if self.ends_in_loss:
            _check_outputs(self)
        _check_containers(self)
        for interface in self.interfaces:
            interface.enter(self)
        self._tell_source(label_sources.check(labels_from))
        self._keys = reports.keys_of(self.interfaces)
        each = len(self.interfaces) <= REPORTED if report_interfaces is None else report_interfaces
        self._reports = reports.metrics_of(self.interfaces, self._keys, each)
        self._report = True
        self.labels_are_checked = False
        self.one_batch = False
        self.schedule: schedules.Schedule = schedules.Together()
        self.runner: schedules.Runner | None = None
        self._mix_moves: list[bool] = []
        self._probe_function: Any = None
        self._probed: list[Any] = []

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces in this model, at any depth, each once, in order."""
        return interfaces_in(self)

    @functools.cached_property
    def outputs_of_interfaces(self) -> dict[int, set[int]]:
        """By the id of every interface, the indices of the outputs that it leads to."""
        reached: dict[int, set[int]] = {id(interface): set() for interface in self.interfaces}
        for i, output in enumerate(self.outputs):
            for layer in layers_behind(output):
                for interface in interfaces_in(layer) if isinstance(layer, keras.Layer) else ():
                    reached[id(interface)].add(i)
        return reached

    @property
    def interface_metrics(self) -> list[keras.metrics.Metric]:
        """The metrics that say how well the synthesizers do."""
        return list(self._reports.values())

    def key_of(self, interface: Interface) -> str:
        """What everything that is reported of an interface begins with: its name.

        Where several interfaces share a name, all but the first are numbered.
        """
        return self._keys[id(interface)]

    def measured(self, pairs: list[Pair]) -> reports.Measures:
        """What there is to report of pairs: the key of the interface, and a `Measure`, of each."""
        return [(self.key_of(pair.interface), reports.measure(pair)) for pair in pairs]

    def report(self, measures: reports.Measures, batch: Tensor) -> None:
        """Report how well the synthesizers did in a step.

        Args:
            measures: what `measured` found of its pairs.
            batch: number of examples.
        """
        # A step that overflows half precision is skipped by the optimizer, and here.
        finite = isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer)
        reports.update(self._reports, measures, batch, finite)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        reports = [] if self._report else list(self._reports.values())
        return [metric for metric in super().metrics if not any(metric is report for report in reports)]

    @contextlib.contextmanager
    def _without_reports(self) -> Iterator[None]:
        self._report = False
        try:
            yield
        finally:
            self._report = True

    def rematerialized_call(self, layer_call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The call as it is: in a `keras.RematScope` the modules run again, the model does not."""
        return layer_call

    def _tell_source(self, source: label_sources.Source | None) -> None:
        """Have the interfaces keep where in `y` the labels are."""
        if source is not None:
            for interface in self.interfaces:
                interface.labels_from = source
        told = [interface.labels_from for interface in self.interfaces if interface.labels_from is not None]
        if any(other != told[0] and not (callable(other) and callable(told[0])) for other in told):
            raise ValueError(
                "The interfaces of a model take their labels from one place in `y`. Give the model its own "
                f"labels_from. Received: interfaces with labels_from of {told}."
            )

    def labels_from(self, y: Nested) -> Nested:
        """The labels for conditional interfaces.

        Where `y` holds more than them, give the model the argument `labels_from`, or override this.

        Args:
            y: targets of a batch, as `fit` received them.

        Returns:
            Integers of shape `(batch,)` or `(batch, 1)`, or one-hot rows `(batch, num_classes)`; or
            vectors `(batch, label_size)`. Without the argument, `y` or the one tensor in it.

        Raises:
            ValueError: the argument is a key or an index that `y` does not have.
        """
        for interface in self.interfaces:
            if interface.labels_from is not None:
                return label_sources.take(interface.labels_from, y)
        leaves = keras.tree.flatten(y)
        return leaves[0] if len(leaves) == 1 else y

    def compile(self, *args: Any, schedule: schedules.Identifier = "together", **kwargs: Any) -> None:
        """Compile, as `keras.Model.compile` does.

        Args:
            *args: as for `keras.Model.compile`.
            schedule: when and where the modules run: `"together"` (one program for the whole network),
                `"in_turn"` (module after module: the same numbers in less memory), or a schedule, see
                `keras_sg.schedules`. It is not saved: a model that is loaded has the default.
            **kwargs: as for `keras.Model.compile`.

        Raises:
            ValueError: the schedule is not known, or cannot serve this model.
        """
        found = schedules.get(schedule)
        super().compile(*args, **kwargs)
        found.check(self)
        self.schedule, self.runner = found, None

    def compile_from_config(self, config: Config) -> None:
        if type(self).compile is not DecoupledModel.compile:
            return super().compile_from_config(config)  # which says what to do about a compile of one's own
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.optimizer is not None and self.built:
            self.optimizer.build(self.trainable_variables)

    def fit(self, x: Any = None, y: Nested = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train, as `keras.Model.fit` does; labels in arrays are checked before it begins."""
        check_windows(self, x, y, *args, **kwargs)
        if y is not None:
            batches.check_labels(self, batches.arrays(y))
        self.labels_are_checked = y is not None
        try:
            return super().fit(x, y, *args, **kwargs)
        finally:
            self.labels_are_checked = False
            if self.runner is not None:
                self.runner.abandon()

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Train on one batch, as `keras.Model.train_on_batch` does; nothing is in flight after it."""
        self.one_batch = True
        try:
            return super().train_on_batch(*args, **kwargs)
        finally:
            self.one_batch = False

    def interface_gradients(
        self, x: Any, y: Nested = None, sample_weight: Nested = None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The synthetic and the true gradient at every interface, on one batch.

        The true gradient is that of backpropagation through all of the network above, in training
        mode; no weight, statistic or metric of the model changes.

        Args:
            x: inputs of one batch, or a data set of which the first batch is taken; whatever `fit` takes.
            y: targets of the batch, as for `fit`; none where `x` has them, or the model needs none.
            sample_weight: optional sample weights of the batch, as for `fit`.

        Returns:
            Dictionary from the key of each interface (its name) to a tuple
            `(synthetic, true)` of arrays of the interface's shape, float32 or wider, per example (and, as
            is the loss, times its weight). Of an interface that is used several times, the last use. Those
            of a `RecurrentSyntheticGradient` are not among them: a window does not hold what comes after it.

        Raises:
            ValueError: the model is not compiled; or the batch is empty, or does not fit the model's
                inputs, or the labels in it the interfaces. Before anything is computed.
        """
        return {key: found[:2] for key, found in self.probe_gradients(x, y, sample_weight).items()}

    def probe_gradients(
        self, x: Any, y: Nested = None, sample_weight: Nested = None
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """As `interface_gradients`, with a third array, boolean: which elements count.

        Those of an example of weight 0, and where a mask is False, do not.
        """
        batch = batches.read(self, x, y, sample_weight)
        self.drain()
        # What a trace holds as constants: the loss, and what is trained.
        seen = [_keras.compilation(self), *(layer.trainable for layer in _keras.sublayers(self))]
        if len(seen) != len(self._probed) or any(a is not b for a, b in zip(seen, self._probed)):
            self._probed, self._probe_function = seen, self.make_probe_function()
        convert = lambda leaf: None if leaf is None else ops.convert_to_tensor(leaf)
        pairs = self._probe_function(*keras.tree.map_structure(convert, batch))
        return keras.tree.map_structure(ops.convert_to_numpy, pairs)

    def get_config(self) -> Config:
        return {**super().get_config(), "report_interfaces": self.report_interfaces}

    def make_train_function(self, force: bool = False) -> Any:
        check_optimizer(self)
        moved = [interface.mix_moves for interface in self.interfaces]
        if moved != self._mix_moves:
            # A function that exists was traced with a constant.
            self._mix_moves, self.train_function = moved, None
        if force or self.train_function is None:
            self.runner = self.schedule.start(self)
        return super().make_train_function(force)

    def save(
        self,
        filepath: str | os.PathLike[str],
        overwrite: bool = True,
        zipped: bool | None = None,
        **kwargs: Any,
    ) -> None:
        """Save, as `keras.Model.save` does; what cannot be written is found before a file is touched."""
        json.dumps(keras.saving.serialize_keras_object(self))
        self.drain()
        if str(filepath).endswith((".h5", ".hdf5")):
            warnings.warn(
                "Keras's legacy HDF5 files do not say where classes come from, nor do they hold the state of "
                "two optimizers. To load this one, call load_model with compile=False and "
                "custom_objects={'DecoupledModel': keras_sg.DecoupledModel, ...}, in which every class of "
                f"interface is, too; or save as '.keras'. Received: filepath={str(filepath)!r}.",
                stacklevel=2,
            )
        return super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def load_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Load weights, as `keras.Model.load_weights` does, of a model with the same interfaces."""
        try:
            super().load_weights(filepath, *args, **kwargs)
        except ValueError as error:
            raise ValueError(
                f"The weights in {str(filepath)!r} are not those of a model with the interfaces of "
                f"{self.name!r}, {[interface.name for interface in self.interfaces]}. Those of the plain "
                "network are loaded by keras_sg.strip(model).load_weights(...), which shares weights with "
                "this model; for others, cut this model as that one was, with the same synthesizers. "
                f"Received: {error}"
            ) from error

    def get_metrics_result(self) -> Logs:
        logs = super().get_metrics_result()
        return {**logs, **self.runner.logs} if self.runner is not None and self._report else logs

    def drain(self) -> None:
        """Wait until no batch is in flight, and the variables have their values.

        At the end of an epoch nothing is, whatever the schedule; within one, look at the weights after this.
        """
        if self.runner is not None:
            self.land()

    def save_weights(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save weights, as `keras.Model.save_weights` does."""
        self.drain()
        super().save_weights(filepath, *args, **kwargs)

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Export the plain network, as `keras.Model.export` does: synthesizers take no part in predictions.

        (An interface inside a layer of one's own cannot be taken out; its synthesizer goes along.)
        """
        network = self
        with contextlib.suppress(ValueError):
            network = strip(self)
        return keras.Model.export(network, filepath, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> float | list[float] | Logs:
        self.drain()
        with self._without_reports():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> float | list[float] | Logs:
        self.drain()
        with self._without_reports():
            return super().test_on_batch(*args, **kwargs)


def _check_containers(model: keras.Model) -> None:
    """Raise `ValueError` where a layer calls an interface inside it in a way that a step cannot follow."""
    for layer in _keras.sublayers(model):
        inside = [] if isinstance(layer, Interface) else interfaces_in(layer)
        if inside and isinstance(layer, keras.layers.TimeDistributed):
            raise ValueError(
                f"Interface {inside[0].name!r} sits inside keras.layers.TimeDistributed, which calls it past "
                "Keras, so that a training step does not find it and gives it neither labels nor weights. "
                "Put TimeDistributed inside the interface: "
                f"keras_sg.{type(inside[0]).__name__}(keras.layers.TimeDistributed(layer)). "
                f"Received: {layer.name!r} (of type {type(layer).__name__})."
            )
        if inside and _keras.is_rematerialized(layer):
            raise ValueError(
                f"Interface {inside[0].name!r} sits inside a layer that was made in a keras.RematScope: all "
                "of it would run again in the backward pass, where gradients are exchanged. Make modules "
                "inside the scope, and the model around them outside. "
                f"Received: {layer.name!r} (of type {type(layer).__name__})."
            )


def _check_outputs(model: keras.Model) -> None:
    for output in keras.tree.flatten(model.outputs):
        graph, (layer, index) = model, _keras.producer(output)
        while _keras.is_graph(layer) and not _keras.consumed(graph, output):
            graph, output = layer, layer.outputs[index]
            layer, index = _keras.producer(output)
        needy = isinstance(layer, Interface) and layer.between_layers
        if needy and not _keras.consumed(graph, output):
            raise ValueError(
                f"Interface {layer.name!r} is an output of the model: there is no module behind it to "
                "learn from. The last module takes the true gradient; leave its layers unwrapped. "
                f"Received: output of shape {tuple(output.shape)} from {layer.name!r} "
                f"(of type {type(layer).__name__})."
            )
