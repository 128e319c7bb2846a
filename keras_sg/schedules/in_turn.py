"""In turn: module after module, on one device.

    run(0), run(1), learn(0), run(2), learn(1), ...

Whatever a module keeps for its backward pass is freed before the next one runs, so the memory that training
needs is that of the largest module, not of all. Every part reads the weights from before the batch, and all
updates are made at its end: the numbers are those of one program for the whole network.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from keras_sg import _keras, batches
from keras_sg.interface import Interface
from keras_sg.modules import Batch, Given, Passed, given, part, programs
from keras_sg.modules.engine import compiled, loss_scale, reader
from keras_sg.reports import Measure
from keras_sg.schedules.schedule import Runner, Schedule, check_modules
from keras_sg.types import Logs, Nested, Tensor, Variable


class InTurn(Schedule):
    """Module after module on one device, in less memory than one program for all needs.

    The string id is `"in_turn"`. What it trains is what `"together"` trains, batch for batch.

    Example:

    ```python
    import keras, keras_sg
    import numpy as np

    inputs = keras.Input((8,))
    hidden = keras_sg.SyntheticGradient(keras.layers.Dense(16, activation="relu"))(inputs)
    model = keras_sg.DecoupledModel(inputs, keras.layers.Dense(1)(hidden))
    model.compile("adam", "mse", schedule="in_turn")
    model.fit(np.ones((32, 8)), np.ones((32, 1)), verbose=0)
    ```

    References:
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2 (update unlocking).
    """

    def check(self, model: keras.Model) -> None:
        check_modules(model, "in_turn")
        part(model)

    def start(self, model: keras.Model) -> Runner:
        check_modules(model, "in_turn")
        return _Turns(model)


class _Batch(NamedTuple):
    """What the parts of a step share."""

    read: Callable[[list[Variable]], list[Tensor]]
    count: int  # of steps before this one
    scale: Tensor
    inputs: list[Tensor]
    labels: Given
    whole: Batch

    def rests(self, interface: Interface) -> bool:
        return self.count % interface.update_period != 0


class _Lesson(NamedTuple):
    """What one synthesizer is to learn: `arrived` and `value` are what has come from above."""

    k: int
    at: int
    interface: Interface
    h: Passed
    arrived: Tensor | None
    value: Tensor | None = None

    @property
    def ready(self) -> bool:
        return self.value is not None or not self.interface.predicts_loss


class _Found:
    """What the parts of a step have found: by the id of a variable its gradient, or its new value."""

    def __init__(self) -> None:
        self._values: dict[int, Tensor | None] = {}
        self.losses: list[Tensor] = []
        self.measures: list[list[Measure]] = []
        self.met: list[Interface] = []

    def add(self, variables: list[Variable], values: list[Tensor | None]) -> None:
        self._values.update(zip(map(id, variables), values))

    def of(self, variables: list[Variable]) -> list[Tensor | None]:
        return [self._values.get(id(variable)) for variable in variables]


class _Turns(Runner):
    """Trains a model by `InTurn`."""

    def __init__(self, model: keras.Model) -> None:
        self._model, self._programs = model, programs(model)
        self._run = [compiled(program.run, model) for program in self._programs]
        self._learn = functools.cache(self._compiled_lesson)
        self._finish = functools.cache(self._compiled_finish)
        self._rests = any(interface.update_period > 1 for interface in model.interfaces)

    def _compiled_lesson(self, k: int, at: int, rest: bool) -> Callable[..., Any]:
        return compiled(functools.partial(self._programs[k].learn, at, rest=rest), self._model)

    def _compiled_finish(self, keys: tuple[str, ...], rests: tuple[bool, ...]) -> Callable[..., Any]:
        """The end of a step, by the order in which synthesizers learn, and which of them rest."""

        def finish(state: Any, found: tuple[Any, ...], measures: list[list[Measure]], *batch: Any) -> Any:
            reported = [(key, one) for key, measured in zip(keys, measures) for one in measured]
            return self._model.finish(state, *found, reported, *batch)

        return compiled(finish, self._model, donated=(0,))

    def step(self, state: Any, data: Nested) -> tuple[Logs, Any]:
        model, batch = self._model, self._prepared(state, data)
        found = _Found()
        below: list[Passed] = []
        waiting: list[_Lesson] = []
        for k, program in enumerate(self._programs):
            ran = self._run[k](
                batch.read(program.trained),
                list(map(batch.read, program.taught)),
                batch.read(program.fixed),
                batch.read(program.metrics),
                [batch.inputs[i] for i in program.module.inputs],
                below,
                batch.labels,
                batch.scale,
                batch.whole if program.last else None,
            )
            found.add(program.trained, ran.updates)
            found.add(program.fixed + program.metrics, ran.fixed + ran.metrics)
            found.losses.append(ran.loss)
            if k:
                cuts = self._programs[k - 1].module.interfaces
                waiting += [
                    _Lesson(k - 1, *lesson) for lesson in zip(range(len(cuts)), cuts, below, ran.arrived)
                ]
            values = [ran.example_loss] if program.last else ran.values
            for value in values:
                if value is not None:
                    waiting = [lesson._replace(value=value) for lesson in waiting]
            below, y_pred = ran.outputs, ran.y_pred
            del ran
            for lesson in waiting:
                if lesson.ready:
                    self._teach(lesson, batch, found)
            waiting = [lesson for lesson in waiting if not lesson.ready]
        return self._finish(tuple(map(model.key_of, found.met)), tuple(map(batch.rests, found.met)))(
            state,
            (
                found.of(model.trainable_variables),
                found.of(model.non_trainable_variables),
                found.of(model.metrics_variables),
                found.losses,
            ),
            found.measures,
            batch.whole,
            y_pred,
        )

    def _prepared(self, state: Any, data: Nested) -> _Batch:
        model = self._model
        check_modules(model, "in_turn")
        data = keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_tensor(x), data)
        batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
        if not model.labels_are_checked:
            batches.check_labels(model, batch.y)
        _keras.make_metrics(model, *batch)
        read = reader(model, state)
        count = int(ops.convert_to_numpy(*read([model.optimizer.iterations]))) if self._rests else 0
        labels = given(model, batch.y, batch.sample_weight)
        return _Batch(read, count, loss_scale(model, read), _keras.inputs_of(model, batch.x), labels, batch)

    def _teach(self, lesson: _Lesson, batch: _Batch, found: _Found) -> None:
        """Have a synthesizer learn, or, in a step in which it rests, measure it and hold its state."""
        k, at, interface, h, arrived, value = lesson
        program, synthesizer = self._programs[k], interface.synthesizer
        rest = batch.rests(interface)
        updates, measures = self._learn(k, at, rest)(
            batch.read(program.taught[at]),
            batch.read(program.fixed),
            h,
            batch.labels,
            arrived,
            value if interface.predicts_loss else None,
            batch.scale,
        )
        found.add(program.taught[at], updates)
        if rest:
            found.add(held := synthesizer.non_trainable_variables, [None] * len(held))
        found.met.append(interface)
        found.measures.append(measures)
