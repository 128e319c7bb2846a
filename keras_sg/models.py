"""`DecoupledModel`: a functional Keras model that knows its interfaces."""

import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_sg import _keras, batches, label_sources
from keras_sg.graph import is_graph
from keras_sg.interface import Interface
from keras_sg.layers import SyntheticGradient
from keras_sg.step import Lesson
from keras_sg.trainers import Trainer
from keras_sg.trainers.sparse import check_optimizer
from keras_sg.types import Logs, Nested, Tensor


@keras.saving.register_keras_serializable(package="keras_sg")
class DecoupledModel(Trainer, keras.Model):
    """A functional `keras.Model` whose training step serves the interfaces inside it.

    It is a `keras.Model(inputs, outputs)` in every respect but its training step, which

    * hands the labels `y` to conditional interfaces, at any depth,
    * pairs the predictions of synthetic losses with their targets,
    * updates modules and synthesizers in one backward pass, and
    * reports, next to the model's own metrics, how well the synthesizers do: `sg_loss` (their
      regression loss) and `sg_cosine` (cosine between predicted gradient and target, mean over
      the batch; for interfaces that regress on it), and `<layer name>_sg_loss`, `<layer name>_sg_cosine`
      for each interface where there are several.

    The reported `loss` is the model's own: losses of the synthesizers are not part of it. What
    `evaluate` reports is untouched, for interfaces do nothing outside training.

    Args:
        inputs: symbolic inputs, as for `keras.Model`.
        outputs: symbolic outputs, as for `keras.Model`.
        name: string, the model's name.
        labels_from: where in `y` the labels for conditional interfaces are, if it holds more than them: the
            key (a string) or the index (an integer) of an entry, or a callable from `y` to the labels,
            registered with Keras if the model is to be saved. The interfaces keep it; None leaves them
            what they have, so it goes with them into files, clones and models around this one.
        **kwargs: `trainable`.

    Attributes:
        interfaces: list of the interfaces in the model, at any depth, in order.

    Raises:
        ValueError: an output of the model is an interface; `labels_from` is not as described, or
            interfaces have been told different ones.
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

    def __init__(
        self,
        inputs: Nested,
        outputs: Nested,
        name: str | None = None,
        *,
        labels_from: label_sources.Source | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(inputs, outputs, name=name, **kwargs)
        _keras.register_step(self)
        _check_outputs(self)
        self._tell_source(label_sources.check(labels_from))
        self._keys = _keys(self.interfaces)
        self._reports = _reports(self.interfaces, self._keys)
        self._report = True
        self._mix_moves: list[bool] = []
        self._observe_function: Any = None
        self._observed: list[Any] = []

    @property
    def interfaces(self) -> list[Interface]:
        """The interfaces in this model, at any depth, each once, in order."""
        return interfaces_in(self)

    def key_of(self, interface: Interface) -> str:
        """What everything that is reported of an interface begins with: its name.

        Where several interfaces share a name, all but the first are numbered.
        """
        return self._keys[id(interface)]

    def observe(self, lessons: list[Lesson], batch: Tensor) -> None:
        """Report how well the synthesizers did in a step.

        Args:
            lessons: list of `keras_sg.step.Lesson`.
            batch: number of examples.
        """
        found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in self._reports}
        for interface in self.interfaces:
            own = [lesson for lesson in lessons if lesson.interface is interface]
            values = [("sg_loss", sum(lesson.loss for lesson in own))] if own else []
            for lesson in own:
                if len(lesson.target.shape) > 1:
                    met = cosine(ops.cast(lesson.prediction, lesson.target.dtype), lesson.target)
                    values.append(("sg_cosine", ops.mean(met)))
            for key, value in values:
                weighted = self._where_it_counts(value, batch)
                for name in (key, f"{self.key_of(interface)}_{key}"):
                    if name in found:
                        found[name].append(weighted)
        for name, pairs in found.items():
            if pairs:
                of_all, examples = map(ops.stack, zip(*pairs))
                self._reports[name].update_state(of_all, sample_weight=examples)

    def _where_it_counts(self, value: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of a batch and the number of examples that it counts for; twice zero where it does not."""
        # A replica may go without examples; there is nothing to report then.
        counts = ops.convert_to_tensor(batch) > 0
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            # A step that overflows half precision is skipped by the optimizer, and here.
            counts = ops.logical_and(counts, ops.isfinite(value))
        return ops.where(counts, value, 0.0), ops.where(counts, batch, 0)

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

    def fit(self, x: Any = None, y: Nested = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """Train, as `keras.Model.fit` does; labels in arrays are checked before it begins."""
        if y is not None:
            batches.check_labels(self, batches.arrays(y))
        return super().fit(x, y, *args, **kwargs)

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
            `(synthetic, true)` of arrays of the interface's shape, float32 or wider, per example. Of
            an interface that is used several times, the last use.

        Raises:
            ValueError: the model is not compiled; or the batch is empty, or does not fit the model's
                inputs, or the labels in it the interfaces. Before anything is computed.
        """
        batch = batches.read(self, x, y, sample_weight)
        # What a trace holds as constants: the loss, and what is trained.
        seen = [_keras.compilation(self), *(layer.trainable for layer in _keras.sublayers(self))]
        if len(seen) != len(self._observed) or any(a is not b for a, b in zip(seen, self._observed)):
            self._observed, self._observe_function = seen, self.make_observe_function()
        convert = lambda leaf: None if leaf is None else ops.convert_to_tensor(leaf)
        pairs = self._observe_function(*keras.tree.map_structure(convert, batch))
        return {key: tuple(ops.convert_to_numpy(part) for part in pair) for key, pair in pairs.items()}

    def make_train_function(self, force: bool = False) -> Any:
        check_optimizer(self)
        moved = [interface.mix_moves for interface in self.interfaces]
        if moved != self._mix_moves:
            # A function that exists was traced with a constant.
            self._mix_moves, self.train_function = moved, None
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
        return super().save(filepath, overwrite=overwrite, zipped=zipped, **kwargs)

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Export the plain network, as `keras.Model.export` does: synthesizers take no part in predictions.

        (An interface inside a layer of one's own cannot be taken out; its synthesizer goes along.)
        """
        from keras_sg.surgery import strip  # which is built on this file

        network = self
        with contextlib.suppress(ValueError):
            network = strip(self)
        return keras.Model.export(network, filepath, *args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> float | list[float] | Logs:
        with self._without_reports():
            return super().evaluate(*args, **kwargs)

    def test_on_batch(self, *args: Any, **kwargs: Any) -> float | list[float] | Logs:
        with self._without_reports():
            return super().test_on_batch(*args, **kwargs)


def interfaces_in(layer: keras.Layer) -> list[Interface]:
    """The interfaces inside `layer`, at any depth, each once, in order."""
    found = [sublayer for sublayer in _keras.sublayers(layer) if isinstance(sublayer, Interface)]
    return list({id(interface): interface for interface in found}.values())


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosine between `a` and `b` for each example, `(batch,)`; 0 where either is zero."""
    a, b = (ops.reshape(x, (ops.shape(x)[0], -1)) for x in (a, b))
    return ops.divide_no_nan(ops.sum(a * b, axis=1), ops.norm(a, axis=1) * ops.norm(b, axis=1))


def _keys(interfaces: list[Interface]) -> dict[int, str]:
    """What the metrics of each interface begin with: its name, numbered where several share it."""
    keys: dict[int, str] = {}
    for interface in interfaces:
        key, number = interface.name, 0
        while key in keys.values():
            number += 1
            key = f"{interface.name}_{number}"
        keys[id(interface)] = key
    return keys


def _reports(interfaces: list[Interface], keys: dict[int, str]) -> dict[str, keras.metrics.Mean]:
    """The metrics of a model with these interfaces, by name."""
    gradients_only = [
        interface
        for interface in interfaces
        if isinstance(interface, SyntheticGradient) or getattr(interface, "sobolev", False)
    ]
    names = (["sg_loss"] if interfaces else []) + (["sg_cosine"] if gradients_only else [])
    if len(interfaces) > 1:
        names += [f"{keys[id(interface)]}_sg_loss" for interface in interfaces]
        names += [f"{keys[id(interface)]}_sg_cosine" for interface in gradients_only]
    return {name: keras.metrics.Mean(name=name) for name in names}


def _check_outputs(model: keras.Model) -> None:
    for output in keras.tree.flatten(model.outputs):
        graph, (layer, index) = model, _keras.producer(output)
        while is_graph(layer) and not _keras.consumed(graph, output):
            graph, output = layer, layer.outputs[index]
            layer, index = _keras.producer(output)
        if isinstance(layer, Interface) and not _keras.consumed(graph, output):
            raise ValueError(
                f"Interface {layer.name!r} is an output of the model: there is no module behind it to "
                "learn from. The last module takes the true gradient; leave its layers unwrapped. "
                f"Received: output of shape {tuple(output.shape)} from {layer.name!r} "
                f"(of type {type(layer).__name__})."
            )
