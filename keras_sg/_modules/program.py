"""The program of one module: what it does with a batch, as two functions of nothing but their arguments.

    run      forward; the gradient of the module's own weights, from what its synthesizers predict; and the
             gradient that arrives at what it took in, the target of the interfaces below
    learn    the gradient of a synthesizer's weights, from such a target and the `h` that it belongs to

At `mix = 1` nothing else crosses an interface backwards. Both are made of what a model's one program is made
of: the module's network is called with a `Step`, its interfaces exchange gradients, and pairs become pairs.
Neither moves a variable: they return gradients and new values, and whoever called them applies those.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg import _keras
from keras_sg._backends import dtypes
from keras_sg._interfaces import weights
from keras_sg._interfaces.interface import Interface
from keras_sg._interfaces.step import Pair, Step
from keras_sg._interfaces.weights import OutputWeight
from keras_sg._modules.engine import differentiate
from keras_sg._modules.parting import Module, part
from keras_sg._optimizers import owners
from keras_sg._trainers import common, example_losses, reports
from keras_sg._trainers.pairs import gradient_pairs, inner_pairs
from keras_sg._types import Nested, Tensor, Variable

Values = list[Tensor]


class Passed(NamedTuple):
    """What passes from one module to the next: a tensor, and Keras's mask of it or None."""

    tensor: Tensor
    mask: Tensor | None


class Given(NamedTuple):
    """What a batch hands to every module: labels, and by output of the model the weights of its examples.

    Of a weight without a value, all examples count once. `inputs` is the model's input, where interfaces are
    predicted from it, else None.
    """

    labels: Nested
    weights: tuple[Tensor | None, ...]
    inputs: Tensor | None


def given(model: keras.Model, x: Nested, y: Nested, sample_weight: Nested) -> Given:
    """What a batch hands to every module of a model.

    Args:
        model: the compiled `DecoupledModel`.
        x, y, sample_weight: of the batch, as `fit` received them, in tensors.
    """
    found = common.given(model, x, y, _copied(sample_weight))
    conditional = any(interface.needed_label for interface in model.interfaces)
    weights = tuple(w.value for w in found["weights"])
    return Given(found["labels"] if conditional else None, weights, found["inputs"])


def _copied(weights: Nested) -> Nested:
    """Sample weights that nobody else has: on PyTorch, Keras multiplies those that a loss takes in place."""
    return keras.tree.map_structure(lambda weight: None if weight is None else ops.copy(weight), weights)


class Batch(NamedTuple):
    """What only the last module sees of a batch, as `fit` received it."""

    x: Nested
    y: Nested
    sample_weight: Nested


class Held(NamedTuple):
    """Values of a program's variables but for those that `run` descends, in the order of its attributes.

    `taught` has a list for each of the module's interfaces.
    """

    taught: list[Values]
    fixed: Values
    metrics: Values


class Entering(NamedTuple):
    """What enters a module with a batch.

    `inputs` are the inputs of the model that the module takes, `below` is what comes from the module below,
    `given` are labels and weights; `batch` is for the last module, None for others.
    """

    inputs: Values
    below: list[Passed]
    given: Given
    batch: Batch | None


class Ran(NamedTuple):
    """What `run` returns.

    `outputs` are what enters the next module: the tensors at the interfaces, or what is predicted of them
    from the model's input, and then `met` has the tensor itself, else None. `values` are the losses predicted
    there (`(batch,)`, None at an interface that predicts none), `predicted` the gradients that were predicted
    of nothing but a gradient (else None). `arrived` are the gradients at what came from the module below,
    in its dtypes, None where nobody needs it. `updates` are the gradients of the weights, `fixed` and
    `metrics` the values of other variables, None of those that did not move; `loss` the module's share of the
    training loss, unscaled. The last module has the model's outputs, `y_pred`, their masks in a list, and
    where a synthetic loss is to learn from it, the loss of each example.
    """

    outputs: list[Passed]
    met: list[Passed | None]
    values: list[Tensor | None]
    predicted: list[Tensor | None]
    arrived: list[Tensor | None]
    updates: list[Tensor | None]
    fixed: list[Tensor | None]
    metrics: list[Tensor | None]
    loss: Tensor
    y_pred: Nested
    masks: list[Tensor | None]
    example_loss: Tensor | None

    @property
    def at_interfaces(self) -> list[Passed]:
        """The tensors at the module's interfaces, which synthesizers learn of."""
        return [passed if met is None else met for passed, met in zip(self.outputs, self.met)]


