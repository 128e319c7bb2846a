"""One module at work by itself: its values, its shares of the optimizer, what it keeps of batches."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sg import _keras
from keras_sg._modules import Batch, Entering, Given, Passed, Program, held_by
from keras_sg._modules.engine import applied, compiled, descending
from keras_sg._modules.optimizers import Part, Plan
from keras_sg._trainers.reports import Measure
from keras_sg._types import Nested, Tensor, Variable
from keras_sg.schedules.ticks import Told

Learned = list[tuple[int, int, list[Measure]]]


class Feed(NamedTuple):
    """What a module is to know of a batch, apart from what the module below passes on.

    `steps` is the number of steps before the batch, `scale` what the optimizer multiplies losses by; `batch`
    is for the last module only. `descends` says whether the module goes back through it and is updated,
    `taught` whether its synthesizers learn of it, from the module above.
    """

    steps: int
    inputs: list[Tensor]
    given: Given
    scale: float
    batch: Batch | None
    descends: bool = True
    taught: bool = True


class Report(NamedTuple):
    """What a module reports of a tick.

    `loss` is its share of the training loss of the batch that it ran, None if it ran none; `learned` the
    batch, the interface's index and the measures of each lesson; `metrics` the values of its metrics.
    """

    loss: Tensor | None
    learned: Learned
    metrics: list[Tensor]


class Values(NamedTuple):
    """The values of all that a worker moves, in the order of its program's variables and its parts' slots."""

    trained: list[Tensor]
    taught: list[list[Tensor]]
    fixed: list[Tensor]
    metrics: list[Tensor]
    slots: list[dict[str, list[Tensor]]]


class _Kept(NamedTuple):
    """What a synthesizer's lesson needs of the batch that it is about."""

    feed: Feed
    outputs: list[Passed]
    fixed: list[Tensor]


