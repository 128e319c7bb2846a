"""The training step of `DecoupledModel` on TensorFlow."""

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from keras_sg import _keras, gradients
from keras_sg.labels import Label
from keras_sg.step import GradientPrediction, Lesson, Step
from keras_sg.trainers.sparse import SparseUpdates
from keras_sg.types import Logs, Mixin, Nested, Tensor


class TensorFlowTrainer(Mixin):
    """Mixed into `DecoupledModel`. Keras's own training step, and around it:

    labels on the way in, one backward pass for the modules, the synthesizers and the targets,
    and the pairs (prediction, target) to the model's metrics on the way out.
    """

    _observe_function: Callable[..., Any]
    _observed_loss: Any = None

    def train_step(self, data: Nested) -> Logs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = _batch_size(x)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        sparse = SparseUpdates(self)
        step = Step(labels=self.labels_from(y), due=sparse.due)
        kinds = [(interface.label, interface.name) for interface in self.interfaces if interface.label]
        checks = [_assert_known(step.labels, *kind) for kind in kinds]

        with tf.control_dependencies([check for check in checks if check is not None]):
            with tf.GradientTape(persistent=bool(sparse.interfaces)) as tape:
                y_pred = self(x, training=True, decoupled_step=step)
                if step.losses:
                    loss, example_loss = self._loss_per_example(x, y, y_pred, sample_weight, batch)
                    lessons = loss_lessons(step, example_loss, self.optimizer.scale_loss(1.0 / replicas))
                else:
                    loss, lessons = _keras.compute_loss(self, x, y, y_pred, sample_weight), []
                # Keras divides losses by the number of replicas; the report is of the whole.
                _keras.track_loss(self, loss * replicas, batch)
                regressions = [lesson.loss for lesson in lessons if lesson.interface.update_period == 1]
                total = self.optimizer.scale_loss(loss + sum(regressions) / replicas)

            regressed = [prediction for prediction in step.gradients if prediction.weight is not None]
            interfaces = [(prediction.h, prediction.anchor) for prediction in regressed]
            updates, arrived = tape.gradient(total, (self.trainable_variables, interfaces))

        _warn_of_idle(self, step)
        lessons += gradient_lessons(regressed, arrived)
        self.observe(lessons, batch)
        if self.trainable_variables:
            sparse.apply(sparse.teach(tape, lessons, updates))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def interface_gradients(
        self, x: Nested, y: Nested, sample_weight: Nested = None
    ) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The synthetic and the true gradient at every interface, on one batch.

        The true gradient is that of backpropagation through all of the network above, in training
        mode; no weight, statistic or metric of the model changes.

        Args:
            x, y, sample_weight: one batch, as for `train_on_batch`.

        Returns:
            Dictionary from the key of each interface (its name) to a tuple
            `(synthetic, true)` of arrays of the interface's shape, float32 or wider, per example. Of
            an interface that is used several times, the last use.
        """
        batch = [
            None if part is None else keras.tree.map_structure(tf.convert_to_tensor, part)
            for part in (x, y, sample_weight)
        ]
        if self._observed_loss is not _keras.compiled_loss(self):
            self._observed_loss = _keras.compiled_loss(self)
            self._observe_function = tf.function(self._observe, reduce_retracing=True)
        pairs = self._observe_function(*batch)
        return {key: tuple(keras.ops.convert_to_numpy(part) for part in pair) for key, pair in pairs.items()}

    def _observe(self, x: Nested, y: Nested, sample_weight: Nested) -> dict[str, tuple[Tensor, Tensor]]:
        step = Step(labels=self.labels_from(y), observed=True)
        batch, replicas = _batch_size(x), tf.distribute.get_strategy().num_replicas_in_sync
        # What the call does to statistics and seeds is dropped with the scope.
        values = [(variable, variable.value) for variable in self.variables]
        with tf.GradientTape() as tape, keras.StatelessScope(values):
            y_pred = self(x, training=True, decoupled_step=step)
            loss = _keras.compute_loss(self, x, y, y_pred, sample_weight)
            total = loss * tf.cast(batch * replicas, loss.dtype)
        sources = [prediction.h for prediction in step.gradients]
        true = tape.gradient(total, sources, unconnected_gradients="zero")
        return {
            self.key_of(prediction.interface): (
                gradients.widen(prediction.synthetic),
                gradients.widen(target),
            )
            for prediction, target in zip(step.gradients, true)
        }

    def _loss_per_example(
        self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The training loss, and the loss of each example, `(batch,)`.

        A training loss is linear in the sample weights, so an example's share of it is its
        weight times the derivative by that weight. This holds for any losses, outputs and
        loss weights, with no need to look inside them.
        """
        if "mean_with_sample_weight" in _keras.reductions(self):
            raise ValueError(
                f"The synthetic losses of {self.name!r} learn from the loss of each example, which a loss "
                "that is divided by the sum of the sample weights does not have. Use the reduction "
                "'sum_over_batch_size'. Received: a loss with reduction='mean_with_sample_weight'."
            )
        weights = _unit_or_given(sample_weight, y_pred)
        flat = keras.tree.flatten(weights)
        with tf.GradientTape() as tape:
            tape.watch(flat)
            loss = _keras.compute_loss(self, x, y, y_pred, weights)
        shares = [
            tf.reduce_sum(tf.reshape(weight * share, (batch, -1)), axis=1)
            for weight, share in zip(flat, tape.gradient(loss, flat))
            if share is not None
        ]
        if not shares:
            raise ValueError(
                f"The synthetic losses of {self.name!r} have nothing behind them to learn from: there is "
                "no loss per example. Compile the model with a Keras loss that honours sample weights "
                "(loss='mse', for one). Received: a model whose training loss takes no sample weights."
            )
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        per_example = tf.add_n(shares) * tf.cast(batch * replicas, shares[0].dtype)
        return loss, tf.stop_gradient(per_example)


