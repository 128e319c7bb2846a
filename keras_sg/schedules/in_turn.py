"""In turn: module after module, on one device.

    run(0), run(1), learn(0), run(2), learn(1), ...

Whatever a module keeps for its backward pass is freed before the next one runs, so the memory that training
needs is that of the largest module, not of all. Every part reads the weights from before the batch, and all
updates are made at its end: the numbers are those of one program for the whole network.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sg import _keras
from keras_sg._interfaces.interface import Interface
from keras_sg._modules import (
    Batch,
    Entering,
    Given,
    Passed,
    Program,
    Ran,
    given,
    held_by,
    met_in,
    part,
    programs,
)
from keras_sg._modules.engine import compiled, loss_scale, reader
from keras_sg._trainers import batches
from keras_sg._trainers.reports import Measure
from keras_sg._types import Logs, Nested, Tensor, Variable
from keras_sg.schedules.pipeline import ByWorkers, Engine, Pipeline
from keras_sg.schedules.rounds import Rounds
from keras_sg.schedules.schedule import Runner, check_modules
from keras_sg.schedules.worker import ModuleWorker

RECEIVED = "schedule='in_turn'"  # for errors
END = 0  # in the place of an interface: the model's outputs, and their loss


class InTurn(ByWorkers):
    """Module after module on one device, in less memory than one program for all needs.

    The string id is `"in_turn"`. What it trains is what `"together"` trains, batch for batch.

    With `module_update` below 1 the modules are updated at random: in each step each of them goes back
    through itself, and is updated, with that probability, independently of the others; otherwise it only
    passes on what it makes of the batch, and the work is left out. The synthesizer at an interface learns in
    the steps in which the module above it, from which its target comes, goes back; the head of a `LocalLoss`
    in those in which its own module does. Weights that rest, and what an optimizer keeps of them, stay as
    they are; the optimizer counts every step, so a schedule of its rate takes as long as ever.

    Args:
        module_update: probability in (0, 1], for every module.
        seed: whole number. Which modules are updated in a step depends on it and on the number of steps that
            the optimizer has counted, so that a run that was stopped goes on as it would have.

    Raises:
        ValueError: an argument is not as described. Or, in `compile`: the modules cannot run by themselves;
            with `module_update` below 1, they cannot be updated by themselves.

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
        Jaderberg et al. 2016, https://arxiv.org/abs/1608.05343, section 2 (update unlocking), and its
        experiments with updates at random.
    """

    name = "in_turn"

    def __init__(self, module_update: float = 1.0, seed: int = 0) -> None:
        number = isinstance(module_update, (int, float)) and not isinstance(module_update, bool)
        if not (number and 0 < module_update <= 1):
            raise ValueError(
                "`module_update` is the probability with which a module is updated in a step, above 0 and at "
                f"most 1. Received: module_update={module_update!r} (of type {type(module_update).__name__})."
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise ValueError(
                "`seed` says which modules are updated in which step, an integer of at least 0. Received: "
                f"seed={seed!r} (of type {type(seed).__name__})."
            )
        self.module_update, self.seed = float(module_update), seed
        if module_update < 1:
            self.name = f"in_turn, module_update={module_update}"

    def check(self, model: keras.Model) -> None:
        if self.module_update < 1:
            return super().check(model)
        check_modules(model, RECEIVED)
        part(model)

    def start(self, model: keras.Model) -> Runner:
        self.check(model)
        if self.module_update < 1:
            return Pipeline(model, self, Engine(_here, fetch=lambda found: found, is_there=lambda _: True))
        return Turns(model, programs(model))

    def ticks(self, workers: Sequence[Any], is_there: Callable[[Any], bool]) -> Rounds:
        return Rounds(workers)

    def descending(self, steps: int, modules: int) -> list[bool]:
        drawn = np.random.default_rng([self.seed, steps]).random(modules)
        return [bool(number < self.module_update) for number in drawn]


def _here(model: keras.Model, programs: list[Program], plans: list[Any]) -> Callable[[], list[ModuleWorker]]:
    """What makes the workers of a model's modules, where the model is."""
    return lambda: [ModuleWorker(program, plan, model) for program, plan in zip(programs, plans)]