class ModuleWorker:
    """Runs one module: a `keras_sg.schedules.ticks.Worker`.

    On JAX it holds the values of all variables itself, elsewhere the variables do.

    Args:
        program: the module's.
        plans: of its shares of the optimizers: of the module's own weights, and of each of its synthesizers.
        model: what says how to compile: its `jit_compile` and `run_eagerly`.
        device: on JAX, the device to work on; None for the default.
    """

    def __init__(
        self,
        program: Program,
        plans: Sequence[Sequence[Plan]],
        model: keras.Model,
        device: Any = None,
    ) -> None:
        self.program, self._device = program, device
        owned = [program.trained, *program.taught]
        self.parts = [
            [Part(plan, variables) for plan in group] for variables, group in zip(owned, plans, strict=True)
        ]
        self._now: dict[int, Tensor] = {}
        self._kept: dict[int, _Kept] = {}
        self._run = self._descent(_run(program), program.trained, self.parts[0], model)
        self._learn = {
            (at, rest): self._descent(_lesson(program, at, rest), taught, self.parts[1 + at], model)
            for at, taught in enumerate(program.taught)
            for rest in (False, True)
        }
        self._pass_on = compiled(program.pass_on, model)
        self._measure = compiled(self._measured, model)
        self._local = [at for at, interface in enumerate(program.module.interfaces) if interface.local]

    def _descent(
        self, function: Callable[..., Any], variables: list[Variable], parts: list[Part], model: keras.Model
    ) -> Callable[..., Any]:
        """A function of some weights and more, which moves them by the gradients that `function` returns.

        Args:
            function: from their values, and more, to their gradients and whatever else it finds.
            variables, parts: the weights, and the shares of the optimizers that update them.
            model: what says how to compile.

        Returns:
            A function of that "more", which returns whatever else was found.
        """
        if keras.backend.backend() == "jax":
            descend = compiled(descending(function, variables, parts), model, donated=(0, 1))
            states = [part.optimizer.variables for part in parts]

            def moved(*args: Any) -> Any:
                found, *new = descend(self._read(variables), list(map(self._read, states)), *args)
                for owned, values in zip([variables, *states], [new[0], *new[1]]):
                    self._write(owned, values)
                return found

            return moved

        run = compiled(function, model)
        applies = [applied(part.optimizer, part.variables, model) for part in parts]

        def moving(*args: Any) -> Any:
            gradients, found = run(self._read(variables), *args)
            slopes = dict(zip(map(id, variables), gradients))
            for part, apply in zip(parts, applies):
                own = [slopes[id(variable)] for variable in part.variables]
                if any(gradient is not None for gradient in own):
                    apply(own)
            return found

        return moving

    def _all_parts(self) -> list[Part]:
        return [part for group in self.parts for part in group]

    # Values

    def _read(self, variables: list[Variable]) -> list[Tensor]:
        if keras.backend.backend() == "jax":
            return [self._now[id(variable)] for variable in variables]
        return [variable.value for variable in variables]

    def _write(self, variables: list[Variable], values: Sequence[Tensor | None]) -> None:
        for variable, value in zip(variables, values, strict=True):
            if value is None:
                continue
            if keras.backend.backend() == "jax":
                self._now[id(variable)] = value
            else:
                variable.assign(value)

    def prepare(self, batch: Batch) -> None:
        """Make what must be there before batches like this one come; the model has made its own."""

    def load(self, values: Values) -> None:
        """Begin anew with these values, and nothing in flight."""
        program = self.program
        self._kept.clear()
        owned = [program.trained, *program.taught, program.fixed, program.metrics]
        given = [values.trained, *values.taught, values.fixed, values.metrics]
        for part, slots in zip(self._all_parts(), values.slots, strict=True):
            for name, variables in part.slots.items():
                owned.append(variables)
                given.append(slots[name])
        for variables, new in zip(owned, given, strict=True):
            self._write(variables, [self._here(value, copied=True) for value in new])

    def values(self) -> Values:
        """What has become of the values."""
        program = self.program
        slots = [
            {name: self._read(variables) for name, variables in part.slots.items()}
            for part in self._all_parts()
        ]
        taught = list(map(self._read, program.taught))
        return Values(
            self._read(program.trained), taught, self._read(program.fixed), self._read(program.metrics), slots
        )

    def _here(self, tensor: Tensor | None, copied: bool = False) -> Tensor | None:
        """A tensor from wherever it is, on this worker's device."""
        if tensor is None:
            return None
        if keras.backend.backend() == "jax":
            import jax

            # What is donated to an update must be nobody else's.
            return jax.device_put(jax.numpy.array(tensor, copy=True) if copied else tensor, self._device)
        # Arrays from other processes cannot be written to, which PyTorch does not like to see.
        return ops.convert_to_tensor(tensor.copy() if isinstance(tensor, np.ndarray) else tensor)

    def _all_here(self, found: Nested) -> Nested:
        return keras.tree.map_structure(self._here, found)

    # Ticks

    def tick(self, run: tuple[int, Any, Feed] | None, learn: tuple[int, Any] | None) -> Told:
        told = self.run(*run) if run is not None else Told(None, None, None)
        return told if learn is None else told._replace(report=self.learn(told.report, *learn))

    def run(self, number: int, below: list[Passed] | None, feed: Feed) -> Told:
        """A tick in which a batch is run; or its first half, after which `learn` is called.

        The heads of local losses learn at once, for nothing comes to them from above. Where the module does
        not descend, they rest with it.
        """
        program = self.program
        below, inputs, given, batch = self._all_here((below or [], feed.inputs, feed.given, feed.batch))
        feed = feed._replace(inputs=[], given=given, batch=None)
        held = held_by(program, self._read)
        entering = Entering(inputs, below, given, batch)
        scale = ops.convert_to_tensor(feed.scale, keras.config.floatx())
        if feed.descends:
            ran = self._run(held, entering, scale)
        else:
            ran = self._pass_on(self._read(program.trained), held, entering)
            self._rest(self.parts[0], feed)
        resting = {
            id(variable)  # statistics and seeds of a synthesizer that rests stay as they are
            for interface in program.module.interfaces
            if _rests(interface, feed) or not (interface.local or feed.taught)
            for part in interface.predictors
            for variable in part.non_trainable_variables
        }
        moved = [None if id(v) in resting else new for v, new in zip(program.fixed, ran.fixed)]
        self._write(program.fixed, moved)
        self._write(program.metrics, ran.metrics)
        if program.last:
            self._write(
                program.metrics, self._measure(self._read(program.metrics), batch, ran.y_pred, ran.masks)
            )
        value = ran.example_loss if program.last else next((v for v in ran.values if v is not None), None)
        kept, learned = _Kept(feed, ran.at_interfaces, held.fixed), []
        if feed.taught and not program.last:
            self._kept[number] = kept
        for at in range(len(program.module.interfaces)):
            local = at in self._local
            if local and feed.descends:
                learned += self._lessons(number, kept, [at])
            elif not (feed.descends if local else feed.taught):
                self._rest(self.parts[1 + at], feed)
        return Told(
            ran.outputs, (ran.arrived, value) if feed.descends else None, self._report(ran.loss, learned)
        )

    def learn(
        self, ran: Report | None, number: int, target: tuple[list[Tensor | None], Tensor | None]
    ) -> Report:
        """A tick's other half: have the synthesizers learn from a target.

        Args:
            ran: the report of the first half, None if no batch is run.
            number: of the batch that the target is of.
            target: what came from the module above.

        Returns:
            The report of the whole tick.
        """
        kept = self._kept.pop(number)
        for old in [other for other in self._kept if other < number]:
            del self._kept[old]  # whose targets were dropped
        taught = [at for at in range(len(self.program.module.interfaces)) if at not in self._local]
        learned = self._lessons(number, kept, taught, *self._all_here(target))
        loss, before = (None, []) if ran is None else (ran.loss, ran.learned)
        return self._report(loss, before + learned)

    def _report(self, loss: Tensor | None, learned: Learned) -> Report:
        return Report(loss, learned, self._read(self.program.metrics))

    def _rest(self, parts: Sequence[Part], feed: Feed) -> None:
        """Have shares of the optimizers count a step in which their weights are left as they are."""
        for part in parts:
            if part.counts(feed.steps):
                count = _keras.count_of(part.optimizer)
                self._write([count], [self._read([count])[0] + 1])

    def _lessons(
        self,
        number: int,
        kept: _Kept,
        taught: Sequence[int],
        arrived: Sequence[Tensor | None] = (),
        value: Tensor | None = None,
    ) -> Learned:
        """Have the synthesizers of these interfaces learn from what came from above of a batch."""
        feed, outputs, fixed = kept
        scale = ops.convert_to_tensor(feed.scale, keras.config.floatx())
        learned = []
        for at in taught:
            interface = self.program.module.interfaces[at]
            rest = _rests(interface, feed)
            measures = self._learn[at, rest](
                fixed,
                outputs[at],
                feed.given,
                arrived[at] if interface.fits_gradient else None,
                value if interface.fits_loss else None,
                scale,
            )
            learned.append((number, at, measures))
            if rest:
                self._rest(self.parts[1 + at], feed)
        return learned

    def _measured(
        self, values: list[Tensor], batch: Batch, y_pred: Nested, masks: list[Tensor | None]
    ) -> list[Tensor]:
        """The values of the metrics after a batch."""
        for output, mask in zip(keras.tree.flatten(y_pred), masks):
            _keras.with_mask(output, mask)
        head: Any = self.program.head
        metrics = self.program.metrics
        # Keras reads all of them, whatever they are; those that see no batch are kept elsewhere.
        all_values = {id(v): (v, ops.zeros(v.shape, v.dtype)) for v in head.metrics_variables}
        all_values.update((id(v), (v, value)) for v, value in zip(metrics, values))
        with _keras.scope_with(all_values.values()) as scope:
            head.compute_metrics(batch.x, batch.y, y_pred, sample_weight=batch.sample_weight)
        return [scope.get_current_value(variable) for variable in metrics]


def _rests(interface: Any, feed: Feed) -> bool:
    return feed.steps % interface.update_period != 0


def _run(program: Program) -> Callable[..., Any]:
    def run(*args: Any) -> tuple[list[Tensor | None], Any]:
        ran = program.run(*args)
        # When lessons come, the synthesizer has moved on, and predicts anew.
        return ran.updates, ran._replace(updates=[], predicted=[])

    return run


def _lesson(program: Program, at: int, rest: bool) -> Callable[..., Any]:
    return functools.partial(program.learn, at, rest=rest)
