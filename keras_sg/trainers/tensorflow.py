"""The training step of `DecoupledModel` on TensorFlow."""

import keras
import tensorflow as tf
from keras import ops

from keras_sg import _keras, gradients, labels
from keras_sg.step import Step


class TensorFlowTrainer:
    """Mixed into `DecoupledModel`. Keras's own training step, and around it:

    labels on the way in, one backward pass for the modules, the synthesizers and the targets,
    and the pairs (prediction, target) to the model's metrics on the way out.
    """

    def train_step(self, data):
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = ops.shape(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None))[0]
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        step = Step(labels=y)
        checks = [_assert_known(y, interface) for interface in self.interfaces if interface.num_classes]

        with tf.control_dependencies([check for check in checks if check is not None]):
            with tf.GradientTape() as tape:
                y_pred = self(x, training=True, decoupled_step=step)
                if step.losses:
                    loss, example_loss = self._loss_per_example(x, y, y_pred, sample_weight, batch)
                    regressions = regress_losses(step, example_loss)
                    total = loss + sum(regressions) / replicas
                else:
                    loss = total = _keras.compute_loss(self, x, y, y_pred, sample_weight)
                # Keras divides losses by the number of replicas; the report is of the whole.
                _keras.track_loss(self, loss * replicas, batch)
                total = self.optimizer.scale_loss(total)

            interfaces = [(prediction.h, prediction.anchor) for prediction in step.gradients]
            updates, arrived = tape.gradient(total, (self.trainable_variables, interfaces))

        for prediction, (delta, scale) in zip(step.gradients, arrived):
            if delta is None:
                raise ValueError(
                    f"No gradient arrives at interface {prediction.interface.name!r}: nothing behind it "
                    "leads to a loss, so its synthesizer has nothing to learn from. Compile the model "
                    "with a loss for the output that it leads to."
                )
            self.observe_gradient(prediction, gradients.per_example(delta, scale), batch)
        if step.losses:
            for prediction, regression in zip(step.losses, regressions):
                self.observe_loss(prediction, regression, batch)

        self.optimizer.apply_gradients(zip(updates, self.trainable_variables))
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def _loss_per_example(self, x, y, y_pred, sample_weight, batch):
        """The training loss, and the loss of each example, float32 `(batch,)`.

        A training loss is linear in the sample weights, so an example's share of it is its
        weight times the derivative by that weight. This holds for any losses, outputs and
        loss weights, with no need to look inside them.
        """
        weights = tf.ones((batch,)) if sample_weight is None else sample_weight
        weights = keras.tree.map_structure(lambda leaf: tf.cast(leaf, "float32"), weights)
        flat = keras.tree.flatten(weights)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
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
        return loss, tf.stop_gradient(tf.add_n(shares)) * tf.cast(batch * replicas, "float32")


def regress_losses(step, example_loss):
    """Regress every predicted loss on the next one, and the last on the example's own loss."""
    targets = [prediction.value for prediction in step.losses[1:]] + [example_loss]
    return [
        prediction.interface.regression(prediction.value, target)
        for prediction, target in zip(step.losses, targets)
    ]


def _assert_known(y, interface):
    """An assertion that class indices lie in `[0, num_classes)`; None where there is none to make.

    XLA leaves assertions out; there, `labels.one_hot` makes such a label NaN.
    """
    classes = interface.num_classes
    labels.check_labels(y, classes)
    if not labels.is_index(y):
        return None
    return tf.debugging.Assert(
        tf.reduce_all((tf.cast(y, "int64") >= 0) & (tf.cast(y, "int64") < classes)),
        [
            f"Labels must lie in [0, {classes}) for interface {interface.name!r} "
            f"(num_classes={classes}). Received labels from",
            tf.reduce_min(y),
            "to",
            tf.reduce_max(y),
        ],
    )