def loss_lessons(step: Step, example_loss: Tensor, scale: Tensor) -> list[Lesson]:
    """Every predicted loss is to be the next one, and the last the example's own loss."""
    targets = [tf.stop_gradient(prediction.value) for prediction in step.losses[1:]] + [example_loss]
    return [
        Lesson(prediction.interface, prediction.value, target, 1.0, scale)
        for prediction, target in zip(step.losses, targets)
    ]


def gradient_lessons(
    predictions: list[GradientPrediction], arrived: list[tuple[Tensor | None, Tensor | None]]
) -> list[Lesson]:
    """Every predicted gradient is to be the one that arrived at its interface."""
    lessons = []
    for prediction, (delta, scale) in zip(predictions, arrived):
        interface = prediction.interface
        if delta is not None:
            scale = tf.ones(()) if scale is None else scale
            target = gradients.per_example(delta, scale)
            lessons.append(Lesson(interface, prediction.synthetic, target, prediction.weight, scale))
        elif interface.synthesizer.trainable_variables:
            raise ValueError(
                f"No gradient arrives at interface {interface.name!r}: nothing behind it leads to a loss, so "
                "its synthesizer has nothing to learn from. Compile the model with a loss for the output "
                "that it leads to."
            )
    return lessons


def _batch_size(x: Nested) -> Tensor:
    return ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]


def _unit_or_given(sample_weight: Nested, y_pred: Nested) -> Nested:
    """Sample weights as floats; ones, in a shape that Keras applies to whole examples, where None."""

    def weights_of(output: Tensor, given: Tensor | None = None) -> Tensor:
        if given is not None:
            return tf.cast(given, keras.config.floatx())
        # Keras fits (batch, 1) to losses of shape (batch,) as well as (batch, positions).
        rows = (
            output[..., 0] if len(output.shape) > 3 else tf.reshape(output, (tf.shape(output)[0], -1))[:, :1]
        )
        return tf.ones_like(rows, dtype=keras.config.floatx())

    if sample_weight is None:
        return keras.tree.map_structure(weights_of, y_pred)
    pairs = zip(keras.tree.flatten(y_pred), keras.tree.flatten(sample_weight))
    return keras.tree.pack_sequence_as(sample_weight, [weights_of(*pair) for pair in pairs])


def _assert_known(y: Nested, kind: Label, name: str) -> tf.Operation | None:
    """An assertion that an interface knows the values of the labels; None where it ran eagerly.

    XLA leaves assertions out; there, `Label.rows` makes such a label NaN.
    """
    kind.check(y)
    return tf.debugging.Assert(
        tf.reduce_all(kind.known(y)),
        [f"{kind.allowed} Received, at interface {name!r}:", y],
    )


def _warn_of_idle(model: keras.Model, step: Step) -> None:
    """Warn of interfaces that the step did not meet: a true gradient may have passed there."""
    predictions: list[Any] = [*step.gradients, *step.losses]
    met = {id(prediction.interface) for prediction in predictions}
    idle = [interface.name for interface in model.interfaces if id(interface) not in met]
    if idle:
        warnings.warn(
            f"The interfaces {idle} of model {model.name!r} took no part in the training step, so nothing "
            "is reported of them. Is a layer around them called with training=False, or does it call "
            "them other than by layer(inputs)?",
            stacklevel=2,
        )
