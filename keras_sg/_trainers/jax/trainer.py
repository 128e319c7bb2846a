"""The training step of `DecoupledModel` on JAX."""

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import keras
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces.step import GradientPrediction, Pair
from keras_sg._trainers import batches, common, example_losses, feedback
from keras_sg._trainers.jax.periods import JaxPeriodicUpdates
from keras_sg._trainers.jax.step import JaxStep
from keras_sg._trainers.pairs import gradient_pairs, inner_pairs
from keras_sg._trainers.reports import Measures
from keras_sg._trainers.trained import Model
from keras_sg._types import Logs, Nested, Tensor, Variable

State = tuple[list[Tensor], ...]


class JaxTrainer(Model):
    """Mixed into `DecoupledModel`. Keras's own training step, and around it:

    labels on the way in, one backward pass for the modules, the synthesizers and the targets,
    and the pairs (prediction, target) to the model's metrics on the way out.

    A `state` is, as in Keras's own, a tuple of four lists: the values of the trainable and of the
    other variables, of the optimizer's and of the metrics'.
    """

    train_function: Any

    def make_train_function(self, force: bool = False) -> None:
        before = self.train_function
        if self.runner is not None:
            self.train_function = self._in_modules
            return
        super().make_train_function(force)
        if self.train_function is not before and any(interface.needed_label for interface in self.interfaces):
            train = self.train_function
            self.train_function = lambda state, iterator: train(state, map(self._with_known_labels, iterator))

    def _in_modules(self, state: State, iterator: Any) -> tuple[Logs, State]:
        """Take `steps_per_execution` batches, one by one."""
        at_once = _keras.batches_of(next(iterator), self.steps_per_execution)
        others = itertools.islice(iterator, self.steps_per_execution - len(at_once))
        for data in itertools.chain(at_once, others):
            logs, state = self.runner.step(state, data)
        return logs, state

    def land(self) -> None:
        """Wait for what is in flight, and give the variables their values."""
        self.jax_state_sync()

    def jax_state_sync(self) -> None:
        """Give the variables their values, as Keras's own does; before that, wait for what is in flight."""
        self._fetch()
        super().jax_state_sync()

    def state_sync(self) -> None:
        """What Keras from 3.16 on calls in the place of `jax_state_sync`."""
        self._fetch()
        super().state_sync()

    def _fetch(self) -> None:
        state = self.runner.drain() if self.runner is not None else None
        if state is not None:
            _keras.set_state(self, state)

    def _with_known_labels(self, data: Nested) -> Nested:
        """What is on its way into the compiled step, which cannot say what is wrong with labels."""
        if not self.labels_are_checked:
            targets = lambda batch: keras.utils.unpack_x_y_sample_weight(batch)[1]
            for y in _keras.batches_of(data, self.steps_per_execution, targets):
                leaves = keras.tree.flatten(y)
                if all(getattr(leaf, "is_fully_addressable", True) for leaf in leaves):
                    batches.check_labels(self, y)
        return data

    def train_step(self, state: State, data: Nested) -> tuple[Logs, State]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch, periods = common.batch_size(x), JaxPeriodicUpdates(self, state[2])
        options: dict[str, Any] = {**common.given(self, x, y, sample_weight), "updates": periods}
        new_step = functools.partial(JaxStep, **options)
        step: Any = None
        pairs: list[Pair] = []

        def descend(trainable: list[Tensor], taps: list[Tensor]) -> tuple[Tensor, Any]:
            nonlocal step, pairs
            step = new_step(taps=taps)
            with self._scope((trainable, *state[1:])) as scope:
                y_pred = self(x, training=True, decoupled_step=step)
                if step.fits_loss:
                    loss, example_loss = self._loss_per_example(x, y, y_pred, sample_weight, batch)
                else:
                    loss, example_loss = _keras.compute_loss(self, x, y, y_pred, sample_weight), None
                pairs = inner_pairs(step, example_loss, self.optimizer.scale_loss(1.0))
                fed = feedback.fed_back(self, step, x, y, y_pred, sample_weight)
                total = self.optimizer.scale_loss(sum(fed, loss + sum(pair.loss for pair in pairs)))
            predictions = [(met.synthetic, met.weight) for met in step.gradients]
            return total, (self._values(scope), loss, y_pred, predictions, [pair[1:] for pair in pairs])

        taps = self._taps(state, x, new_step())
        (updates, arrived), found = jax.grad(descend, argnums=(0, 1), has_aux=True)(state[0], taps)
        values, loss, y_pred, predictions, learned = found

        common.warn_of_idle(self, step)
        pairs = [Pair(pair.interface, *values) for pair, values in zip(pairs, learned)]
        met = _outside(step.gradients, predictions)
        pairs += gradient_pairs(met, list(zip(arrived[::2], arrived[1::2])))
        after = (state[0], values[1], state[2], values[3])
        return self._end_step(after, periods, updates, loss, self.measured(pairs), data, y_pred)

    def finish(
        self,
        state: State,
        updates: list[Tensor | None],
        fixed: list[Tensor | None],
        metrics: list[Tensor | None],
        losses: list[Tensor],
        measures: Measures,
        data: Nested,
        y_pred: Nested,
    ) -> tuple[Logs, State]:
        """End a step that modules have taken one by one: update the weights, and report.

        Args:
            state: that before the step.
            updates: gradients of the trainable variables, in their order; None where there is none.
            fixed, metrics: values of the other variables and of the metrics', None where they did not move.
            losses: shares of the training loss.
            measures: what there is to report of the synthesizers.
            data: the batch.
            y_pred: the model's outputs.
        """
        moved = [
            [old if new is None else new for old, new in zip(values, news)]
            for values, news in ((state[1], fixed), (state[3], metrics))
        ]
        periods = JaxPeriodicUpdates(self, state[2])
        after = (state[0], moved[0], state[2], moved[1])
        return self._end_step(after, periods, updates, sum(losses), measures, data, y_pred)

    def _end_step(
        self,
        state: State,
        periods: JaxPeriodicUpdates,
        updates: list[Tensor | None],
        loss: Tensor,
        measures: Measures,
        data: Nested,
        y_pred: Nested,
    ) -> tuple[Logs, State]:
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        batch = common.batch_size(x)
        trainable, optimizer_values = periods.apply(state[2], updates, state[0])
        with self._scope((trainable, state[1], optimizer_values, state[3])) as scope:
            _keras.track_loss(self, loss, batch)
            self.report(measures, batch)
            logs = self.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
        return logs, self._values(scope)

    def _scope(self, state: State) -> keras.StatelessScope:
        """A scope in which the model's variables have the values of a state."""
        pairs = [pair for owned, values in zip(self.owned_variables(), state) for pair in zip(owned, values)]
        return keras.StatelessScope(pairs, collect_losses=True)

    def _values(self, scope: keras.StatelessScope) -> State:
        """The state at the end of a scope."""
        return tuple(
            [scope.get_current_value(variable) for variable in owned] for owned in self.owned_variables()
        )

    def owned_variables(self) -> tuple[list[Variable], ...]:
        """The variables that a state has the values of."""
        optimizer = [] if self.optimizer is None else self.optimizer.variables
        return self.trainable_variables, self.non_trainable_variables, optimizer, self.metrics_variables

    def _taps(self, state: State, x: Nested, step: JaxStep) -> list[Tensor]:
        """Zeros for the tensors that `step` taps, from a call that computes nothing but shapes."""

        def run() -> list[Tensor]:
            with self._scope(state):
                self(x, training=True, decoupled_step=step)
            return step.tapped

        return [ops.zeros(tensor.shape, tensor.dtype) for tensor in jax.eval_shape(run)]

    def _loss_per_example(
        self, x: Nested, y: Nested, y_pred: Nested, sample_weight: Nested, batch: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The training loss, and the loss of each example, `(batch,)`."""
        values = [
            (variable, _keras.uncast(variable)) for owned in self.owned_variables() for variable in owned
        ]

        def loss_of(weights: Nested) -> Tensor:
            with keras.StatelessScope(values):
                return _keras.compute_loss(self, x, y, y_pred, weights)

        weights = example_losses.weights_of_examples(self, y, sample_weight, y_pred)
        flat, derivatives = (keras.tree.flatten(part) for part in (weights, jax.grad(loss_of)(weights)))
        loss = _keras.compute_loss(self, x, y, y_pred, sample_weight)
        return loss, example_losses.shares_of_examples(self, flat, derivatives, batch)

    def make_probe_function(self) -> Callable[..., Any]:
        """A function from a batch, of tensors, to what `interface_gradients` returns, as tensors."""
        probe = self._probe if self.run_eagerly else jax.jit(self._probe)

        def read_and_probe(x: Nested, y: Nested, sample_weight: Nested) -> Any:
            state = tuple([variable.value for variable in owned] for owned in self.owned_variables())
            return probe(state, x, y, sample_weight)

        return read_and_probe

    def _probe(
        self, state: State, x: Nested, y: Nested, sample_weight: Nested
    ) -> dict[str, tuple[Tensor, ...]]:
        options = {**common.given(self, x, y, sample_weight), "probing": True}
        step: Any = None

        def descend(taps: list[Tensor]) -> tuple[Tensor, Any]:
            nonlocal step
            step = JaxStep(taps, **options)
            with self._scope(state):
                y_pred = self(x, training=True, decoupled_step=step)
                loss = _keras.compute_loss(self, x, y, y_pred, sample_weight)
                feedback.probed(self, step, x, y, y_pred, sample_weight)
            total = loss * ops.cast(common.batch_size(x), loss.dtype)
            return total, [(met.synthetic, met.weight) for met in step.gradients]

        taps = self._taps(state, x, JaxStep(**options))
        arrived, predictions = jax.grad(descend, has_aux=True)(taps)
        return common.probed(self, _outside(step.gradients, predictions), arrived)


def _outside(left: list[GradientPrediction], returned: list[tuple[Tensor, Any]]) -> list[GradientPrediction]:
    """Predictions outside of the function that was differentiated.

    What it left behind belongs to the inside of the gradient; what it returned has left it.
    """
    return [
        prediction._replace(synthetic=synthetic, weight=weight)
        for prediction, (synthetic, weight) in zip(left, returned)
    ]