class Shared(NamedTuple):
    """What the parts of a step share."""

    read: Callable[[list[Variable]], list[Tensor]]
    steps: int  # before this one
    scale: Tensor
    inputs: list[Tensor]
    labels: Given
    whole: Batch

    def rests(self, interface: Interface) -> bool:
        return self.steps % interface.update_period != 0


class TurnLesson(NamedTuple):
    """What the synthesizer at an interface, of module `k` at index `at`, learns from: what arrived at `h`.

    `predicted` is what it had predicted, see `Ran`; None to have it predict anew.
    """

    k: int
    at: int
    h: Passed
    arrived: Tensor | None
    predicted: Tensor | None = None


class Found:
    """What the parts of a step have found.

    Attributes:
        updates: gradients, by the id of the variable.
        moved: new values of other variables, by the id of the variable; None of those that did not move.
        losses: shares of the training loss.
        predicted: losses of examples, by the id of the interface that predicts them; at `END`, the true ones.
        met: interfaces whose synthesizers have learned.
        measures: what there is to report of each of them.
    """

    def __init__(self) -> None:
        self.updates: dict[int, Tensor | None] = {}
        self.moved: dict[int, Tensor | None] = {}
        self.losses: list[Tensor] = []
        self.predicted: dict[int, Tensor | None] = {}
        self.met: list[Interface] = []
        self.measures: list[list[Measure]] = []


def _set(found: dict[int, Tensor | None], variables: list[Variable], values: list[Tensor | None]) -> None:
    found.update(zip(map(id, variables), values))


def _get(found: dict[int, Tensor | None], variables: list[Variable]) -> list[Tensor | None]:
    return [found.get(id(variable)) for variable in variables]


