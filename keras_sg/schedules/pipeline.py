"""What drives a model's workers under `fit`: batches in, ticks, reports and values out."""

import abc
import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from keras_sg import _keras
from keras_sg._modules import Batch, Program, given, part, programs
from keras_sg._modules.engine import compiled, loss_scale, reader
from keras_sg._modules.optimizers import Plan, slots, split
from keras_sg._trainers import batches
from keras_sg._trainers.reports import Measure
from keras_sg._types import Logs, Nested, Tensor, Variable
from keras_sg.schedules.rounds import Rounds
from keras_sg.schedules.schedule import Runner, Schedule, check_modules
from keras_sg.schedules.ticks import Ticks
from keras_sg.schedules.worker import Feed, Report, Values

Share = tuple[keras.optimizers.Optimizer, list[Variable]]


class Engine(NamedTuple):
    """What carries out a schedule: how workers are made, and what their promises are.

    `plan` returns what makes the workers, from the model, its programs and the plans of their shares of the
    optimizer. `fetch` waits for a promise and returns what it promised; `is_there` says whether that takes no
    time.
    """

    plan: Callable[[keras.Model, list[Program], list[Any]], Callable[[], Sequence[Any]]]
    fetch: Callable[[Any], Any]
    is_there: Callable[[Any], bool]


class Pipeline(Runner):
    """Trains a model by workers side by side.

    Args:
        model: the compiled model.
        schedule: the schedule, which says who gets what when.
        engine: what carries it out.
    """

    def __init__(self, model: keras.Model, schedule: "ByWorkers", engine: Engine) -> None:
        self._model, self._schedule, self._engine = model, schedule, engine
        self._programs = programs(model)
        plans = plans_of(model.optimizer, self._programs)
        self._make_workers = engine.plan(model, self._programs, plans)
        self._track = functools.cache(self._compiled_track)
        self._workers: Sequence[Any] = ()
        self._flight: _Flight | None = None
        self._feeding = False  # when a worker that is here reads the model's metrics, nothing is to land

    def _compiled_track(self, k: int, learned: tuple[int, ...]) -> Callable[..., list[Tensor]]:
        """How the model's metrics move by a report of module `k`, in which these interfaces have learned."""
        model, metrics = self._model, list(self._model.metrics_variables)
        keys = [model.key_of(self._programs[k].module.interfaces[at]) for at in learned]

        def track(
            scores: list[Tensor], losses: list[Tensor], measures: list[list[Measure]], size: Tensor
        ) -> list[Tensor]:
            with _keras.scope_with(zip(metrics, scores)) as scope:
                if losses:
                    _keras.track_loss(model, sum(losses), size)
                for key, found in zip(keys, measures):
                    model.report([(key, measure) for measure in found], size)
            return [scope.get_current_value(variable) for variable in metrics]

        return compiled(track, model)

    def step(self, state: Any, data: Nested) -> tuple[Logs, Any]:
        model = self._model
        check_modules(model, f"schedule={self._schedule.name!r}")
        data = keras.tree.map_structure(lambda x: None if x is None else ops.convert_to_tensor(x), data)
        batch = Batch(*keras.utils.unpack_x_y_sample_weight(data))
        if not model.labels_are_checked:
            batches.check_labels(model, batch.y)
        if self._flight is None:
            _keras.make_metrics(model, *batch)
            self._flight = self._begin(state, batch)
        self._feeding = True
        try:
            self._flight.feed(batch)
        except BaseException:
            self._flight.lost = True
            raise
        finally:
            self._feeding = False
        if model.one_batch:
            flight, state = self._flight, self.drain()
            return flight.logs(), state
        return self._flight.logs(), state

    def _begin(self, state: Any, batch: Batch) -> "_Flight":
        model, read = self._model, reader(self._model, state)
        if not self._workers:
            self._workers = self._make_workers()
        loaded = []
        for worker, program in zip(self._workers, self._programs):
            loaded.append(worker.prepare(batch))
            owned = [
                {name: read(found) for name, found in slots(*share).items()}
                for share in shares_of(model.optimizer, program)
            ]
            taught = list(map(read, program.taught))
            state_of = read(program.trained), taught, read(program.fixed), read(program.metrics), owned
            loaded.append(worker.load(Values(*state_of)))
        for promise in loaded:
            if promise is not None:
                self._engine.fetch(promise)
        return _Flight(
            model,
            self._programs,
            self._schedule.ticks(self._workers, self._engine.is_there),
            self._schedule.descending,
            self._engine.fetch,
            self._track,
            state,
        )

    def drain(self) -> Any:
        flight, model = self._flight, self._model
        if flight is None or self._feeding:
            return None
        if flight.lost:  # what is known is what was before it
            self._flight = None
            return flight.state
        try:
            flight.land()
            landed: list[Values] = list(map(self._engine.fetch, [w.values() for w in self._workers]))
        except BaseException:
            flight.lost = True
            raise
        found: list[tuple[Variable, Tensor]] = []
        for program, values in zip(self._programs, landed):
            found += zip([*program.trained, *program.fixed], [*values.trained, *values.fixed], strict=True)
            for owned, new in zip(program.taught, values.taught, strict=True):
                found += zip(owned, new, strict=True)
            for share, state in zip(shares_of(model.optimizer, program), values.slots, strict=True):
                for name, owned in slots(*share).items():
                    found += zip(owned, state[name], strict=True)
        found += flight.scores()
        read = reader(model, flight.state)
        found += [(count, read([count])[0] + flight.length) for count in _counts_around(model)]
        self._flight, self.logs = None, flight.counts()
        if flight.state is None:
            for variable, value in found:
                variable.assign(value)
            return None
        after = {id(variable): value for variable, value in found}
        return tuple(
            [_placed(after.get(id(variable), old), old) for variable, old in zip(owned, values)]
            for owned, values in zip(model.owned_variables(), flight.state)
        )

    def abandon(self) -> None:
        if self._flight is not None:
            self._flight, self._workers = None, ()


