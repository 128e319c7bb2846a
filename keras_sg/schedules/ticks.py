"""Side by side, as a schedule: which module gets what in which tick.

In tick `t`, module `k` runs batch `t - k T`, on what module `k - 1` wrote `T` ticks before, and its
synthesizers learn from the target of batch `t - k T - 2 T`, which module `k + 1` wrote `T` ticks before;
`T = 1 + slack` is how many ticks a message may travel. In a tick nobody reads what is written in it.

    T = 1        tick 0    tick 1    tick 2    tick 3
    module 0     run 0     run 1     run 2     run 3
                                     learn 0   learn 1
    module 1               run 0     run 1     run 2
                                               learn 0
    module 2                         run 0     run 1

`N` batches take `N + K T` ticks with `K` modules. This file computes nothing and knows no backend: what a
worker returns is a promise, which is handed on unseen.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

Promise = Any


class Told(NamedTuple):
    """What a worker says in a tick, as promises: to the module above, to that below, and in report."""

    above: Promise
    below: Promise
    report: Promise


class Worker(Protocol):
    """One module, wherever it is."""

    def tick(self, run: tuple[int, Promise, Any] | None, learn: tuple[int, Promise] | None) -> Told:
        """Run a batch and learn from a target; both from the weights before the tick.

        Args:
            run: the batch's number, what came from the module below (None for the first), and what the module
                is to know of the batch; or None.
            learn: a batch's number and what came from the module above; or None.
        """


class Ticks:
    """Moves batches through workers, tick by tick.

    Args:
        workers: the modules, in their order.
        slack: how many ticks more than one a message may travel.
        max_delay: None: a synthesizer learns from every target, in the tick in which it is due. Otherwise in
            the first tick in which it is there, at most so many after the module ran; then it is dropped.
        is_there: from a promise to whether what it promises is there; for `max_delay`.

    Attributes:
        tick: how many ticks there have been.
        dropped: how many targets have been dropped.
        max_delay: as given.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        slack: int = 0,
        max_delay: int | None = None,
        is_there: Callable[[Promise], bool] = lambda promise: True,
    ) -> None:
        self._workers, self._travel = workers, 1 + slack
        self.max_delay, self._is_there = max_delay, is_there
        self.dropped = 0
        self.tick, self._fed = 0, 0
        self._batches: dict[tuple[int, int], Any] = {}  # by module and batch
        self._above: dict[tuple[int, int], Promise] = {}  # by the module that reads it, and batch
        self._below: dict[tuple[int, int], Promise] = {}

    @property
    def depth(self) -> int:
        """How many ticks a batch takes from the first module to the last."""
        return (len(self._workers) - 1) * self._travel

    def ahead(self, k: int) -> int:
        """How many ticks may be asked of a module before the oldest must be done.

        Where nobody waits for late targets, the first module sets the pace, and others may fall behind it.
        """
        if self.max_delay is None:
            return 2 + self.depth
        return self.max_delay if k else 1

    @property
    def busy(self) -> bool:
        """Whether something is still to be done with a batch that was fed."""
        return self._fed > 0 and (self.tick < self._fed + self.depth or bool(self._below))

    def advance(self, batch: Sequence[Any] | None = None) -> list[tuple[int, int | None, Promise]]:
        """One tick.

        Args:
            batch: what each module is to know of the next batch; None where none is fed any more.

        Returns:
            List of the promised reports: of which module, on which batch it ran (or None), and the promise.
        """
        if batch is not None:
            self._batches.update({(k, self._fed): part for k, part in enumerate(batch)})
            self._fed += 1
        written: list[tuple[int, int, Told]] = []
        reports = []
        for k, worker in enumerate(self._workers):
            number = self.tick - k * self._travel
            run = None
            if 0 <= number < self._fed:
                run = number, self._above.pop((k, number), None), self._batches.pop((k, number))
            learn = self._due(k, waiting=batch is None)
            if run is None and learn is None:
                continue
            told = worker.tick(run, learn)
            reports.append((k, None if run is None else number, told.report))
            if run is not None:
                written.append((k, number, told))
        for k, number, told in written:
            if k + 1 < len(self._workers):
                self._above[k + 1, number] = told.above
            if k:
                self._below[k - 1, number] = told.below
        self.tick += 1
        return reports

    def _due(self, k: int, waiting: bool) -> tuple[int, Promise] | None:
        """The target that the synthesizers of a module learn from in this tick, with the batch's number.

        Where no batch is fed any more, there is nothing better to do than to wait.
        """
        for number in sorted(batch for module, batch in self._below if module == k):
            age = self.tick - (number + k * self._travel)
            if age < 2 * self._travel:
                return None
            if self.max_delay is None:
                return number, self._below.pop((k, number))
            if age > self.max_delay:
                del self._below[k, number]
                self.dropped += 1
            elif waiting or self._is_there(self._below[k, number]):
                return number, self._below.pop((k, number))
        return None