class Turns(Runner):
    """Takes a model's modules through each batch in turn.

    Args:
        model: the compiled model.
        programs: those of its modules, in their order.
    """

    def __init__(self, model: keras.Model, programs: list[Program]) -> None:
        self._model, self._programs = model, programs
        self._compile = functools.partial(compiled, model=model, programs={})
        self._run = [self._compile(program.run) for program in self._programs]
        self._learn = functools.cache(self._compiled_lesson)
        self._finish = functools.cache(self._compiled_finish)
        self._rests = any(interface.update_period > 1 for interface in model.interfaces)
        predicting = [id(interface) for interface in met_in(model) if interface.predicts_loss]
        # By an interface that predicts losses: whose are its targets.
        self._above = dict(zip(predicting, [*predicting[1:], END]))

    def _compiled_lesson(self, k: int, at: int, rest: bool) -> Callable[..., Any]:
        return self._compile(functools.partial(self._programs[k].learn, at, rest=rest))

    def _compiled_finish(self, keys: tuple[str, ...], rests: tuple[bool, ...]) -> Callable[..., Any]:
        """The end of a step, by the order in which synthesizers learn, and which of them rest."""

        def finish(
            state: Any,
            found: tuple[Any, ...],
            measures: list[list[Measure]],
            batch: Batch,
            y_pred: Nested,
            masks: list[Tensor | None],
        ) -> Any:
            reported = [(key, one) for key, measured in zip(keys, measures) for one in measured]
            for output, mask in zip(keras.tree.flatten(y_pred), masks):
                _keras.with_mask(output, mask)
            return self._model.finish(state, *found, reported, batch, y_pred)

        return self._compile(finish, donated=(0,))

    def step(self, state: Any, data: Nested) -> tuple[Logs, Any]:
        batch = self._prepared(state, data)
        found = Found()
        below = met = self._entering(batch)
        predicted: list[Tensor | None] = []
        y_pred: Nested = None
        masks: list[Tensor | None] = []
        waiting: list[TurnLesson] = []
        for k, program in enumerate(self._programs):
            ran = self._run[k](
                batch.read(program.trained),
                held_by(program, batch.read),
                Entering(
                    [batch.inputs[i] for i in program.module.inputs],
                    below,
                    batch.labels,
                    batch.whole if program.last else None,
                ),
                batch.scale,
            )
            _set(found.updates, program.trained, ran.updates)
            _set(found.moved, program.fixed + program.metrics, ran.fixed + ran.metrics)
            found.losses.append(ran.loss)
            interfaces = [*map(id, program.module.interfaces), END]
            found.predicted.update(zip(interfaces, [*ran.values, ran.example_loss]))
            if k:
                found_below = zip(met, ran.arrived, predicted)
                waiting += [TurnLesson(k - 1, at, *each) for at, each in enumerate(found_below)]
            self._leaving(k, ran, batch, found)
            below, met, predicted = ran.outputs, ran.at_interfaces, ran.predicted
            y_pred, masks = ran.y_pred, ran.masks
            del ran  # and with it, what the module below has handed over
            waiting = [lesson for lesson in waiting if not self._taught(lesson, batch, found)]
        return self._ended(state, found, batch, y_pred, masks)

    def _ended(
        self, state: Any, found: Found, batch: Shared, y_pred: Nested, masks: list[Tensor | None]
    ) -> tuple[Logs, Any]:
        """End a step: update what gradients were found of, and report."""
        model = self._model
        return self._finish(tuple(map(model.key_of, found.met)), tuple(map(batch.rests, found.met)))(
            state,
            (
                _get(found.updates, model.trainable_variables),
                _get(found.moved, model.non_trainable_variables),
                _get(found.moved, model.metrics_variables),
                found.losses,
            ),
            found.measures,
            batch.whole,
            y_pred,
            masks,
        )

    def _check(self) -> None:
        """Raise `ValueError` unless the modules can still run by themselves."""
        check_modules(self._model, RECEIVED)

    def _entering(self, batch: Shared) -> list[Passed]:
        """What comes to the first module from one below it."""
        return []

    def _leaving(self, k: int, ran: Ran, batch: Shared, found: Found) -> None:
        """Take note of what module `k` has done."""

    def _prepared(self, state: Any, data: Nested) -> Shared:
        model = self._model
        self._check()
        data = keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_tensor(x), data)
        batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
        if not model.labels_are_checked:
            batches.check_labels(model, batch.y)
        _keras.make_metrics(model, *batch)
        return self._shared(state, batch, _keras.inputs_of(model, batch.x))

    def _shared(self, state: Any, batch: Batch, inputs: list[Tensor]) -> Shared:
        model, read = self._model, reader(self._model, state)
        steps = int(ops.convert_to_numpy(*read([model.optimizer.iterations]))) if self._rests else 0
        labels = given(model, *batch)
        return Shared(read, steps, loss_scale(model, read), inputs, labels, batch)

    def _taught(self, lesson: TurnLesson, batch: Shared, found: Found) -> bool:
        """Have a synthesizer learn, if all has come that it learns from.

        In a step in which it rests, it is measured, and its state is held.
        """
        k, at, h, arrived, predicted = lesson
        program = self._programs[k]
        interface = program.module.interfaces[at]
        value = found.predicted.get(self._above[id(interface)]) if interface.fits_loss else None
        if interface.fits_loss and value is None:
            return False
        rest = batch.rests(interface)
        updates, measures = self._learn(k, at, rest)(
            batch.read(program.taught[at]),
            batch.read(program.fixed),
            h,
            batch.labels,
            arrived,
            value,
            batch.scale,
            predicted,
        )
        _set(found.updates, program.taught[at], updates)
        if rest:
            held = interface.synthesizer.non_trainable_variables  # nothing predicts the interface, then
            _set(found.moved, held, [None] * len(held))
        found.met.append(interface)
        found.measures.append(measures)
        return True