class Common(NamedTuple):
    """What the programs of a model's modules have in common.

    `shares` says of each output of the model what its loss is multiplied by, `ignored` which classes stand
    for "no label", `reached` by the id of an interface which outputs it leads to, and `fits_losses` whether
    an interface of the model learns from the loss of each example.
    """

    shares: tuple[float, ...]
    ignored: tuple[int, ...]
    reached: Mapping[int, Sequence[int]]
    fits_losses: bool


class Program:
    """What one module does with a batch.

    Args:
        module: the module.
        needed: by tensor from the module below, whether the gradient that arrives there is needed.
        common: what all modules of the model know.
        head: the compiled model that the loss and the metrics are those of; of the last module only.

    Attributes:
        trained: list of the module's variables that are trained, those of synthesizers not among them.
        taught: by interface, the list of the trained variables of what predicts there.
        fixed: list of all other variables of the module.
        needed: as given.
    """

    def __init__(
        self, module: Module, needed: tuple[bool, ...], common: Common, head: keras.Model | None
    ) -> None:
        self.module, self.network, self.head = module, module.network, head
        self.needed, self._common = needed, common
        trainable = self.network.trainable_variables
        self.trained = [variable for variable in trainable if not owners.of_synthesizer(variable)]
        self.taught = [
            [variable for part in interface.predictors for variable in part.trainable_variables]
            for interface in module.interfaces
        ]
        self.fixed = list(self.network.non_trainable_variables)

    @functools.cached_property
    def metrics(self) -> list[Variable]:
        """The variables of the metrics that it updates, which are made before the first step."""
        if self.head is None:
            return list(self.network.metrics_variables)
        return _keras.metrics_of_batches(self.head, getattr(self.head, "interface_metrics", ()))

    @property
    def last(self) -> bool:
        """Whether this is the module that ends in the loss."""
        return not self.module.interfaces

    def run(self, trained: Values, held: Held, entering: Entering, scale: Tensor) -> Ran:
        """One batch through the module and back.

        Args:
            trained: values of the variables that are trained, in the order of the attribute.
            held: those of the others.
            entering: the batch, as it enters the module.
            scale: what the optimizer multiplies losses by, a scalar.
        """
        below = entering.below
        sources = [passed.tensor for passed, needed in zip(below, self.needed) if needed]

        def descend(sources: Values) -> tuple[Tensor, Any]:
            values, arriving = sources[: len(trained)], iter(sources[len(trained) :])
            taken = [
                passed._replace(tensor=next(arriving)) if needed else passed
                for passed, needed in zip(below, self.needed)
            ]
            step = self._step(entering.given)
            ran = self._forward(step, values, held, entering._replace(below=taken))
            self._check_met(step)
            return ran.loss * scale, ran

        gradients, ran = differentiate(descend, [*trained, *sources])
        arriving = iter(gradients[len(trained) :])
        arrived = [next(arriving) if needed else None for needed in self.needed]
        return ran._replace(arrived=arrived, updates=gradients[: len(trained)])

    def pass_on(self, trained: Values, held: Held, entering: Entering) -> Ran:
        """One batch through the module, and not back: nothing is exchanged, and nothing arrives below.

        Args:
            trained, held, entering: as for `run`.

        Returns:
            As `run` does, without what is found on the way back or at an interface: `arrived` and `updates`
            are empty, `values` and `predicted` None for each interface, and so is `example_loss`.
        """
        step = self._step(entering.given, forward_only=True)
        constant = list(map(ops.stop_gradient, trained))  # PyTorch keeps nothing for a way back then
        return self._forward(step, constant, held, entering)

    def _forward(self, step: Step, trained: Values, held: Held, entering: Entering) -> Ran:
        """One batch through the module: what `run` returns, but for what is found on the way back."""
        inputs, below, _, batch = entering
        taken = [_keras.with_mask(*passed) for passed in below]
        with self._scope(trained, held) as scope:
            states = [*self.fixed, *self.metrics]
            before = [scope.get_current_value(variable) for variable in states]
            found = self.network([*inputs, *taken], training=True, decoupled_step=step)
            losses = self.network.losses
            example_loss, loss = None, sum(map(ops.sum, losses), 0.0)
            if batch is not None:
                fits = self._common.fits_losses and not step.forward_only
                loss, example_loss = self._loss(batch, found, losses, held.metrics, fits)
        after = [scope.get_current_value(variable) for variable in states]
        moved = [None if new is old else new for new, old in zip(after, before)]
        outputs = [] if self.last else [Passed(h, _keras.mask_of(h)) for h in keras.tree.flatten(found)]
        values_of = {id(met.interface): ops.stop_gradient(met.value) for met in step.losses}
        gradients_of = {id(met.interface): ops.stop_gradient(met.synthetic) for met in step.gradients}
        interfaces = list(map(id, self.module.interfaces))
        replaced = {id(met.interface): met.h for met in step.synthetic_inputs}
        behind = [
            Passed(replaced[key], passed.mask) if key in replaced else None
            for key, passed in zip(interfaces, outputs)
        ]
        # On JAX, Keras's metrics do not see the masks of outputs: they do not leave a gradient with them.
        seen = self.last and keras.backend.backend() != "jax"
        return Ran(
            outputs=outputs,
            met=behind,
            values=list(map(values_of.get, interfaces)),
            predicted=[None if key in values_of else gradients_of.get(key) for key in interfaces],
            arrived=[],
            updates=[],
            fixed=moved[: len(self.fixed)],
            metrics=moved[len(self.fixed) :],
            loss=loss,
            y_pred=found if self.last else None,
            masks=list(map(_keras.mask_of, keras.tree.flatten(found))) if seen else [],
            example_loss=example_loss,
        )

    def learn(
        self,
        at: int,
        taught_values: Values,
        fixed: Values,
        h: Passed,
        given: Given,
        arrived: Tensor | None,
        value: Tensor | None,
        scale: Tensor,
        predicted: Tensor | None = None,
        rest: bool = False,
    ) -> tuple[list[Tensor | None], list[reports.Measure]]:
        """What the synthesizer of an interface learns from the target that comes from above.

        Args:
            at: index of the interface in the module.
            taught_values: values of the synthesizer's trained variables.
            fixed: values of the module's other variables, as they were before `run` on this batch.
            h: the interface in that batch.
            given: its labels and weights.
            arrived: the gradient that arrived at `h`, or None where the synthesizer regresses on none.
            value: the loss that comes from above, `(batch,)`, or None where it predicts none.
            scale: what the optimizer multiplies losses by, a scalar.
            predicted: what the synthesizer predicted of nothing but a gradient, with the same values; None to
                have it predict. A compiler then leaves out what the pair does not need of that.
            rest: whether the synthesizer rests, and is only measured.

        Returns:
            Tuple of the gradients of the synthesizer's variables and what there is to report.
        """
        interface = self.module.interfaces[at]
        taught_variables = self.taught[at]

        def descend(values: Values) -> tuple[Tensor, Any]:
            step = self._step(given)
            with _keras.scope_with([*zip(taught_variables, values), *zip(self.fixed, fixed)]):
                interface.meet(_keras.with_mask(h.tensor, h.mask), step)
                own = [loss for part in interface.predictors for loss in part.losses]
            (met,) = step.gradients
            pairs: list[Pair] = inner_pairs(step, value, scale)
            total = scale * sum(map(ops.sum, own), 0.0)
            total += scale * sum((ops.cast(pair.loss, scale.dtype) for pair in pairs), 0.0)
            synthetic = met.synthetic if predicted is None else predicted
            constant = met._replace(synthetic=ops.stop_gradient(synthetic))
            for pair in gradient_pairs([constant], [(arrived, scale)]):
                # What the prediction receives is the pair's signal; the value of this says nothing.
                total += ops.sum(ops.cast(met.synthetic * pair.signal, dtypes.wide(pair.signal.dtype)))
                pairs.append(pair)
            return total, [reports.measure(pair) for pair in pairs]

        if rest or not taught_variables:
            return [None for _ in taught_variables], descend(taught_values)[1]
        return differentiate(descend, taught_values)

    def _step(self, given: Given, forward_only: bool = False) -> Step:
        found = [OutputWeight(value, share) for value, share in zip(given.weights, self._common.shares)]
        return Step(
            given.labels,
            ignored=self._common.ignored,
            weights=found,
            reached=self._common.reached,
            forward_only=forward_only,
            inputs=given.inputs,
        )

    def _scope(self, trained: Values, held: Held) -> Any:
        synthesizers = [pair for own, values in zip(self.taught, held.taught) for pair in zip(own, values)]
        pairs = [*zip(self.trained, trained), *synthesizers, *zip(self.fixed, held.fixed)]
        return _keras.scope_with([*pairs, *zip(self.metrics, held.metrics)])

    def _loss(
        self, batch: Batch, y_pred: Nested, losses: Values, metrics: Values, of_examples: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The last module's share of the training loss, and the loss of each example, if it is needed."""
        sample_weight = _copied(batch.sample_weight) if of_examples else batch.sample_weight
        with _keras.adding(self.head, losses):
            loss = _keras.compute_loss(self.head, batch.x, batch.y, y_pred, sample_weight)
        if not of_examples:
            return loss, None
        constant = keras.tree.map_structure(lambda y: _keras.copy_mask(y, ops.stop_gradient(y)), y_pred)
        ones = example_losses.weights_of_examples(self.head, batch.y, batch.sample_weight, constant)

        def loss_of(flat: Values) -> tuple[Tensor, Any]:
            packed = _copied(keras.tree.pack_sequence_as(ones, flat))
            with _keras.scope_with(zip(self.metrics, metrics)), _keras.adding(self.head, []):
                return _keras.compute_loss(self.head, batch.x, batch.y, constant, packed), ()

        flat = keras.tree.flatten(ones)
        derivatives, _ = differentiate(loss_of, flat)
        examples = common.batch_size(keras.tree.flatten(y_pred))
        return loss, example_losses.shares_of_examples(self.head, flat, derivatives, examples)

    def _check_met(self, step: Step) -> None:
        """Raise `ValueError` unless the module's interfaces took part in its forward pass."""
        met = {id(prediction.interface) for prediction in step.gradients}
        idle = [interface.name for interface in self.module.interfaces if id(interface) not in met]
        if idle:
            raise ValueError(
                f"The interfaces {idle} took no part in the training step: called with training=False, or "
                "with a call of their own, they let true gradients pass, for which a module that runs by "
                "itself does not wait. Leave the call as it is, or train with schedule='together'."
            )


def held_by(program: Program, read: Callable[[list[Variable]], Values]) -> Held:
    """The values of a program's variables but for those that it descends; `read` has those of a list."""
    return Held(list(map(read, program.taught)), read(program.fixed), read(program.metrics))


def common_of(model: keras.Model) -> Common:
    """What the programs of a compiled model's modules have in common."""
    return Common(
        shares=tuple(share for _, share in _keras.losses_of_outputs(model)),
        ignored=weights.ignored(model),
        reached={key: sorted(found) for key, found in model.outputs_of_interfaces.items()},
        fits_losses=any(interface.fits_loss for interface in model.interfaces),
    )


def programs(model: keras.Model) -> list[Program]:
    """The programs of a compiled model's modules, in their order."""
    modules, common = part(model), common_of(model)
    below: list[tuple[Interface, ...]] = [(), *(module.interfaces for module in modules)]
    return [
        Program(module, needed_of(interfaces), common, None if module.interfaces else model)
        for module, interfaces in zip(modules, below)
    ]


def needed_of(below: Sequence[Interface]) -> tuple[bool, ...]:
    """By interface of the module below, whether the gradient that arrives there is needed."""
    return tuple(interface.fits_gradient for interface in below)