class _Pending(NamedTuple):
    """A promised report: asked for in which tick, of which module, and on which batch it ran."""

    tick: int
    k: int
    number: int | None
    promise: Any


class _Flight:
    """Batches in flight, from the first that is fed until all have landed.

    Attributes:
        state: on JAX, the state before it; else None.
        length: how many batches have been fed.
        lost: whether it ended in an error.
    """

    lost = False

    def __init__(
        self,
        model: keras.Model,
        programs: list[Program],
        ticks: Ticks | Rounds,
        descending: Callable[[int, int], Sequence[bool]],
        fetch: Callable[[Any], Any],
        track: Callable[[int, tuple[int, ...]], Callable[..., list[Tensor]]],
        state: Any,
    ) -> None:
        self.state, self._model, self._programs = state, model, programs
        self._ticks, self._descending, self._fetch, self._track = ticks, descending, fetch, track
        read = reader(model, state)
        (before,) = read([_keras.count_of(_keras.single_optimizers(model.optimizer)[-1])])
        self._before = int(ops.convert_to_numpy(before))
        self._scale = float(ops.convert_to_numpy(loss_scale(model, read)))
        self._sizes: list[int] = []
        self._pending: list[_Pending] = []
        self._losses: dict[int, list[Tensor]] = defaultdict(list)
        self._metrics = list(model.metrics_variables)
        self._scores = [ops.copy(value) for value in read(self._metrics)]

    @property
    def length(self) -> int:
        return len(self._sizes)

    def feed(self, batch: Batch) -> None:
        """Take in a batch, and all modules through one tick."""
        inputs = _keras.inputs_of(self._model, batch.x)
        labels = given(self._model, *batch)
        self._sizes.append(int(next(x for x in inputs if x is not None).shape[0]))
        count = self._before + self.length - 1
        descends = self._descending(count, len(self._programs))
        self._advance(
            [
                Feed(
                    count,
                    [inputs[i] for i in program.module.inputs],
                    labels,
                    self._scale,
                    batch if program.last else None,
                    descends[k],
                    program.last or descends[k + 1],
                )
                for k, program in enumerate(self._programs)
            ]
        )

    def land(self) -> None:
        """Go on until nothing is in flight."""
        while self._ticks.busy:
            self._read_reports(finished=True)
            self._advance()
        self._read_reports(finished=True)

    def _advance(self, feeds: list[Feed] | None = None) -> None:
        tick = self._ticks.tick
        self._pending += [_Pending(tick, *report) for report in self._ticks.advance(feeds)]
        self._read_reports()

    def _read_reports(self, finished: bool = False) -> None:
        """Wait for reports: of what was asked for too many ticks ago, or all of them."""
        due = [
            one for one in self._pending if finished or self._ticks.tick - one.tick > self._ticks.ahead(one.k)
        ]
        for one in due:
            self._read_report(one.k, one.number, self._fetch(one.promise))
        taken = set(map(id, due))
        self._pending = [one for one in self._pending if id(one) not in taken]

    def _read_report(self, k: int, number: int | None, report: Report) -> None:
        """Bring the model's metrics up to date with what a module reports of a tick."""
        program = self._programs[k]
        told = dict(zip(map(id, program.metrics), report.metrics))
        self._scores = [told.get(id(v), old) for v, old in zip(self._metrics, self._scores)]
        if number is not None:
            self._losses[number].append(report.loss)
            if program.last:
                self._move_scores(k, number, self._losses.pop(number), {})
        for batch in dict.fromkeys(int(batch) for batch, *_ in report.learned):
            learned = {int(at): found for of, at, found in report.learned if of == batch}
            self._move_scores(k, batch, [], learned)

    def _move_scores(
        self, k: int, batch: int, losses: list[Tensor], learned: dict[int, list[Measure]]
    ) -> None:
        track, size = self._track(k, tuple(learned)), np.asarray(self._sizes[batch], "int32")
        self._scores = list(track(self._scores, losses, list(learned.values()), size))

    def scores(self) -> list[tuple[Variable, Tensor]]:
        """The model's metrics, and their values."""
        return list(zip(self._metrics, self._scores))

    def logs(self) -> Logs:
        """What is known so far of the batches that were fed."""
        with _keras.scope_with(self.scores()):
            found = keras.Model.get_metrics_result(self._model)  # ours would wait for what is in flight
        return {**found, **self.counts()}

    def counts(self) -> Logs:
        """What is reported next to the model's metrics."""
        return {} if self._ticks.max_delay is None else {"dropped_targets": self._ticks.dropped}


