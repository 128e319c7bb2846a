"""The training step of `DecoupledModel` on TensorFlow."""

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from keras_sg import _keras
from keras_sg._interfaces.step import Step
from keras_sg._trainers import common, example_losses, feedback
from keras_sg._trainers.pairs import gradient_pairs, inner_pairs
from keras_sg._trainers.periods import Updates
from keras_sg._trainers.reports import Measures
from keras_sg._trainers.tensorflow import adam
from keras_sg._trainers.tensorflow.periods import TensorFlowPeriodicUpdates
from keras_sg._trainers.tensorflow.step import TensorFlowStep
from keras_sg._trainers.trained import Model
from keras_sg._types import Logs, Nested, Tensor
from keras_sg.labels import Label, Vector


class InvalidBatch(tf.errors.InvalidArgumentError, ValueError):
    """What is wrong with a batch of a data set: found by an assertion in the graph, told as in an array."""


class TensorFlowTrainer(Model):
    """Mixed into `DecoupledModel`. Keras's own training step, and around it:

    labels on the way in, one backward pass for the modules, the synthesizers and the targets,
    and the pairs (prediction, target) to the model's metrics on the way out.
    """

    train_function: Any

    def fit(self, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        with _told():
            return super().fit(*args, **kwargs)

    def train_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        with _told():
            return super().train_on_batch(*args, **kwargs)

    def land(self) -> None:
        """Wait for what is in flight, and give the variables their values."""
        self.runner.drain()

    def get_metrics_result(self) -> Logs:
        """As Keras's own, which is called at the end of an epoch, when nothing is to be in flight."""
        if self.runner is not None:
            self.land()
        return super().get_metrics_result()

    def make_train_function(self, force: bool = False) -> None:
        # TensorFlow traces a step twice in which variables are made, as optimizer and metrics make theirs.
        if not self.optimizer.built and all(layer.built for layer in _keras.sublayers(self)):
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_variables)
        if self.runner is not None:
            self.train_function = self._in_modules
            return
        before = self.train_function
        super().make_train_function(force)
        ours = type(self).train_step is TensorFlowTrainer.train_step
        if ours and not self.run_eagerly and self.train_function is not before:
            self.train_function = self._after_metrics(self.train_function)

    def _in_modules(self, iterator: Any) -> Logs:
        """Take `steps_per_execution` batches, one by one."""
        logs, _ = self.runner.step(None, next(iterator))
        for data in itertools.islice(iterator, self.steps_per_execution - 1):
            logs, _ = self.runner.step(None, data)
        return logs

    def _after_metrics(self, train: Callable[..., Any]) -> Callable[..., Any]:
        """`train`, before whose first call the metrics are made for the batches that it is to take."""

        def first(iterator: Any) -> Any:
            self.train_function = train
            batch = getattr(iterator, "element_spec", None)
            tensors = keras.tree.flatten(batch)
            if all(isinstance(spec, tf.TensorSpec) and spec.shape.rank is not None for spec in tensors):
                with contextlib.suppress(Exception):  # what is wrong with a batch is for the step to say
                    _keras.make_metrics(self, *keras.utils.unpack_x_y_sample_weight(batch))
            return train(iterator)

        return first

    def train_step(self, data: Nested) -> Logs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = common.batch_size(x)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        periods = TensorFlowPeriodicUpdates(self)
        step = TensorFlowStep(**common.given(self, x, y, sample_weight), updates=periods)
        # Each kind of label is checked once, in the name of the first interface that sees it.
        kinds = {cut.needed_label: cut.name for cut in reversed(self.interfaces) if cut.needed_label}
        checks = [_assert_known(step, *kind) for kind in kinds.items()]

        with tf.control_dependencies([check for check in checks if check is not None]):
            with tf.GradientTape(persistent=bool(periods.interfaces)) as tape:
                y_pred = self(x, training=True, decoupled_step=step)
                if step.fits_loss:
                    loss, example_loss = self._loss_per_example(x, y, y_pred, sample_weight, batch)
                else:
                    loss, example_loss = _keras.compute_loss(self, x, y, y_pred, sample_weight), None
                pairs = inner_pairs(step, example_loss, self.optimizer.scale_loss(1.0 / replicas))
                # Keras divides losses by the number of replicas; the report is of the whole.
                _keras.track_loss(self, loss * replicas, batch)
                regressions = [pair.loss for pair in pairs if pair.interface.update_period == 1]
                fed = feedback.fed_back(self, step, x, y, y_pred, sample_weight)
                total = self.optimizer.scale_loss(sum(fed, loss + sum(regressions) / replicas))

            regressed = [prediction for prediction in step.gradients if prediction.factor is not None]
            interfaces = [(prediction.h, prediction.anchor) for prediction in regressed]
            updates, arrived = tape.gradient(total, (self.trainable_variables, interfaces))

        common.warn_of_idle(self, step)
        pairs += gradient_pairs(regressed, arrived)
        self.report(self.measured(pairs), batch)
        self._update(periods, periods.teach(tape, pairs, updates))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def finish(
        self,
        state: None,
        updates: list[Tensor | None],
        fixed: list[Tensor | None],
        metrics: list[Tensor | None],
        losses: list[Tensor],
        measures: Measures,
        data: Nested,
        y_pred: Nested,
    ) -> tuple[Logs, None]:
        """End a step that modules have taken one by one; see `finish` of the trainer for JAX."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = common.batch_size(x)
        for variable, value in zip(self.non_trainable_variables + self.metrics_variables, fixed + metrics):
            if value is not None:
                variable.assign(value)
        _keras.track_loss(self, sum(losses), batch)
        self.report(measures, batch)
        self._update(TensorFlowPeriodicUpdates(self), updates)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight), None

    def _update(self, periods: TensorFlowPeriodicUpdates, updates: Updates) -> None:
        # Without interfaces it is a plain model, and trained as one, to the bit.
        kernels = adam.fused(self.optimizer) if self.interfaces else contextlib.nullcontext()
        if self.trainable_variables:
            with kernels:
                periods.apply(updates)

    def make_probe_function(self) -> Callable[..., Any]:
        """A function from a batch, of tensors, to what `interface_gradients` returns, as tensors."""
        if self.run_eagerly:
            return self._probe
        return tf.function(self._probe, autograph=False, reduce_retracing=True)

    def _probe(self, x: Nested, y: Nested, sample_weight: Nested) -> dict[str, tuple[Tensor, ...]]:
        step = TensorFlowStep(**common.given(self, x, y, sample_weight), probing=True)
        batch, replicas = common.batch_size(x), tf.distribute.get_strategy().num_replicas_in_sync
        # What the call does to statistics and seeds is dropped with the scope.
        values = [(variable, variable.value) for variable in self.variables]
        with tf.GradientTape() as tape, keras.StatelessScope(values, collect_losses=True):
            y_pred = self(x, training=True, decoupled_step=step)
            loss = _keras.compute_loss(self, x, y, y_pred, sample_weight)
            total = loss * tf.cast(batch * replicas, loss.dtype)
            feedback.probed(self, step, x, y, y_pred, sample_weight)
        sources = [prediction.h for prediction in step.gradients]
        true = tape.gradient(total, sources, unconnected_gradients="zero")
        return common.probed(self, step.gradients, true)

    def _loss_per_example(
        self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The training loss, and the loss of each example, `(batch,)`."""
        weights = example_losses.weights_of_examples(self, y, sample_weight, y_pred)
        flat = keras.tree.flatten(weights)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = _keras.compute_loss(self, x, y, y_pred, weights)
        # Keras divides the losses of a replica by the number of replicas.
        examples = batch * tf.distribute.get_strategy().num_replicas_in_sync
        return loss, example_losses.shares_of_examples(self, flat, tape.gradient(loss, flat), examples)


