"""The training step of `DecoupledModel` on PyTorch."""

from collections.abc import Callable
from typing import Any

import keras
import torch

from keras_sg import _keras
from keras_sg._backends import replicas
from keras_sg._trainers import common, example_losses, feedback
from keras_sg._trainers.pairs import gradient_pairs, inner_pairs
from keras_sg._trainers.reports import Measures
from keras_sg._trainers.torch.periods import TorchPeriodicUpdates
from keras_sg._trainers.torch.step import TorchStep
from keras_sg._trainers.trained import Model
from keras_sg._types import Logs, Nested, Tensor


class TorchTrainer(Model):
    """Mixed into `DecoupledModel`. Keras's own training step, and around it:

    labels on the way in, one backward pass for the modules, the synthesizers and the targets,
    and the pairs (prediction, target) to the model's metrics on the way out.
    """

    train_function: Any

    def train_step(self, data: Nested) -> Logs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch, periods = common.batch_size(x), TorchPeriodicUpdates(self)
        step = TorchStep(**common.given(self, x, y, sample_weight), updates=periods)
        for kind in {interface.needed_label for interface in self.interfaces if interface.needed_label}:
            kind.check_values(step.labels, step.ignored)

        y_pred = self(x, training=True, decoupled_step=step)
        if step.fits_loss:
            loss, example_loss = self._loss_per_example(x, y, y_pred, sample_weight, batch)
        else:
            loss, example_loss = _keras.compute_loss(self, x, y, y_pred, sample_weight), None
        pairs = inner_pairs(step, example_loss, self.optimizer.scale_loss(1.0))
        fed = feedback.fed_back(self, step, x, y, y_pred, sample_weight)
        total = self.optimizer.scale_loss(sum(fed, loss + sum(pair.loss for pair in pairs)))
        regressed = [prediction for prediction in step.gradients if prediction.factor is not None]
        trained = [variable.value for variable in self.trainable_variables]
        interfaces = [(prediction.h, prediction.anchor) for prediction in regressed]
        updates, arrived = _gradients(total, (trained, interfaces))

        with torch.no_grad():
            common.warn_of_idle(self, step)
            pairs += gradient_pairs(regressed, arrived)
            return self._end_step(periods, updates, loss, self.measured(pairs), data, y_pred)

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
        with torch.no_grad():
            for variable, value in zip(
                self.non_trainable_variables + self.metrics_variables, fixed + metrics
            ):
                if value is not None:
                    variable.assign(value)
            periods = TorchPeriodicUpdates(self)
            return self._end_step(periods, updates, sum(losses), measures, data, y_pred), None

    def _end_step(
        self,
        periods: TorchPeriodicUpdates,
        updates: list[Tensor | None],
        loss: Tensor,
        measures: Measures,
        data: Nested,
        y_pred: Nested,
    ) -> Logs:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = common.batch_size(x)
        _keras.track_loss(self, loss, batch)
        self.report(measures, batch)
        if self.trainable_variables:
            periods.apply(updates)
        return self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)

    def land(self) -> None:
        """Wait for what is in flight, and give the variables their values."""
        self.runner.drain()

    def get_metrics_result(self) -> Logs:
        """As Keras's own, which is called at the end of an epoch, when nothing is to be in flight."""
        if self.runner is not None:
            self.land()
        return super().get_metrics_result()

    def make_train_function(self, force: bool = False) -> Any:
        if self.jit_compile:
            raise ValueError(
                "keras_sg.DecoupledModel trains eagerly on PyTorch: in a step that Keras has torch.compile "
                "compile, no gradient arrives at an interface. Compile the model with jit_compile=False (or "
                "'auto'), or set KERAS_BACKEND to 'tensorflow' or 'jax'. Received: jit_compile=True."
            )
        super().make_train_function(force)
        if _keras.synchronised(self) is not None or replicas.distributed(self):
            raise ValueError(
                "keras_sg.DecoupledModel trains in one process on PyTorch: its step does not call the model "
                "that torch.nn.parallel.DistributedDataParallel keeps the same in all of them, and each "
                "would train by itself. Train outside of torch.distributed and keras.distribution, or in "
                "several processes with KERAS_BACKEND='jax'. Received: "
                f"keras.distribution.distribution()={keras.distribution.distribution()}, "
                f"torch.distributed.is_initialized()={torch.distributed.is_initialized()}."
            )
        if self.runner is not None:
            self.train_function = self._in_modules

    def _in_modules(self, data: list[Nested]) -> Logs:
        """Take the batches of one execution, one by one."""
        logs: Logs = {}
        for batch in data:
            logs, _ = self.runner.step(None, batch)
        return logs

    def make_probe_function(self) -> Callable[..., Any]:
        """A function from a batch, of tensors, to what `interface_gradients` returns, as tensors."""
        return self._probe

    def _probe(self, x: Nested, y: Nested, sample_weight: Nested) -> dict[str, tuple[Tensor, ...]]:
        step = TorchStep(**common.given(self, x, y, sample_weight), probing=True)
        # What the call does to statistics and seeds is dropped with the scope.
        values = [(variable, variable.value) for variable in self.variables]
        with keras.StatelessScope(values, collect_losses=True):
            y_pred = self(x, training=True, decoupled_step=step)
            total = _keras.compute_loss(self, x, y, y_pred, sample_weight) * common.batch_size(x)
            feedback.probed(self, step, x, y, y_pred, sample_weight)
        true = _gradients(total, [prediction.h for prediction in step.gradients])
        return common.probed(self, step.gradients, true)

    def _loss_per_example(
        self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The training loss, and the loss of each example, `(batch,)`."""
        weights = keras.tree.map_structure(
            lambda weight: weight.detach().clone().requires_grad_(),
            example_losses.weights_of_examples(self, y, sample_weight, y_pred),
        )
        # Keras multiplies weights in place, which PyTorch allows for what is no leaf of the graph.
        loss = _keras.compute_loss(self, x, y, y_pred, keras.tree.map_structure(torch.clone, weights))
        flat = keras.tree.flatten(weights)
        return loss, example_losses.shares_of_examples(self, flat, _gradients(loss, flat, again=True), batch)


def _gradients(total: Tensor, sources: Nested, again: bool = False) -> Nested:
    """The gradients of `total` by `sources`, None where there is none.

    Args:
        total: scalar tensor.
        sources: structure of tensors.
        again: whether the graph is to be kept, to be differentiated once more.
    """
    flat = keras.tree.flatten(sources)
    found = [None] * len(flat)
    if flat and total.requires_grad:
        found = torch.autograd.grad(total, flat, retain_graph=again, allow_unused=True)
    return keras.tree.pack_sequence_as(sources, found)