class ByWorkers(Schedule):
    """What the schedules have in common by which every module is updated by itself, by a worker."""

    name: str

    @abc.abstractmethod
    def ticks(self, workers: Sequence[Any], is_there: Callable[[Any], bool]) -> Ticks | Rounds:
        """What moves batches through workers; `is_there` says whether what is promised is there."""

    def descending(self, steps: int, modules: int) -> Sequence[bool]:
        """Which of so many modules descend in a step, `steps` after the first."""
        return [True] * modules

    def check(self, model: keras.Model) -> None:
        check_modules(model, f"schedule={self.name!r}")
        modules = part(model)
        optimizer, out = model.optimizer, "Train with schedule='in_turn' or 'together'. Received:"
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "Modules that are updated by themselves cannot share a dynamic loss scale, which all "
                f"gradients of a step move. Use the policy 'mixed_bfloat16', which needs none. {out} "
                f"schedule={self.name!r} and "
                "a LossScaleOptimizer."
            )
        for single in _keras.single_optimizers(optimizer):
            if single.global_clipnorm:
                raise ValueError(
                    "Modules that are updated by themselves know no norm of all gradients. "
                    f"Clip by weight (clipnorm, clipvalue). {out} schedule={self.name!r} and "
                    f"global_clipnorm={single.global_clipnorm} in "
                    f"{single.name!r}."
                )
            if _keras.weights_without_decay(single):
                raise ValueError(
                    f"What {single.name!r} was told to leave out of its weight decay "
                    "(exclude_from_weight_decay) "
                    f"cannot be handed to the modules' shares of it. {out} schedule={self.name!r}."
                )
        for below, above in itertools.pairwise(modules[:-1]):
            lost = [cut.name for cut in below.interfaces if cut.fits_loss]
            if lost and not any(cut.predicts_loss for cut in above.interfaces):
                raise ValueError(
                    f"Interface {lost[0]!r} learns from the next predicted loss, and the next module "
                    f"predicts none. Give both modules interfaces of one kind. {out} schedule={self.name!r}."
                )