def _assert_known(step: Step, kind: Label, name: str) -> tf.Operation | None:
    """An assertion that an interface knows the values of the labels; None where it ran eagerly.

    XLA leaves assertions out; there, `Label.rows` makes such a label NaN.
    """
    if tf.executing_eagerly():
        try:
            kind.check_values(step.labels, step.ignored)
        except ValueError as error:
            raise InvalidBatch(None, None, str(error)) from None
        return None
    kind.check(step.labels)
    if isinstance(kind, Vector) and step.labels.shape.rank > 1 and step.labels.shape[-1] is None:
        width = tf.shape(step.labels)[-1]
        message = [f"{kind.expected} Received, at interface {name!r}: vectors of", width, "numbers"]
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(width, kind.size), message)]):
            step.labels = tf.identity(step.labels)
    labels = tf.cast(step.labels, "int32") if step.labels.dtype == tf.bool else step.labels
    least, most = tf.reduce_min(labels), tf.reduce_max(labels)
    message = [f"{kind.allowed} Received, at interface {name!r}: labels from", least, "to", most]
    return tf.debugging.Assert(tf.reduce_all(kind.known(labels, step.ignored)), message)


_OURS = "The batch was folded|Labels? |A conditional interface needs label"  # how what we say begins


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Within, an assertion about a batch that fails in the graph says what it has to say and no more."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        found = re.search(rf"assertion failed: \[((?:{_OURS}).*)\]", error.message)
        if found is None:
            raise
        told = found[1].replace("] [", " ").replace("\\'", "'")
        raise InvalidBatch(None, None, told) from None