class Pipelined(ByWorkers):
    """What the schedules have in common by which modules work side by side.

    Args:
        slack: how many ticks more than one a message may travel.
        max_delay: None, or how many ticks after a module ran a target may be late before it is dropped.
    """

    name = "side_by_side"

    def __init__(self, slack: int = 0, max_delay: int | None = None) -> None:
        least = 2 * (1 + slack) if _is_count(slack) else 2
        if not _is_count(slack):
            raise ValueError(
                "`slack` is how many ticks more than one a message may travel, an integer of at least 0. "
                f"Received: slack={slack!r} (of type {type(slack).__name__})."
            )
        if max_delay is not None and not (_is_count(max_delay) and max_delay >= least):
            raise ValueError(
                "`max_delay` is how many ticks after a module ran a target may be late before it is "
                f"dropped, an integer of at least 2 (1 + slack), {least}, the ticks that messages take; or "
                f"None. Received: max_delay={max_delay!r} (of type {type(max_delay).__name__})."
            )
        self.slack, self.max_delay = slack, max_delay

    def ticks(self, workers: Sequence[Any], is_there: Callable[[Any], bool]) -> Ticks:
        return Ticks(workers, self.slack, self.max_delay, is_there)


def shares_of(optimizer: keras.optimizers.Optimizer, program: Program) -> list[Share]:
    """The optimizers of a module's own weights and of each of its synthesizers', with those they update."""
    return [share for owned in (program.trained, *program.taught) for share in split(optimizer, owned)]


def plans_of(optimizer: keras.optimizers.Optimizer, programs: list[Program]) -> list[list[list[Plan]]]:
    """By module, and by its own weights and each of its synthesizers: plans of its shares of an optimizer."""
    owners = [
        [(program.trained, 1), *zip(program.taught, [cut.update_period for cut in program.module.interfaces])]
        for program in programs
    ]
    periods: dict[int, set[int]] = defaultdict(set)
    for owned, period in itertools.chain(*owners):
        for single, _ in split(optimizer, owned):
            periods[id(single)].add(period)

    def plans(owned: list[Variable]) -> list[Plan]:
        places = {id(variable): i for i, variable in enumerate(owned)}
        return [
            Plan(
                keras.optimizers.serialize(single),
                tuple(places[id(variable)] for variable in own),
                frozenset(periods[id(single)]),
            )
            for single, own in split(optimizer, owned)
        ]

    return [[plans(owned) for owned, _ in group] for group in owners]


def _is_count(number: Any) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number >= 0


def _counts_around(model: keras.Model) -> list[Variable]:
    """The count of steps of an optimizer that wraps others: no module has a share of it."""
    wraps = model.optimizer not in _keras.single_optimizers(model.optimizer)
    return [_keras.count_of(model.optimizer)] if wraps else []


def _placed(value: Tensor, like: Tensor) -> Tensor:
    """A value where another is."""
    import jax

    return value if value is like else jax.device_put(value, like.sharding)
